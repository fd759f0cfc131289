// The neurons' slopes and the sums over samples that have few terms; gradient_cuda.cu says of what.
#include "gradient_cuda.hpp"

#include "../../common/activation.hpp"

namespace cbk::device {
namespace {

constexpr int quad = 4, runs = 4;  // neurons of a warp, and samples of a lane, that are held at once
constexpr int warps = 4;

// Sums over the warp of v[0..3]; a lane gets that of v[lane / 8].
template <class T>
__device__ __forceinline__ T warp_sums(const T (&v)[quad], int lane) {
  const bool upper = lane & 16, odd = lane & 8;
  T kept[2];
  CBK_UNROLL(2)
  for (int i = 0; i < 2; ++i) kept[i] = (upper ? v[2 + i] : v[i]) + __shfl_xor_sync(~0u, upper ? v[i] : v[2 + i], 16);
  T sum = (odd ? kept[1] : kept[0]) + __shfl_xor_sync(~0u, odd ? kept[0] : kept[1], 8);
  for (int flip = 4; flip; flip >>= 1) sum += __shfl_xor_sync(~0u, sum, flip);
  return sum;
}

// A warp's four neurons on 128 samples.
template <class T>
struct Block {
  const Batch<T>& b;
  const T* columns;
  int64_t particle, m0;  // neurons m0 ... of the particle
  int64_t s0;
  int lane;
  using Values = T[quad][runs];

  __device__ __forceinline__ bool has(int m) const { return m0 + m < b.net.width; }
  __device__ __forceinline__ int64_t sample(int r) const { return s0 + lane + 32 * r; }
  __device__ __forceinline__ const T* theta() const { return b.theta + particle * b.size; }
  __device__ __forceinline__ int64_t hidden(int m, int r) const {
    return (particle * b.net.width + m0 + m) * b.hidden_pitch + sample(r);
  }
  // Of line l [.., stride]: the lane's samples, zeros behind the last.
  __device__ __forceinline__ void load_line(const T* line, T (&v)[runs]) const {
    CBK_UNROLL(4)
    for (int r = 0; r < runs; ++r) v[r] = sample(r) < b.samples ? line[sample(r)] : T(0);
  }

  __device__ void load_hidden(Values& z) const {
    const int64_t d = b.net.inputs;
    CBK_UNROLL(4)
    for (int m = 0; m < quad; ++m) {
      const T bias = has(m) && !b.hidden ? theta()[b.net.biases() + m0 + m] : T(0);
      CBK_UNROLL(4)
      for (int r = 0; r < runs; ++r)
        z[m][r] = b.hidden && has(m) && sample(r) < b.samples ? b.hidden[hidden(m, r)] : bias;
    }
    for (int64_t k = 0; !b.hidden && k < d; ++k) {
      T x[runs];
      load_line(columns + k * b.hidden_pitch, x);
      CBK_UNROLL(4)
      for (int m = 0; m < quad; ++m) {
        const T w = has(m) ? theta()[(m0 + m) * d + k] : T(0);
        CBK_UNROLL(4)
        for (int r = 0; r < runs; ++r) z[m][r] = mad(w, x[r], z[m][r]);
      }
    }
  }

  // z becomes h; delta is formed, and kept where a product follows.
  __device__ void activate_all(Values& z, Values& delta) const {
    CBK_UNROLL(4)
    for (int m = 0; m < quad; ++m)
      for (int r = 0; r < runs; ++r) delta[m][r] = 0;
    for (int64_t c = 0; c < b.net.outputs; ++c) {
      T e[runs];
      load_line(b.slopes + (particle * b.net.outputs + c) * b.samples, e);
      CBK_UNROLL(4)
      for (int m = 0; m < quad; ++m) {
        const T w = has(m) ? theta()[b.net.output_weights() + c * b.net.width + m0 + m] : T(0);
        CBK_UNROLL(4)
        for (int r = 0; r < runs; ++r) delta[m][r] = mad(w, e[r], delta[m][r]);
      }
    }
    const T scale = T(b.net.scale);
    with_activation(b.net.activation, [&](auto sigma) {
      CBK_UNROLL(4)
      for (int m = 0; m < quad; ++m) {
        CBK_UNROLL(4)
        for (int r = 0; r < runs; ++r) {
          T derivative;
          z[m][r] = scale * sigma(z[m][r], derivative);
          delta[m][r] = delta[m][r] * derivative * scale;
          // what infinite weights make of a sample that is not there, times 0, would be NaN
          if (sample(r) >= b.samples) z[m][r] = delta[m][r] = 0;
        }
      }
    });
    CBK_UNROLL(4)
    for (int m = 0; m < quad; ++m)
      for (int r = 0; b.hidden && r < runs; ++r)
        if (has(m) && sample(r) < b.hidden_pitch) b.hidden[hidden(m, r)] = delta[m][r];
  }

  // The four neurons' sums of `values` times a line; nullptr for ones.
  __device__ __forceinline__ T line_sums(const Values& values, const T* line) const {
    T x[runs], sums[quad];
    if (line)
      load_line(line, x);
    else
      for (int r = 0; r < runs; ++r) x[r] = sample(r) < b.samples ? T(1) : T(0);
    CBK_UNROLL(4)
    for (int m = 0; m < quad; ++m) {
      sums[m] = 0;
      CBK_UNROLL(4)
      for (int r = 0; r < runs; ++r) sums[m] = mad(values[m][r], x[r], sums[m]);
    }
    return warp_sums(sums, lane);
  }
};

template <class T>
CBK_KERNEL(32 * warps)
neuron_slopes(Batch<T> b, const T* columns, int64_t inputs, T* sums) {
  const int lane = int(threadIdx.x) % 32;
  const int64_t outputs = b.net.outputs, lines = outputs + 1 + inputs, quads = blocks_for(b.net.width, quad);
  const int64_t chunks = blocks_for(b.samples, slope_chunk);
  for (int64_t item = int64_t(blockIdx.x) * warps + threadIdx.x / 32; item < chunks * b.particles * quads;
       item += int64_t(gridDim.x) * warps) {
    const int64_t chunk = item % chunks, particle = item / chunks / quads, m0 = item / chunks % quads * quad;
    const int64_t own = m0 + lane / 8;  // the neuron whose sums the lane gets; one of the eight lanes keeps them
    const bool keeps = lane % 8 == 0 && own < b.net.width;
    T* to = sums + ((chunk * b.particles + particle) * b.net.width + own) * lines;
    for (int64_t s0 = chunk * slope_chunk; s0 < min(b.samples, (chunk + 1) * slope_chunk); s0 += 32 * runs) {
      const Block<T> block{b, columns, particle, m0, s0, lane};
      const bool fresh = s0 == chunk * slope_chunk;
      T h[quad][runs], delta[quad][runs];
      block.load_hidden(h);
      block.activate_all(h, delta);
      for (int64_t line = 0; line < lines; ++line) {
        const T sum = line < outputs    ? block.line_sums(h, b.slopes + (particle * outputs + line) * b.samples)
                      : line == outputs ? block.line_sums(delta, nullptr)
                                        : block.line_sums(delta, columns + (line - outputs - 1) * b.hidden_pitch);
        if (keeps) to[line] = fresh ? sum : to[line] + sum;
      }
    }
  }
}

}  // namespace

template <class T>
int64_t launch_neuron_slopes(const Batch<T>& b, const T* columns, int64_t inputs, T* sums, cudaStream_t stream) {
  const int64_t chunks = blocks_for(b.samples, slope_chunk),
                items = chunks * b.particles * blocks_for(b.net.width, quad);
  launch(neuron_slopes<T>, dim3(unsigned(std::min(blocks_for(items, warps), int64_t(1) << 30))), dim3(32 * warps), 0,
         stream, b, columns, inputs, sums);
  return chunks;
}

template int64_t launch_neuron_slopes(const Batch<float>&, const float*, int64_t, float*, cudaStream_t);
template int64_t launch_neuron_slopes(const Batch<double>&, const double*, int64_t, double*, cudaStream_t);

}  // namespace cbk::device
