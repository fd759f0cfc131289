// Hidden layers of a tile: `side` samples by `side` neurons, a product through shared memory with the epilogue on the
// tile.
//
// 16 x 16 threads hold micro x micro sums each.  Activations go through shared memory 32 samples at a time and nowhere
// else.  Neurons are counted through the block's particles: neuron q is neuron q % width of particle q / width.
#pragma once

#include "batch_cuda.hpp"

#include "../../common/activation.hpp"

namespace cbk::device {

template <class T>
struct Tile {
  static constexpr int threads = 256, depth = 8, held = 32;
  static constexpr int micro = sizeof(T) == 4 ? 8 : 4, side = 16 * micro;
  static constexpr int vector = 16 / sizeof(T);  // numbers of one access
  static constexpr int staged_pitch = side + vector, held_pitch = side + 1;
  static constexpr int rounds = side / held;
  static constexpr int64_t shared = std::max(4 * depth * staged_pitch, held* held_pitch);  // elements
  static constexpr int64_t outputs_bytes = (48 << 10) - shared * int64_t(sizeof(T)) - 512;

  // Row i of a thread's sums is this row of the tile.
  static __device__ __forceinline__ int row(int thread, int i) {
    return i / vector * 16 * vector + thread * vector + i % vector;
  }
};

// z = sum over k of a(row, k) b(column, k), by parts of 256 terms; rows(r) and columns(c) give addresses of k = 0, or
// nullptr for zeros.
template <class T, class Rows, class Columns>
__device__ __forceinline__ void tile_product(Rows&& rows, Columns&& columns, int64_t depth, T* staged,
                                             T (&z)[Tile<T>::micro][Tile<T>::micro]) {
  using K = Tile<T>;
  constexpr int loads = K::side * K::depth / K::threads, buffer = 2 * K::depth * K::staged_pitch;
  const int rank = int(thread_rank()), k = rank % K::depth;
  const T *a[loads], *b[loads];
  CBK_UNROLL(8)
  for (int j = 0; j < loads; ++j) {
    const int r = (rank + j * K::threads) / K::depth;
    a[j] = rows(r), b[j] = columns(r);
  }
  T next_a[loads], next_b[loads];
  const auto fetch = [&](int64_t k0) {
    CBK_UNROLL(8)
    for (int j = 0; j < loads; ++j) {
      next_a[j] = a[j] && k0 + k < depth ? a[j][k0 + k] : T(0);
      next_b[j] = b[j] && k0 + k < depth ? b[j][k0 + k] : T(0);
    }
  };
  const auto stage = [&](T* to) {
    CBK_UNROLL(8)
    for (int j = 0; j < loads; ++j) {
      const int r = (rank + j * K::threads) / K::depth;
      to[k * K::staged_pitch + r] = next_a[j], to[(K::depth + k) * K::staged_pitch + r] = next_b[j];
    }
  };
  T part[K::micro][K::micro] = {};
  CBK_UNROLL(8)
  for (int i = 0; i < K::micro; ++i)
    for (int j = 0; j < K::micro; ++j) z[i][j] = 0;
  const auto step = [&](const T* from, int at) {
    T u[K::micro], v[K::micro];
    CBK_UNROLL(8)
    for (int i = 0; i < K::micro; ++i) {
      u[i] = from[at * K::staged_pitch + K::row(int(threadIdx.y), i)];
      v[i] = from[(K::depth + at) * K::staged_pitch + K::row(int(threadIdx.x), i)];
    }
    CBK_UNROLL(8)
    for (int i = 0; i < K::micro; ++i) {
      CBK_UNROLL(8)
      for (int j = 0; j < K::micro; ++j) part[i][j] = mad(u[i], v[j], part[i][j]);
    }
  };
  fetch(0), stage(staged);
  __syncthreads();
  for (int64_t k0 = 0; k0 < depth; k0 += K::depth) {
    const int parity = int(k0 / K::depth % 2);
    const bool more = k0 + K::depth < depth;
    if (more) fetch(k0 + K::depth);
    const T* from = staged + parity * buffer;
    if (more) {
      CBK_UNROLL(8)
      for (int at = 0; at < K::depth; ++at) step(from, at);
      stage(staged + (1 - parity) * buffer);
    } else {
      for (int at = 0; at < int(depth - k0); ++at) step(from, at);
    }
    if (!more || (k0 / K::depth + 1) % (256 / K::depth) == 0) {
      CBK_UNROLL(8)
      for (int i = 0; i < K::micro; ++i) {
        CBK_UNROLL(8)
        for (int j = 0; j < K::micro; ++j) z[i][j] += part[i][j], part[i][j] = 0;
      }
    }
    __syncthreads();
  }
}

// One tile of a block's work.
template <class T>
struct Place {
  const T* theta;  // the block's first particle
  int count;       // its particles
  int64_t s0;      // samples from s0 on
  int valid;
  int64_t q0;  // neurons from q0 on, at most a tile's columns
  int neurons;
  int64_t first = 0;  // the first particle's number in the batch
};

// Pre-activations without bias.
template <class T>
__device__ __forceinline__ void tile_sums(const Batch<T>& b, const Place<T>& p, T* staged,
                                          T (&z)[Tile<T>::micro][Tile<T>::micro]) {
  const int64_t d = b.net.inputs, width = b.net.width;
  tile_product([&](int r) -> const T* { return r < p.valid ? b.x + (p.s0 + r) * d : nullptr; }, [&](int r) -> const T* {
    const int64_t q = p.q0 + r;
    return r < p.neurons ? p.theta + q / width * b.size + q % width * d : nullptr;
  }, d, staged, z);
}

// The round's 32 samples of v to held[32][held_pitch], each through f(value, neuron of the tile, row); no barrier.
template <class T, class F>
__device__ __forceinline__ void hold_round(int round, const T (&v)[Tile<T>::micro][Tile<T>::micro], T* held, F&& f) {
  using K = Tile<T>;
  CBK_UNROLL(8)
  for (int h = 0; h < K::rounds; ++h) {
    if (h != round) continue;
    CBK_UNROLL(2)
    for (int i = 0; i < 2; ++i) {
      CBK_UNROLL(8)
      for (int j = 0; j < K::micro; ++j)
        held[(2 * int(threadIdx.y) + i) * K::held_pitch + K::row(int(threadIdx.x), j)] = v[2 * h + i][j];
    }
  }
  for (int e = 0; e < 2 * K::micro; ++e) {
    const int column = K::row(int(threadIdx.x), e / 2), r = 2 * int(threadIdx.y) + e % 2;
    T& value = held[r * K::held_pitch + column];
    value = f(value, column, r);
  }
}

// The sample of the tile that row r of a round is.
template <class T>
__device__ __forceinline__ int held_sample(int round, int r) {
  return Tile<T>::row(r / 2, 2 * round + r % 2);
}

template <class T>
__device__ __forceinline__ T bias_of(const Batch<T>& b, const Place<T>& p, int column) {
  if (column >= p.neurons) return T(0);
  const unsigned q = unsigned(p.q0) + unsigned(column), width = unsigned(b.net.width);
  return p.theta[q / width * b.size + b.net.biases() + q % width];
}

// Keeps a pre-activation where a gradient wants it.
template <class T>
__device__ __forceinline__ void store_hidden(const Batch<T>& b, const Place<T>& p, int column, int sample, T z) {
  if (b.hidden && column < p.neurons && sample < p.valid)
    b.hidden[(p.first * b.net.width + p.q0 + column) * b.hidden_pitch + p.s0 + sample] = z;
}

// outs += the tile's neurons' part of sum_m c_m sigma(w_m x + b_m).
template <class T>
__device__ void add_hidden(const Batch<T>& b, const Place<T>& p, const T (&z)[Tile<T>::micro][Tile<T>::micro], T* held,
                           T* outs) {
  using K = Tile<T>;
  const int64_t width = b.net.width, outputs = b.net.outputs;
  for (int round = 0; round < K::rounds; ++round) {
    with_activation(b.net.activation, [&](auto sigma) {
      hold_round(round, z, held, [&](T v, int column, int r) {
        v = v + bias_of(b, p, column);
        store_hidden(b, p, column, held_sample<T>(round, r), v);
        return sigma(v);
      });
    });
    __syncthreads();
    const int64_t items = p.count * outputs * K::held;
    for (int64_t item = thread_rank(); item < items; item += K::threads) {
      const int r = int(item % K::held);
      const int64_t c = item / K::held % outputs, particle = item / K::held / outputs;
      const int64_t begin = max(particle * width, p.q0), end = min((particle + 1) * width, p.q0 + p.neurons);
      const T* weights = p.theta + particle * b.size + b.net.output_weights() + c * width - particle * width;
      T total = 0;
      for (int64_t q = begin; q < end; ++q) total = mad(weights[q], held[r * K::held_pitch + q - p.q0], total);
      outs[(particle * b.tile + held_sample<T>(round, r)) * b.pitch + c] += total;
    }
    __syncthreads();
  }
}

// g = scale * sum (+ a) in place.
template <class T>
__device__ void scale_tile(const Batch<T>& b, const T* theta, int64_t count, int64_t valid, T* outs) {
  const int64_t outputs = b.net.outputs;
  const unsigned tile = unsigned(b.tile);
  for (unsigned item = thread_rank(); item < unsigned(count) * tile; item += blockDim.x * blockDim.y) {
    const unsigned particle = item / tile, s = item % tile;
    if (s >= valid) continue;
    T* g = outs + (int64_t(particle) * tile + s) * b.pitch;
    const T* bias = theta + particle * b.size + b.net.output_biases();
    for (int64_t c = 0; c < outputs; ++c) g[c] = mad(g[c], T(b.net.scale), b.net.output_bias ? bias[c] : T(0));
  }
  __syncthreads();
}

// Outputs of `count` particles on a tile's samples; z keeps the sums of the last neurons.
template <class T>
__device__ void tile_outputs(const Batch<T>& b, Place<T> p, T* shared, T* outs,
                             T (&z)[Tile<T>::micro][Tile<T>::micro]) {
  for (int64_t i = thread_rank(); i < p.count * b.tile * b.pitch; i += Tile<T>::threads) outs[i] = 0;
  __syncthreads();
  const int64_t neurons = p.count * b.net.width;
  for (p.q0 = 0; p.q0 < neurons; p.q0 += Tile<T>::side) {
    p.neurons = int(min(neurons - p.q0, int64_t(Tile<T>::side)));
    tile_sums(b, p, shared, z);
    add_hidden(b, p, z, shared, outs);
  }
  scale_tile(b, p.theta, p.count, p.valid, outs);
}

// The work of a block: Forward::outputs forms the outputs of its particles on a tile of samples, and these go where
// they are wanted.  `spills`: they lie in global memory; the compiler is to know which memory it is.  `free` is shared
// memory for so many numbers while losses are summed.
template <class Forward, bool spills, class T>
__device__ __forceinline__ void run_block(const Batch<T>& b, T* out, T* shared, T* in_shared, T* free,
                                          int64_t numbers) {
  const Room room{reinterpret_cast<double*>(free), unsigned(numbers * sizeof(T) / sizeof(double)) / most_threads};
  T* const outs = spills ? b.outputs + int64_t(blockIdx.x) * b.group * b.tile * b.pitch : in_shared;
  for (int64_t work = blockIdx.x; work < b.groups * b.chunks; work += gridDim.x) {
    const unsigned chunks = unsigned(b.chunks);  // particles are counted in 32 bits: so are a card's divisions faster
    const int64_t first = unsigned(work) / chunks * b.group, chunk = unsigned(work) % chunks;
    const int64_t count = min(b.group, b.particles - first), end = min((chunk + 1) * b.chunk, b.samples);
    Place<T> p{particles_of(b, first, count), int(count), 0, 0, 0, 0, first};
    for (p.s0 = chunk * b.chunk; p.s0 < end; p.s0 += b.tile) {
      p.valid = int(min(b.tile, end - p.s0));
      Forward::outputs(b, p, shared, outs);
      const TileOfChunk tile{p.s0, p.valid, chunk, p.s0 == chunk * b.chunk, p.s0 + b.tile >= end};
      if (out) {
        const int64_t outputs = b.net.outputs, items = count * p.valid * outputs;
        for (int64_t item = thread_rank(); item < items; item += blockDim.x * blockDim.y) {
          const int64_t c = item % outputs, s = item / outputs % p.valid, particle = item / outputs / p.valid;
          out[((first + particle) * b.samples + p.s0 + s) * outputs + c] = outs[(particle * b.tile + s) * b.pitch + c];
        }
      } else if (b.slopes) {
        add_slopes(b, outs, first, count, tile, room);
      } else {
        add_losses(b, outs, first, count, tile, room);
      }
      __syncthreads();
    }
  }
}

// Fills in how a batch is divided among blocks of the tiled kernels.
template <class T>
Launch plan_tiles(Batch<T>& b) {
  using K = Tile<T>;
  b.tile = K::side;
  const int64_t row = b.tile * b.pitch, room = K::outputs_bytes / int64_t(sizeof(T));
  b.group = std::clamp(std::min(K::side / b.net.width, room / row), int64_t(1), b.particles);
  const bool spills = b.group * row > room;
  return {K::shared + (spills ? 0 : b.group * row), spills, 0};
}

}  // namespace cbk::device
