// One output and few inputs: a thread holds samples in registers, the neurons of the block's one particle are streamed
// past them out of shared memory.
#pragma once

#include "tile_cuda.hpp"

#include "../../common/activation.hpp"

namespace cbk::device {

constexpr int direct_threads = 256, direct_samples = 4;  // at most; of a thread
constexpr int64_t direct_neurons = 256;                  // staged at a time

template <Activation activation, int inputs>
struct Direct {
  static constexpr int pitch = inputs == 1 ? 4 : 8;  // of a neuron's numbers: w, b, c and what fills up 16 bytes
  template <class T>
  struct alignas(16) Neuron {
    T value[pitch];
  };

  template <class T>
  static __device__ __forceinline__ void outputs(const Batch<T>& b, const Place<T>& p, T* staged, T* outs) {
    const int64_t width = b.net.width, d = b.net.inputs;
    const T *bias = p.theta + b.net.biases(), *weight = p.theta + b.net.output_weights();
    const int first = direct_samples * int(threadIdx.x), threads = int(blockDim.x);
    const Law<activation> sigma{b.net.activation};
    const bool used = first < p.valid;  // whole warps may have nothing to do
    T x[direct_samples][inputs], sums[direct_samples] = {};
    CBK_UNROLL(4)
    for (int j = 0; j < direct_samples; ++j)
      for (int k = 0; k < inputs; ++k) x[j][k] = first + j < p.valid && k < d ? b.x[(p.s0 + first + j) * d + k] : T(0);
    for (int64_t m0 = 0; m0 < width; m0 += direct_neurons) {
      const int neurons = int(min(width - m0, direct_neurons));
      for (int m = int(threadIdx.x); m < neurons; m += threads) {
        for (int k = 0; k < inputs; ++k) staged[m * pitch + k] = k < d ? p.theta[(m0 + m) * d + k] : T(0);
        staged[m * pitch + inputs] = bias[m0 + m], staged[m * pitch + inputs + 1] = weight[m0 + m];
      }
      __syncthreads();
      T part[direct_samples] = {};
      for (int m = 0; used && m < neurons; ++m) {
        const Neuron<T> neuron = *reinterpret_cast<const Neuron<T>*>(staged + m * pitch);
        CBK_UNROLL(4)
        for (int j = 0; j < direct_samples; ++j) {
          T z = neuron.value[inputs];
          CBK_UNROLL(4)
          for (int k = 0; k < inputs; ++k) z = mad(neuron.value[k], x[j][k], z);
          part[j] = mad(neuron.value[inputs + 1], sigma(z), part[j]);
        }
      }
      for (int j = 0; j < direct_samples; ++j) sums[j] = sums[j] + part[j];
      __syncthreads();
    }
    const T shift = b.net.output_bias ? p.theta[b.net.output_biases()] : T(0);
    for (int j = 0; j < direct_samples; ++j) outs[first + j] = mad(sums[j], T(b.net.scale), shift);
    __syncthreads();
  }
};

}  // namespace cbk::device
