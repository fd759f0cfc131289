// The division of [rows, columns] over threads, four consecutive coordinates of a row (one block of the generator)
// each.
#pragma once

#include <type_traits>

#include "device.hpp"
#include "gpu.hpp"
#include "occupancy.hpp"
#include "ptx.hpp"

namespace cbk::device {

inline cudaStream_t native(CudaStream stream) { return reinterpret_cast<cudaStream_t>(stream.handle); }

struct RowGrid {
  dim3 grid, block;
};

// Threads along a row are a power of two that leaves few of them idle; there are no more blocks than a card holds at
// once: a few that waited for a place would run alone at the end.
constexpr int row_threads = 256;
inline RowGrid row_grid(int64_t rows, int64_t columns, int64_t held) {
  constexpr int64_t threads = row_threads;
  const int64_t quads = blocks_for(columns, 4);
  int64_t across = threads;
  while (across > 1 && blocks_for(quads, across) * across * 7 > quads * 8) across /= 2;
  const int64_t down = threads / across, x = std::min(blocks_for(quads, across), held);
  const int64_t y = std::min(blocks_for(rows, down), std::clamp(held / x, int64_t(1), int64_t(65535)));
  return {dim3(unsigned(x), unsigned(y)), dim3(unsigned(across), unsigned(down))};
}

template <class... P, class... A>
void launch_rows(void (*kernel)(P...), int64_t rows, int64_t columns, cudaStream_t stream, A&&... arguments) {
  const RowGrid g = row_grid(rows, columns, held_blocks(kernel, row_threads));
  launch(kernel, g.grid, g.block, 0, stream, static_cast<A&&>(arguments)...);
}

// f(first coordinate, count of coordinates: 4 but at a row's end) of a thread's coordinates ...
template <class F>
__device__ __forceinline__ void for_columns(int64_t columns, F&& f) {
  for (int64_t i = 4 * (int64_t(blockIdx.x) * blockDim.x + threadIdx.x); i < columns;
       i += 4 * int64_t(gridDim.x) * blockDim.x)
    f(i, columns - i < 4 ? int(columns - i) : 4);
}
// ... within which f(row, row * columns) of its rows, or both at once: f(row, place in the array, coordinate, count).
template <class F>
__device__ __forceinline__ void for_rows(int64_t rows, int64_t columns, F&& f) {
  const int64_t first = int64_t(blockIdx.y) * blockDim.y + threadIdx.y, step = int64_t(gridDim.y) * blockDim.y;
  for (int64_t row = first, at = first * columns; row < rows; row += step, at += step * columns) f(row, at);
}
template <class F>
__device__ __forceinline__ void for_quads(int64_t rows, int64_t columns, F&& f) {
  for_columns(columns, [&](int64_t i, int count) {
    for_rows(rows, columns, [&](int64_t row, int64_t at) { f(row, at + i, i, count); });
  });
}

// Numbers that one access of an array's rows may take: 4, 2 or 1, by the length of a row, the addresses, and 16 bytes.
template <class... P>
int access_width(int64_t columns, const P*... arrays) {
  const auto fits = [&](int64_t width) {
    return columns % width == 0 && ((sizeof(P) * size_t(width) <= 16) && ...) &&
           ((reinterpret_cast<uintptr_t>(arrays) % (sizeof(P) * size_t(width)) == 0) && ...);
  };
  return fits(4) ? 4 : fits(2) ? 2 : 1;
}

template <class T>
using Pair = std::conditional_t<sizeof(T) == 4, float2, double2>;

// Of 4 numbers the first `count`, zeros behind them.
template <class T>
__device__ __forceinline__ void load_quad(const T* p, int count, int width, T (&v)[4]) {
  if (sizeof(T) == 4 && width == 4) {
    const float4 quad = *reinterpret_cast<const float4*>(p);
    v[0] = T(quad.x), v[1] = T(quad.y), v[2] = T(quad.z), v[3] = T(quad.w);
  } else if (width == 2) {
    for (int j = 0; j < 4; j += 2) {
      const Pair<T> pair = j < count ? *reinterpret_cast<const Pair<T>*>(p + j) : Pair<T>{};
      v[j] = pair.x, v[j + 1] = pair.y;
    }
  } else {
    for (int j = 0; j < 4; ++j) v[j] = j < count ? p[j] : T(0);
  }
}

template <class T>
__device__ __forceinline__ void store_quad(T* p, int count, int width, const T (&v)[4]) {
  if (width == 4) {
    store_vector(p, v[0], v[1], v[2], v[3]);
  } else if (width == 2) {
    for (int j = 0; j < 4; j += 2)
      if (j < count) store_vector(p + j, v[j], v[j + 1]);
  } else {
    for (int j = 0; j < 4; ++j)
      if (j < count) p[j] = v[j];
  }
}

}  // namespace cbk::device
