// Kernels whose blocks wait for each other.  Apart from gpu.hpp: reading cooperative_groups.h takes nvcc four seconds.
#pragma once

#include "gpu.hpp"

#if defined(__CUDACC__)
#include <cooperative_groups.h>
#endif

namespace cbk::device {

#if defined(__CUDACC__)
__device__ __forceinline__ void grid_sync() { cooperative_groups::this_grid().sync(); }
#else
inline void grid_sync(CBK_HERE) { emulation::machine().grid_barrier({"grid_sync", file, line}); }
#endif

template <class... P, class... A>
void launch_cooperative(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
                        A&&... arguments) {
  launch_as(true, kernel, grid, block, shared_bytes, stream, static_cast<A&&>(arguments)...);
}

}  // namespace cbk::device
