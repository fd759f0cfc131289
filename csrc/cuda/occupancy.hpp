// Grids of kernels that stride over their work: as many blocks as a card holds at once.
//
// For kernels alone whose results do not depend on the grid.  Where a grid decides the order of a sum only shapes may
// enter, or the bits would change from card to card.
#pragma once

#include <map>
#include <mutex>
#include <tuple>

#include "device.hpp"
#include "gpu.hpp"

namespace cbk::device {

// The blocks of a kernel that the current device holds at once, at least 1: by what the kernel really takes of
// registers and shared memory.  Asked of the runtime once for each kernel, device and size of block.
inline int64_t held_blocks_of(const void* kernel, int threads, size_t shared_bytes) {
  static std::mutex mutex;
  static std::map<std::tuple<const void*, int, int, size_t>, int64_t> known;
  int device = 0;
  check(cudaGetDevice(&device), "device");
  const std::lock_guard<std::mutex> lock(mutex);
  int64_t& blocks = known[{kernel, device, threads, shared_bytes}];
  if (blocks == 0) {
    int held = 0;
    check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&held, kernel, threads, shared_bytes), "occupancy");
    blocks = std::max(held * multiprocessors(), int64_t(1));
  }
  return blocks;
}
template <class... P>
int64_t held_blocks(void (*kernel)(P...), int threads, size_t shared_bytes = 0) {
  return held_blocks_of(reinterpret_cast<const void*>(kernel), threads, shared_bytes);
}

// For so many blocks' work.
template <class... P>
dim3 strided_grid(void (*kernel)(P...), int64_t blocks, int threads, size_t shared_bytes = 0) {
  return dim3(unsigned(std::clamp(blocks, int64_t(1), held_blocks(kernel, threads, shared_bytes))));
}

}  // namespace cbk::device
