// Products of matrices of some hundred rows, whose numbers are computed where they are read.
#pragma once

#include "../cuda/gpu.hpp"

#include "../common/simd.hpp"

namespace cbk::device {

struct Extent {
  int64_t rows, columns, depth;
};

// put(i, j, sum over k of a(i, k) b(j, k)), summed in Task::Sum by parts of 32.  A block makes 16 by 16 of them: of
// larger tiles there would be too few.  Task::by_depth: neighbouring threads read neighbouring k, else i or j.
// task.extent() may be less than what was launched.
template <class Task>
CBK_KERNEL(256)
multiply_tiles(Task task, unsigned column_tiles) {
  using Sum = typename Task::Sum;
  constexpr int side = 16, deep = 32, pitch = deep + 1, loads = 2;
  CBK_SHARED(Sum, a, side * pitch);
  CBK_SHARED(Sum, b, side * pitch);
  const Extent e = task.extent();
  const int rank = int(threadIdx.x), row = rank / side, column = rank % side;
  const int64_t i0 = int64_t(blockIdx.x / column_tiles) * side, j0 = int64_t(blockIdx.x % column_tiles) * side;
  const int64_t depth = i0 < e.rows && j0 < e.columns ? e.depth : 0;
  Sum next_a[loads], next_b[loads], total = 0;
  const auto line = [&](int l) { return Task::by_depth ? (rank + 256 * l) / deep : rank % side; };
  const auto at = [&](int l) { return Task::by_depth ? rank % deep : (rank + 256 * l) / side; };
  const auto fetch = [&](int64_t k0) {
    CBK_UNROLL(2)
    for (int l = 0; l < loads; ++l) {
      const int64_t k = k0 + at(l), i = i0 + line(l), j = j0 + line(l);
      next_a[l] = k < depth && i < e.rows ? task.a(i, k) : Sum(0);
      next_b[l] = k < depth && j < e.columns ? task.b(j, k) : Sum(0);
    }
  };
  fetch(0);
  for (int64_t k0 = 0; k0 < depth; k0 += deep) {
    CBK_UNROLL(2)
    for (int l = 0; l < loads; ++l) {
      a[line(l) * pitch + at(l)] = next_a[l];
      b[line(l) * pitch + at(l)] = next_b[l];
    }
    __syncthreads();
    fetch(k0 + deep);
    Sum part = 0;
    CBK_UNROLL(32)
    for (int k = 0; k < deep; ++k) part = mad(a[row * pitch + k], b[column * pitch + k], part);
    total += part;
    __syncthreads();
  }
  if (i0 + row < e.rows && j0 + column < e.columns) task.put(i0 + row, j0 + column, total);
}

// Of `batches` tasks at once, which find theirs by blockIdx.z.
template <class Task>
void multiply(const Task& task, const Extent& most, int64_t batches, cudaStream_t stream) {
  const int64_t across = blocks_for(most.columns, 16), tiles = blocks_for(most.rows, 16) * across;
  launch(multiply_tiles<Task>, dim3(unsigned(tiles), 1, unsigned(batches)), dim3(256), 0, stream, task,
         unsigned(across));
}

}  // namespace cbk::device
