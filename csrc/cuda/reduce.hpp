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

// out[i * stride] = sum over parts of partial[part][i], divided.  A block takes 32 sums, each of its warps a part of
// them.
template <class T>
CBK_KERNEL(1024)
add_parts(const double* partial, int64_t parts, int64_t count, double divisor, T* out, int64_t stride) {
  constexpr int at_once = 4;
  CBK_SHARED(double, sums, 32 * 33);
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32, warps = int(blockDim.x) / 32;
  const int64_t i = int64_t(blockIdx.x) * 32 + lane;
  double total = 0;
  for (int64_t part = warp; i < count && part < parts; part += warps * at_once) {
    double v[at_once];
    for (int u = 0; u < at_once; ++u) v[u] = part + warps * u < parts ? partial[(part + warps * u) * count + i] : 0;
    for (int u = 0; u < at_once; ++u) total += v[u];
  }
  sums[warp * 33 + lane] = total;
  __syncthreads();
  for (int own = warp; own < 32; own += warps) {
    const int64_t to = int64_t(blockIdx.x) * 32 + own;
    total = warp_sum(lane < warps ? sums[lane * 33 + own] : 0);
    if (lane == 0 && to < count) out[to * stride] = T(total / divisor);
  }
}

template <class T>
void launch_add_parts(const double* partial, int64_t parts, int64_t count, double divisor, T* out, int64_t stride,
                      cudaStream_t stream) {
  const dim3 block(parts <= 32 ? 256 : 1024);
  launch(add_parts<T>, dim3(unsigned(blocks_for(count, 32))), block, 0, stream, partial, parts, count, divisor, out,
         stride);
}

}  // namespace cbk::device
