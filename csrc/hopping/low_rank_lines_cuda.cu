// Losses of draws around a centre on the GPU; the CPU's twins are `center`, `atom` and `network` of low_rank_simd.cpp.
#include "low_rank_lines_cuda.hpp"

#include "../common/activation.hpp"
#include "../cuda/occupancy.hpp"
#include "../cuda/reduce.hpp"
#include "../risk/cuda/losses_cuda.hpp"
#include "multiply_cuda.hpp"

namespace cbk::device {
namespace {

constexpr int threads = 128, warps = threads / 32;
constexpr int64_t most_together = 16;       // draws that a block takes one after another
constexpr int64_t enough_works = 1024;      // blocks that fill a card; only shapes enter
constexpr int64_t shared_bytes = 32 << 10;  // of outputs; else these lie in global memory

template <class T>
struct CenterHidden {
  using Sum = T;
  static constexpr bool by_depth = true;
  Lines<T> k;
  const T* x;
  __device__ Extent extent() const { return {k.net.width, k.samples, k.net.inputs}; }
  __device__ T a(int64_t m, int64_t i) const { return k.center[m * k.net.inputs + i]; }
  __device__ T b(int64_t s, int64_t i) const { return x[s * k.net.inputs + i]; }
  __device__ void put(int64_t m, int64_t s, T sum) const {
    const T z = sum + k.center[k.net.biases() + m];
    k.z[m * k.samples + s] = z;
    with_activation(k.net.activation, [&](auto sigma) { k.hidden[m * k.samples + s] = sigma(z); });
  }
};

// A lane has a sample, a warp an output after another.
template <class T>
CBK_KERNEL(256)
center_outputs(Lines<T> k) {
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  const int64_t outputs = k.net.outputs, width = k.net.width, s = int64_t(blockIdx.x) * 32 + lane;
  for (int64_t c = warp; s < k.samples && c < outputs; c += 8) {
    const T* row = k.center + k.net.output_weights() + c * width;
    T sum = 0;
    for (int64_t m = 0; m < width; ++m) sum = mad(row[m], k.hidden[m * k.samples + s], sum);
    const T bias = k.net.output_bias ? k.center[k.net.output_biases() + c] : T(0);
    k.outputs[c * k.samples + s] = mad(sum, T(k.net.scale), bias);
  }
  __syncthreads();
  if (!k.excess || s >= k.samples) return;
  const int32_t label = k.labels[s];
  const bool known = label >= 0 && label < outputs;
  const T own = k.outputs[(known ? label : 0) * k.samples + s];
  T highest = known ? T(0) : T(quiet_nan);
  for (int64_t c = 0; c < outputs; ++c) {
    const T difference = k.outputs[c * k.samples + s] - own;
    highest = highest > difference ? highest : difference > T(0) ? difference : highest;
    if (c % 8 == warp) k.excess[c * k.samples + s] = c == label ? T(0) : exp(difference);
  }
  if (warp == 0) k.highest[s] = highest;
}

// What draw p adds to neuron m's w x + b at sample s where the spread is 1.
template <class T>
__device__ __forceinline__ T added(const Lines<T>& k, int64_t p, int64_t m, int64_t s) {
  T by = k.rest_of(p)[m];
  for (int64_t row = p * k.rank; row < (p + 1) * k.rank; ++row)
    by = mad(k.factor[row * k.net.width + m], k.along[row * k.samples + s], by);
  return by;
}
// The weight c of neuron m and output c in draw p's network; spread: with its sign, 0 for the centre's.
template <class T>
__device__ __forceinline__ T weight_of(const Lines<T>& k, int64_t p, T spread, int64_t m, int64_t c) {
  const int64_t at = c * k.net.width + m;
  return fma(spread, k.rest_of(p)[k.net.width + at], k.center[k.net.output_weights() + at]);
}
template <class T>
__device__ __forceinline__ T activated(const Lines<T>& k, T z) {
  with_activation(k.net.activation, [&](auto sigma) { z = sigma(z); });
  return z;
}

// A neuron replaced by that of one network.
template <class T>
struct Replaced {
  int64_t m, p, s;
  T spread, h, before;  // with its sign; the hidden value now and at the centre
};

// The outputs are functions of this alone.
template <class T>
__device__ __forceinline__ T output_of(const Lines<T>& k, const Replaced<T>& r, int64_t c) {
  const T scale = T(k.net.scale), now = scale * weight_of(k, r.p, r.spread, r.m, c),
          was = scale * k.center[k.net.output_weights() + c * k.net.width + r.m];
  return k.outputs[c * k.samples + r.s] + (now * r.h - was * r.before);
}

// Cross entropy of any outputs.
template <class T>
__device__ T entropy_of(const Lines<T>& k, const Replaced<T>& r) {
  const int64_t outputs = k.net.outputs, label = k.labels[r.s];
  if (label < 0 || label >= outputs) return T(quiet_nan);
  T top = output_of(k, r, 0), others = 0, ties = -1;
  for (int64_t c = 1; c < outputs; ++c) top = max(top, output_of(k, r, c));
  for (int64_t c = 0; c < outputs; ++c) {
    const T z = output_of(k, r, c) - top, is_top = z == 0 ? T(1) : T(0);
    others = others + (exp(z) - is_top), ties = ties + is_top;
  }
  return log1p(others + ties) - (output_of(k, r, label) - top);
}

__device__ __forceinline__ float power_of_two(float x) { return exp2_near(x); }
__device__ __forceinline__ double power_of_two(double x) { return exp(x * 0.69314718055994530942); }

// A sample at the centre as cross entropies read it, which are log1p of sum_k exp(out_k - out_label) over the other k.
template <int held, class T>
struct AtCenter {
  T z, before, highest;
  int label;
  T rest[held], excess[held];  // (c_label - c_k) h, times log2 e; exp(out_k - out_label)
};
template <class T>
constexpr T log2_e = T(1.44269504088896340736);

template <int held, class T>
__device__ __forceinline__ AtCenter<held, T> at_center(const Lines<T>& k, int64_t m, int64_t s) {
  AtCenter<held, T> at;
  at.z = k.z[m * k.samples + s], at.before = k.hidden[m * k.samples + s], at.highest = k.highest[s];
  const int32_t label = k.labels[s], outputs = int32_t(k.net.outputs);
  at.label = label >= 0 && label < outputs ? label : 0;
  const T *c = k.center + k.net.output_weights() + m, h = T(k.net.scale) * log2_e<T> * at.before;
  CBK_UNROLL(10)
  for (int i = 0; i < held; ++i) {
    const bool there = i < outputs;
    at.rest[i] = there ? (c[at.label * k.net.width] - c[i * k.net.width]) * h : T(0);
    at.excess[i] = there ? k.excess[i * k.samples + s] : T(0);
  }
  return at;
}

// What replacing the neuron adds to an exponent is small, and its power of two needs no clamps; else the exact sum is
// taken.  power: [held] weights times scale and log2 e, zeros behind the outputs; spans: largest less smallest weight
// of the centre, and of its noise.
template <int held, class T>
__device__ __forceinline__ T entropy_near(const Lines<T>& k, const AtCenter<held, T>& at, const Replaced<T>& r,
                                          const T* power, T center_span, T noise_span) {
  constexpr T farthest = 30;
  const T most = center_span * abs(r.h - r.before) + noise_span * abs(r.h) + at.highest;
  if (!(most <= farthest)) return entropy_of(k, r);
  const T own = power[at.label] * r.h;
  T sum = 0;
  CBK_UNROLL(10)
  for (int i = 0; i < held; ++i)
    if (i < k.net.outputs) sum = mad(at.excess[i], power_of_two(mad(power[i], r.h, at.rest[i] - own)), sum);
  return log1p(sum);
}

// Largest less smallest of values [outputs] that are `width` apart.
template <class T>
__device__ __forceinline__ T span_of(const T* values, int64_t outputs, int64_t width) {
  T low = values[0], high = values[0];
  for (int64_t c = 1; c < outputs; ++c) {
    const T v = values[c * width];
    low = v < low ? v : low, high = v > high ? v : high;
  }
  return high - low;
}

// A block takes a neuron and some draws, a thread a sample after another.  held: the outputs that fit into registers,
// for cross entropies; 0 for any loss, whose outputs go through g [pitch].
template <int held, class T>
CBK_KERNEL(threads)
atom_losses(Lines<T> k, int64_t together, int64_t works, T* spilled) {
  constexpr int row = held > 0 ? held : 1;
  CBK_SHARED(double, sums, most_together * 2 * warps);
  CBK_SHARED(T, power, most_together * 2 * row);
  CBK_SHARED(T, noise_span, most_together);
  const int64_t outputs = k.net.outputs, width = k.net.width, pitch = outputs | 1;
  const int rank = int(threadIdx.x), signs = int(k.signs());
  const T spread = k.current_spread(), scale = T(k.net.scale);
  T* g = nullptr;
  if constexpr (held == 0) {
    CBK_DYNAMIC_SHARED(T, shared);
    g = spilled ? spilled + (int64_t(blockIdx.x) * threads + rank) * pitch : shared + rank * pitch;
  }
  for (int64_t work = blockIdx.x; work < works; work += gridDim.x) {
    const int64_t m = work % width, first = work / width * together;
    const int count = int(min(together, k.draws - first)), networks = 2 * count;
    T center_span = 0;
    if constexpr (held > 0) {
      for (int i = rank; i < networks * row; i += threads) {
        const int64_t p = first + i / (2 * row), c = i % row;
        const T own = i / row % 2 ? -spread : spread;
        power[i] = c < outputs ? log2_e<T> * (scale * weight_of(k, p, own, m, c)) : T(0);
      }
      for (int p = rank; p < count; p += threads)
        noise_span[p] = abs(scale * spread) * span_of(k.rest_of(first + p) + width + m, outputs, width);
      center_span = scale * span_of(k.center + k.net.output_weights() + m, outputs, width);
    }
    for (int i = rank; i < networks * warps; i += threads) sums[i] = 0;
    __syncthreads();
    for (int64_t s0 = 0; s0 < k.samples; s0 += threads) {
      const bool counts = s0 + rank < k.samples;
      const int64_t s = counts ? s0 + rank : k.samples - 1;
      AtCenter<row, T> at{};
      if constexpr (held > 0)
        at = at_center<row>(k, m, s);
      else
        at.z = k.z[m * k.samples + s], at.before = k.hidden[m * k.samples + s];
      for (int i = 0; i < networks; ++i) {
        if (i % 2 >= signs) continue;
        const T own = i % 2 ? -spread : spread;
        Replaced<T> r{m, first + i / 2, s, own, T(0), at.before};
        r.h = activated(k, mad(own, added(k, r.p, m, s), at.z));
        double loss = 0;
        if constexpr (held > 0) {
          if (counts) loss = double(entropy_near(k, at, r, power + i * row, center_span, noise_span[i / 2]));
        } else if (counts) {
          for (int64_t c = 0; c < outputs; ++c) g[c] = output_of(k, r, c);
          loss = add_any_loss<false>(k.loss, 0.0, static_cast<const T*>(g), outputs, k.y ? k.y + s * outputs : nullptr,
                                     k.labels ? k.labels + s : nullptr, k.weights ? k.weights[s] : T(1), T(0));
        }
        loss = warp_sum(loss);
        if (rank % 32 == 0) sums[i * warps + rank / 32] += loss;
      }
    }
    __syncthreads();
    for (int i = rank; i < networks; i += threads) {
      if (i % 2 >= signs) continue;
      double total = 0;
      for (int w = 0; w < warps; ++w) total += sums[i * warps + w];
      k.out[k.row(first + i / 2, i % 2) * width + m] = total / double(k.samples);
    }
    __syncthreads();
  }
}

// Where sums of losses go: of a draw with a sign, and of a part of the samples.
struct Parts {
  int64_t samples, sign_stride;  // of a part
  double* to;
  double divisor;
};

constexpr int tile_neurons = 32;

// A block takes a network and a part of the samples: outputs `held` at a time.
template <int held, class T>
CBK_KERNEL(threads)
network_losses(Lines<T> k, Parts parts, int64_t works, T* spilled) {
  CBK_SHARED(T, c, held * tile_neurons);
  CBK_DYNAMIC_SHARED(T, shared);
  const int64_t outputs = k.net.outputs, width = k.net.width, pitch = outputs | 1, networks = k.signs() * k.draws;
  const int rank = int(threadIdx.x);
  T* const g = spilled ? spilled + (int64_t(blockIdx.x) * threads + rank) * pitch : shared + rank * pitch;
  for (int64_t work = blockIdx.x; work < works; work += gridDim.x) {
    const int64_t part = work / networks, sign = work % networks / k.draws, p = work % networks % k.draws;
    const int64_t begin = part * parts.samples, end = min(begin + parts.samples, k.samples);
    const T spread = sign ? -k.current_spread() : k.current_spread();
    double total = 0;
    for (int64_t s0 = begin; s0 < end; s0 += threads) {
      const bool counts = s0 + rank < end;
      const int64_t s = counts ? s0 + rank : end - 1;
      for (int64_t c0 = 0; c0 < outputs; c0 += held) {
        T sums[held] = {};
        for (int64_t m0 = 0; m0 < width; m0 += tile_neurons) {
          const int neurons = int(min(width - m0, int64_t(tile_neurons)));
          __syncthreads();
          for (int i = rank; i < held * tile_neurons; i += threads) {
            const int64_t o = c0 + i / tile_neurons, m = m0 + i % tile_neurons;
            c[i] = o < outputs && m < width ? weight_of(k, p, spread, m, o) : T(0);
          }
          __syncthreads();
          for (int m = 0; m < neurons; ++m) {
            const T h = activated(k, mad(spread, added(k, p, m0 + m, s), k.z[(m0 + m) * k.samples + s]));
            CBK_UNROLL(10)
            for (int o = 0; o < held; ++o) sums[o] = mad(c[o * tile_neurons + m], h, sums[o]);
          }
        }
        CBK_UNROLL(10)
        for (int o = 0; o < held; ++o) {
          if (c0 + o >= outputs) continue;
          const int64_t at = k.net.output_biases() + c0 + o;
          const T bias = k.net.output_bias ? fma(spread, k.rest_of(p)[at - k.net.biases()], k.center[at]) : T(0);
          g[c0 + o] = mad(sums[o], T(k.net.scale), bias);
        }
      }
      if (counts)
        total = add_any_loss<false>(k.loss, total, static_cast<const T*>(g), outputs, k.y ? k.y + s * outputs : nullptr,
                                    k.labels ? k.labels + s : nullptr, k.weights ? k.weights[s] : T(1), T(0));
    }
    total = block_sum(total);
    if (rank == 0) parts.to[sign * parts.sign_stride + part * k.draws + p] = total / parts.divisor;
  }
}

// A kernel's blocks, with memory for their threads' outputs: in shared memory where these are few.
template <class T, class F>
void with_outputs(const Lines<T>& k, int64_t works, const void* kernel, cudaStream_t stream, F&& start) {
  const int64_t numbers = threads * (k.net.outputs | 1);
  const bool spills = numbers * int64_t(sizeof(T)) > shared_bytes;
  const size_t shared = spills ? sizeof(T) : size_t(numbers) * sizeof(T);
  const int64_t blocks = std::min(works, held_blocks_of(kernel, threads, shared));
  Workspace<T> spilled(spills ? blocks * numbers : 0, stream);
  start(dim3(unsigned(blocks)), shared, spilled.data());
}

}  // namespace

template <class T>
Lines<T> center_lines(const RiskProblem<T>& problem, int64_t rank, const T* weights, const CenterMemory<T>& memory,
                      cudaStream_t stream) {
  const Draw<T>& draw = *problem.draw;
  Lines<T> k{};
  k.net = problem.net, k.loss = problem.loss, k.center = draw.center;
  k.samples = problem.samples, k.y = problem.y, k.labels = problem.labels, k.weights = weights;
  k.z = memory.z.data(), k.hidden = memory.hidden.data(), k.outputs = memory.outputs.data();
  k.excess = memory.excess.data(), k.highest = memory.highest.data();
  k.mirrored = draw.mirrored, k.spread = draw.spread, k.now = draw.now, k.rank = rank;
  multiply(CenterHidden<T>{k, problem.x}, {k.net.width, k.samples, k.net.inputs}, 1, stream);
  launch(center_outputs<T>, dim3(unsigned(blocks_for(k.samples, 32))), dim3(256), 0, stream, k);
  return k;
}

template <class T>
void launch_atoms(const Lines<T>& k, cudaStream_t stream) {
  const int64_t width = k.net.width, outputs = k.net.outputs;
  const int64_t together = std::clamp(k.draws * width / enough_works, int64_t(1), most_together);
  const int64_t works = blocks_for(k.draws, together) * width;
  const bool entropy = k.loss.kind == LossKind::cross_entropy && !k.weights && outputs <= 10;
  constexpr int few = sizeof(T) == 4 ? 4 : 10;  // for four outputs in float64 registers are spilled
  if (entropy)
    return launch(outputs <= few ? atom_losses<few, T> : atom_losses<10, T>, dim3(unsigned(works)), dim3(threads), 0,
                  stream, k, together, works, static_cast<T*>(nullptr));
  with_outputs(k, works, reinterpret_cast<const void*>(atom_losses<0, T>), stream,
               [&](dim3 grid, size_t shared, T* spilled) {
    launch(atom_losses<0, T>, grid, dim3(threads), shared, stream, k, together, works, spilled);
  });
}

template <class T>
void launch_networks(const Lines<T>& k, cudaStream_t stream) {
  const int64_t tiles = blocks_for(k.samples, threads), networks = k.signs() * k.draws, all = k.rows / k.signs();
  const int64_t wanted = std::clamp(enough_works / k.rows, int64_t(1), tiles), each = blocks_for(tiles, wanted);
  const int64_t count = blocks_for(tiles, each);
  Workspace<double> partial(count > 1 ? count * networks : 0, stream);
  Parts parts{each * threads, all, k.out + k.first, double(k.samples)};
  if (count > 1) parts = {each * threads, count * k.draws, partial.data(), 1};
  const auto kernel = k.net.outputs <= 4 ? network_losses<4, T> : network_losses<10, T>;
  with_outputs(k, count * networks, reinterpret_cast<const void*>(kernel), stream,
               [&](dim3 grid, size_t shared, T* spilled) {
    launch(kernel, grid, dim3(threads), shared, stream, k, parts, count * networks, spilled);
  });
  for (int64_t sign = 0; count > 1 && sign < k.signs(); ++sign)
    launch_add_parts(partial.data() + sign * count * k.draws, count, k.draws, double(k.samples),
                     k.out + sign * all + k.first, int64_t(1), stream);
}

#define CBK_INSTANTIATE(T) \
  template Lines<T> center_lines(const RiskProblem<T>&, int64_t, const T*, const CenterMemory<T>&, cudaStream_t); \
  template void launch_atoms(const Lines<T>&, cudaStream_t); \
  template void launch_networks(const Lines<T>&, cudaStream_t);
CBK_INSTANTIATE(float)
CBK_INSTANTIATE(double)
#undef CBK_INSTANTIATE

}  // namespace cbk::device
