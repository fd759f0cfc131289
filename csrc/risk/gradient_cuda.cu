// Gradients of risks on the GPU; the CPU's twin is gradient_cpu.cpp.
//
// A block takes a group of particles and a chunk of samples: for each tile the outputs and their slopes e, then the
// neurons' slopes delta, 32 samples at a time in shared memory, and from them the sums over samples.  Formulas:
// gradient_simd.cpp.
#include "risk_cuda.hpp"
#include "tile_cuda.hpp"

namespace cbk::device {
namespace {

// Outputs become slopes, 0 where there is no sample; losses are added as in add_losses.
template <class T>
__device__ void add_slopes(const Batch<T>& b, const Place<T>& p, T* outs, int64_t first, int64_t chunk, bool fresh) {
  const unsigned rank = thread_rank(), lane = rank % 32;
  for (int64_t particle = rank / 32; particle < p.count; particle += Tile<T>::threads / 32) {
    double total = 0;
    for (int64_t s = lane; s < b.tile; s += 32) {
      T* g = outs + (particle * b.tile + s) * b.pitch;
      if (s < p.valid)
        total = add_loss_slope(b, total, g, p.s0 + s);
      else
        for (int64_t c = 0; c < b.net.outputs; ++c) g[c] = 0;
    }
    total = warp_sum(total);
    double* sum = b.partial + chunk * b.particles + first + particle;
    if (lane == 0) *sum = fresh ? total : *sum + total;
  }
  __syncthreads();
}

// sum over the round's samples of outs-slopes times held activations: dR/dc of the tile's neurons.
template <class T>
__device__ void add_output_weights(const Batch<T>& b, const Place<T>& p, const T* held, const T* slopes, int round,
                                   T* gradient) {
  using K = Tile<T>;
  const int64_t width = b.net.width, outputs = b.net.outputs;
  for (int64_t item = thread_rank(); item < p.neurons * outputs; item += K::threads) {
    const int64_t column = item % p.neurons, c = item / p.neurons, q = p.q0 + column, particle = q / width;
    T total = 0;
    for (int r = 0; r < K::held; ++r)
      total = mad(slopes[(particle * b.tile + held_sample<T>(round, r)) * b.pitch + c], held[r * K::held_pitch + column], total);
    T& sum = gradient[particle * b.size + b.net.output_weights() + c * width + q % width];
    sum = mad(T(b.net.scale), total, sum);
  }
}

// held becomes delta = scale (sum_c c_cm e_cs) sigma'(z).
template <class T>
__device__ void hold_delta(const Batch<T>& b, const Place<T>& p, const T (&z)[Tile<T>::micro][Tile<T>::micro], T* held,
                           const T* slopes, int round) {
  using K = Tile<T>;
  with_activation(b.net.activation, [&](auto tag) {
    hold_round(round, z, held, [&](T v, int column) {
      T derivative;
      activate<decltype(tag)::value>(v + bias_of(b, p, column), derivative);
      return derivative;
    });
  });
  const int64_t width = b.net.width;
  for (int e = 0; e < 2 * K::micro; ++e) {  // each thread what it wrote
    const int column = K::row(int(threadIdx.x), e / 2), r = 2 * int(threadIdx.y) + e % 2;
    T total = 0;
    if (column < p.neurons) {
      const int64_t q = p.q0 + column, particle = q / width;
      const T* weights = p.theta + particle * b.size + b.net.output_weights() + q % width;
      const T* slope = slopes + (particle * b.tile + held_sample<T>(round, r)) * b.pitch;
      for (int64_t c = 0; c < b.net.outputs; ++c) total = mad(weights[c * width], slope[c], total);
    }
    T& value = held[r * K::held_pitch + column];
    value = total * value * T(b.net.scale);
  }
}

// dR/dw and dR/db += sums over the round's samples of delta x and delta.
template <class T>
__device__ void add_input_weights(const Batch<T>& b, const Place<T>& p, const T* held, int round, T* gradient) {
  using K = Tile<T>;
  const int64_t d = b.net.inputs, width = b.net.width, valid = p.valid;
  // lanes go along the inputs where these are many, else along the neurons
  const int64_t across = d < 32 ? 1 : 4, quads = (d + across - 1) / across;
  for (int64_t item = thread_rank(); item < p.neurons * quads; item += K::threads) {
    const int64_t column = d < 32 ? item % p.neurons : item / quads;
    const int64_t k = d < 32 ? item / p.neurons : item % quads;
    T total[4] = {};
    for (int r = 0; r < K::held; ++r) {
      const int s = held_sample<T>(round, r);
      if (s >= valid) continue;
      const T delta = held[r * K::held_pitch + column];
      const T* x = b.x + (p.s0 + s) * d;
      CBK_UNROLL(4)
      for (int j = 0; j < 4; ++j)
        if (j < across && k + j * quads < d) total[j] = mad(delta, x[k + j * quads], total[j]);
    }
    const int64_t q = p.q0 + column;
    T* sum = gradient + q / width * b.size + q % width * d;
    for (int j = 0; j < 4; ++j)
      if (j < across && k + j * quads < d) sum[k + j * quads] += total[j];
  }
  for (int64_t column = thread_rank(); column < p.neurons; column += K::threads) {
    T total = 0;
    for (int r = 0; r < K::held; ++r) total += held[r * K::held_pitch + column];
    const int64_t q = p.q0 + column;
    gradient[q / width * b.size + b.net.biases() + q % width] += total;
  }
}

template <class T>
__device__ void add_neurons(const Batch<T>& b, const Place<T>& p, const T (&z)[Tile<T>::micro][Tile<T>::micro], T* held,
                            const T* slopes, T* gradient) {
  for (int round = 0; round < Tile<T>::rounds; ++round) {
    with_activation(b.net.activation, [&](auto tag) {
      hold_round(round, z, held, [&](T v, int column) { return activate<decltype(tag)::value>(v + bias_of(b, p, column)); });
    });
    __syncthreads();
    add_output_weights(b, p, held, slopes, round, gradient);
    __syncthreads();
    hold_delta(b, p, z, held, slopes, round);
    __syncthreads();
    add_input_weights(b, p, held, round, gradient);
    __syncthreads();
  }
}

template <class T>
CBK_KERNEL(Tile<T>::threads) tiled_gradients(Batch<T> b, T* gradients) {
  using K = Tile<T>;
  CBK_DYNAMIC_SHARED(T, shared);
  T* outs = b.outputs ? b.outputs + int64_t(blockIdx.x) * b.group * b.tile * b.pitch : shared + K::shared;
  for (int64_t work = blockIdx.x; work < b.groups * b.chunks; work += gridDim.x) {
    const int64_t first = work / b.chunks * b.group, chunk = work % b.chunks;
    const int64_t count = min(b.group, b.particles - first), end = min((chunk + 1) * b.chunk, b.samples);
    T* gradient = gradients + (chunk * b.particles + first) * b.size;
    for (int64_t i = thread_rank(); i < count * b.size; i += K::threads) gradient[i] = 0;
    Place<T> p{b.theta + first * b.size, count, 0, 0, 0, 0};
    for (p.s0 = chunk * b.chunk; p.s0 < end; p.s0 += b.tile) {
      p.valid = min(b.tile, end - p.s0);
      T z[K::micro][K::micro];
      tile_outputs(b, p, shared, outs, z);
      add_slopes(b, p, outs, first, chunk, p.s0 == chunk * b.chunk);
      for (int64_t i = thread_rank(); b.net.output_bias && i < count * b.net.outputs; i += K::threads) {
        const int64_t particle = i / b.net.outputs, c = i % b.net.outputs;
        T total = 0;
        for (int64_t s = 0; s < p.valid; ++s) total += outs[(particle * b.tile + s) * b.pitch + c];
        gradient[particle * b.size + b.net.output_biases() + c] += total;
      }
      const int64_t neurons = count * b.net.width;
      for (p.q0 = 0; p.q0 < neurons; p.q0 += K::side) {
        p.neurons = min(neurons - p.q0, int64_t(K::side));
        if (neurons > K::side) tile_sums(b, p, shared, z);  // else z still holds them
        add_neurons(b, p, z, shared, outs, gradient);
      }
    }
    __syncthreads();
  }
}

}  // namespace

template <class T>
void risk_gradient(const RiskProblem<T>& problem, double* out, T* gradient, CudaStream on) {
  const cudaStream_t stream = native(on);
  Batch<T> b = batch_of(problem);
  const int64_t shared = plan_tiles(b), tiles = blocks_for(b.samples, b.tile), all = b.particles * b.size;
  // chunks of samples where the particles are few, as far as 256 MB of partial gradients go
  const int64_t wanted = std::max(enough_blocks / b.groups, int64_t(1));
  const int64_t most = std::max((int64_t(256) << 20) / (all * int64_t(sizeof(T))), int64_t(1));
  b.chunk = blocks_for(tiles, std::min({tiles, wanted, most})) * b.tile, b.chunks = blocks_for(b.samples, b.chunk);
  const bool spills = shared == Tile<T>::shared;
  const int64_t blocks = std::min(b.groups * b.chunks, spills ? int64_t(1024) : int64_t(1) << 30);
  Workspace<T> outputs(spills ? blocks * b.group * b.tile * b.pitch : 0, stream);
  Workspace<T> parts(b.chunks > 1 ? b.chunks * all : 0, stream);
  Workspace<double> partial(b.chunks * b.particles, stream);
  b.outputs = outputs.data(), b.partial = partial.data();
  T* sums = b.chunks > 1 ? parts.data() : gradient;  // [chunks][particles][size]
  launch(tiled_gradients<T>, dim3(unsigned(blocks)), dim3(16, 16), size_t(shared) * sizeof(T), stream, b, sums);
  launch(add_chunks<double, double>, dim3(unsigned(blocks_for(b.particles, 256))), dim3(256), 0, stream,
         static_cast<const double*>(partial.data()), b.chunks, b.particles, double(b.samples), out, int64_t(1));
  if (b.chunks > 1)
    launch(add_chunks<T, T>, dim3(unsigned(blocks_for(all, 256))), dim3(256), 0, stream,
           static_cast<const T*>(parts.data()), b.chunks, all, T(1), gradient, int64_t(1));
}

template void risk_gradient(const RiskProblem<float>&, double*, float*, CudaStream);
template void risk_gradient(const RiskProblem<double>&, double*, double*, CudaStream);

}  // namespace cbk::device
