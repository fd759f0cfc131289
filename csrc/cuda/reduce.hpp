// Sums over a warp and a block, in one fixed order.
#pragma once

#include "gpu.hpp"

namespace cbk::device {

template <class T>
__device__ __forceinline__ T warp_sum(T v) {
  for (int flip = 16; flip; flip >>= 1) v += __shfl_xor_sync(~0u, v, flip);
  return v;
}
template <class T>
__device__ __forceinline__ T warp_least(T v) {
  for (int flip = 16; flip; flip >>= 1) {
    const T other = __shfl_xor_sync(~0u, v, flip);
    v = other < v ? other : v;
  }
  return v;
}

__device__ __forceinline__ unsigned thread_rank() { return threadIdx.x + blockDim.x * threadIdx.y; }

// The whole block's, in every thread; a block is a whole number of warps.
template <class T, class F>
__device__ __forceinline__ T block_reduced(T v, T neutral, F&& warp_reduced) {
  CBK_SHARED(T, part, 32);
  const unsigned rank = thread_rank(), lane = rank % 32, warps = blockDim.x * blockDim.y / 32;
  v = warp_reduced(v);
  if (lane == 0) part[rank / 32] = v;
  __syncthreads();
  v = warp_reduced(lane < warps ? part[lane] : neutral);
  __syncthreads();  // the next call writes part again
  return v;
}
template <class T>
__device__ __forceinline__ T block_sum(T v) {
  return block_reduced(v, T(0), [](T a) { return warp_sum(a); });
}
template <class T>
__device__ __forceinline__ T block_least(T v, T neutral) {
  return block_reduced(v, neutral, [](T a) { return warp_least(a); });
}

}  // namespace cbk::device
