// One output and few inputs: a thread holds samples in registers, the neurons of the block's one particle are streamed past
// them out of shared memory.
#pragma once

#include "tile_cuda.hpp"

#include "../common/activation.hpp"

namespace cbk::device {

constexpr int direct_threads = 128, direct_samples = 4;
constexpr int64_t direct_neurons = 256;  // staged at a time

template <Activation activation, int inputs>
struct Direct {
  template <class T>
  static __device__ __forceinline__ void outputs(const Batch<T>& b, const Place<T>& p, T* staged, T* outs) {
    constexpr int pitch = inputs + 2;
    const int64_t width = b.net.width, d = b.net.inputs;
    const T *bias = p.theta + b.net.biases(), *weight = p.theta + b.net.output_weights();
    T x[direct_samples][inputs], sums[direct_samples] = {};
    CBK_UNROLL(4)
    for (int j = 0; j < direct_samples; ++j) {
      const int64_t s = threadIdx.x + j * direct_threads;
      for (int k = 0; k < inputs; ++k) x[j][k] = s < p.valid && k < d ? b.x[(p.s0 + s) * d + k] : T(0);
    }
    for (int64_t m0 = 0; m0 < width; m0 += direct_neurons) {
      const int neurons = int(min(width - m0, direct_neurons));
      for (int m = int(threadIdx.x); m < neurons; m += direct_threads) {
        for (int k = 0; k < inputs; ++k) staged[m * pitch + k] = k < d ? p.theta[(m0 + m) * d + k] : T(0);
        staged[m * pitch + inputs] = bias[m0 + m], staged[m * pitch + inputs + 1] = weight[m0 + m];
      }
      __syncthreads();
      T part[direct_samples] = {};
      for (int m = 0; m < neurons; ++m) {
        const T* w = staged + m * pitch;
        CBK_UNROLL(4)
        for (int j = 0; j < direct_samples; ++j) {
          T z = w[inputs];
          CBK_UNROLL(4)
          for (int k = 0; k < inputs; ++k) z = mad(w[k], x[j][k], z);
          part[j] = mad(w[inputs + 1], activate<activation>(z), part[j]);
        }
      }
      for (int j = 0; j < direct_samples; ++j) sums[j] = sums[j] + part[j];
      __syncthreads();
    }
    const T shift = b.net.output_bias ? p.theta[b.net.output_biases()] : T(0);
    for (int j = 0; j < direct_samples; ++j)
      outs[threadIdx.x + j * direct_threads] = mad(sums[j], T(b.net.scale), shift);
    __syncthreads();
  }
};

}  // namespace cbk::device
