// The one header that kernels include first: CUDA with nvcc, its emulation (tests/cuda/emulation) with any other
// compiler.
//
// Rules that let one file compile both ways: shared memory through CBK_SHARED and CBK_DYNAMIC_SHARED, launches through
// `launch`, grid barriers through `grid_sync` (grid.hpp), inline PTX in ptx.hpp alone; no return before a barrier, the
// whole block at the same barrier, no racing writes even of equal values.
#pragma once

#define CBK_ISA device
#define CBK_ONE_LANE 1

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#else
#include "emulation/runtime.hpp"
#endif

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>

#include "device.hpp"

#if defined(__CUDACC__)
#define CBK_SHARED(T, name, size) __shared__ T name[size]
#define CBK_DYNAMIC_SHARED(T, name) \
  extern __shared__ __align__(128) unsigned char cbk_dynamic_shared[]; \
  T* const name = reinterpret_cast<T*>(cbk_dynamic_shared)
#define CBK_KERNEL(threads) __global__ void __launch_bounds__(threads)
#else
#define CBK_SHARED(T, name, size) \
  static const char name##_key = 0; \
  auto& name = *static_cast<T(*)[size]>(cbk::emulation::machine().shared(&name##_key, sizeof(T[size])))
#define CBK_DYNAMIC_SHARED(T, name) T* const name = static_cast<T*>(cbk::emulation::machine().dynamic_shared())
#define CBK_KERNEL(threads) void
#endif

namespace cbk::device {

[[noreturn]] void fail(cudaError_t error, const std::string& what);  // CudaError with the driver's words

inline void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) fail(error, what);
}

// Blocks of this kernel may have as much shared memory as the current device gives: set once, not by each launch.
void allow_shared(const void* kernel, size_t bytes);

#if defined(__CUDACC__)
template <class... P, class... A>
void launch_as(bool cooperative, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
               A&&... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid, config.blockDim = block, config.dynamicSmemBytes = shared_bytes, config.stream = stream;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeCooperative;
  attribute.val.cooperative = 1;
  if (cooperative) config.attrs = &attribute, config.numAttrs = 1;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<P>(arguments)...), "launch");
}
#else
template <class... P, class... A>
void launch_as(bool cooperative, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
               A&&... arguments) {
  static_assert(sizeof...(P) == sizeof...(A), "wrong number of kernel arguments");
  const std::tuple<std::decay_t<P>...> copies(static_cast<P>(arguments)...);
  check(emulation::launch(reinterpret_cast<const void*>(kernel), grid, block, shared_bytes, stream, cooperative,
                          [=] { std::apply(kernel, copies); }),
        "launch");
}
#endif

template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream, A&&... arguments) {
  if (shared_bytes > (48 << 10)) allow_shared(reinterpret_cast<const void*>(kernel), shared_bytes);
  launch_as(false, kernel, grid, block, shared_bytes, stream, static_cast<A&&>(arguments)...);
}

// Scalars that device code may name, which numeric_limits' functions are not.
constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double quiet_nan = std::numeric_limits<double>::quiet_NaN();

__host__ __device__ inline int64_t blocks_for(int64_t count, int64_t size) { return (count + size - 1) / size; }

}  // namespace cbk::device

#include "memory.hpp"
