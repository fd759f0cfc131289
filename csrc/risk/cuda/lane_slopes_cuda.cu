// Sums over samples for networks with one output and few inputs; gradient_cuda.cu says of what.
//
// A lane has a neuron, and goes past samples that a block reads from shared memory together: pre-activations are formed
// anew, and nothing is stored or shuffled between lanes.
#include "gradient_cuda.hpp"

#include "../../common/activation.hpp"

namespace cbk::device {
namespace {

constexpr int threads = 128, samples = 64;  // of a tile, whose sums in T are added to the chunk's

template <class T, int inputs>
struct LaneSums {
  T slopes[inputs], slope = 0, weighted = 0;  // of delta x, delta, e h

  template <class Sigma>
  __device__ __forceinline__ void add_tile(Sigma sigma, const T (&w)[inputs], T bias, T c, const T* x, const T* e,
                                           int count) {
    struct alignas(inputs * sizeof(T) < 16 ? inputs * sizeof(T) : 16) Sample {
      T value[inputs];
    };
    for (int s = 0; s < count; ++s) {
      const Sample own = reinterpret_cast<const Sample*>(x)[s];
      T z = bias, derivative;
      CBK_UNROLL(16)
      for (int k = 0; k < inputs; ++k) z = mad(w[k], own.value[k], z);
      const T h = sigma(z, derivative), delta = c * e[s] * derivative;
      CBK_UNROLL(16)
      for (int k = 0; k < inputs; ++k) slopes[k] = mad(delta, own.value[k], slopes[k]);
      slope = slope + delta, weighted = mad(e[s], h, weighted);
    }
  }
};

template <class T, int inputs>
CBK_KERNEL(threads)
lane_slopes(Batch<T> b, T* sums) {
  CBK_SHARED(double2, x_memory, samples * inputs * sizeof(T) / sizeof(double2));  // aligned
  CBK_SHARED(T, e, samples);
  T* const x = reinterpret_cast<T*>(&x_memory[0]);
  const int64_t d = b.net.inputs, width = b.net.width, lines = 2 + d;
  const unsigned chunks = unsigned(blocks_for(b.samples, lane_chunk)), pieces = unsigned(blocks_for(width, threads));
  for (int64_t item = blockIdx.x; item < int64_t(chunks) * pieces * b.particles; item += gridDim.x) {
    const int64_t chunk = item % chunks, particle = item / chunks / pieces;
    const int64_t m = item / chunks % pieces * threads + threadIdx.x, end = min(b.samples, (chunk + 1) * lane_chunk);
    const bool there = m < width;
    const T *theta = b.theta + particle * b.size, *slopes = b.slopes + particle * b.samples;
    T w[inputs];
    for (int k = 0; k < inputs; ++k) w[k] = there && k < d ? theta[m * d + k] : T(0);
    const T bias = there ? theta[b.net.biases() + m] : T(0), c = there ? theta[b.net.output_weights() + m] : T(0);
    LaneSums<T, inputs> total{};
    for (int64_t s0 = chunk * lane_chunk; s0 < end; s0 += samples) {
      __syncthreads();
      for (int i = int(threadIdx.x); i < samples * inputs; i += threads) {
        const int64_t s = s0 + i / inputs;
        x[i] = s < end && i % inputs < d ? b.x[s * d + i % inputs] : T(0);
      }
      if (threadIdx.x < samples) e[threadIdx.x] = s0 + threadIdx.x < end ? slopes[s0 + threadIdx.x] : T(0);
      __syncthreads();
      LaneSums<T, inputs> part{};
      const int count = int(min(end - s0, int64_t(samples)));
      with_activation(b.net.activation, [&](auto sigma) { part.add_tile(sigma, w, bias, c, x, e, count); });
      for (int k = 0; k < inputs; ++k) total.slopes[k] = total.slopes[k] + part.slopes[k];
      total.slope = total.slope + part.slope, total.weighted = total.weighted + part.weighted;
    }
    if (!there) continue;
    const T scale = T(b.net.scale);
    T* to = sums + ((chunk * b.particles + particle) * width + m) * lines;
    to[0] = scale * total.weighted, to[1] = scale * total.slope;
    for (int k = 0; k < inputs; ++k)
      if (k < d) to[2 + k] = scale * total.slopes[k];
  }
}

}  // namespace

template <class T>
int64_t launch_lane_slopes(const Batch<T>& b, T* sums, cudaStream_t stream) {
  const int64_t chunks = blocks_for(b.samples, lane_chunk),
                items = chunks * b.particles * blocks_for(b.net.width, threads);
  const auto start = [&](auto kernel) {
    launch(kernel, dim3(unsigned(std::min(items, int64_t(1) << 30))), dim3(threads), 0, stream, b, sums);
  };
  if (b.net.inputs == 1)
    start(lane_slopes<T, 1>);
  else if (b.net.inputs <= 4)
    start(lane_slopes<T, 4>);
  else
    start(lane_slopes<T, int(slope_inputs)>);
  return chunks;
}

template int64_t launch_lane_slopes(const Batch<float>&, float*, cudaStream_t);
template int64_t launch_lane_slopes(const Batch<double>&, double*, cudaStream_t);

}  // namespace cbk::device
