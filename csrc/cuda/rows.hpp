// The division of [rows, columns] over threads, four consecutive coordinates of a row (one block of the generator) each.
#pragma once

#include "gpu.hpp"
#include "stream.hpp"

namespace cbk::device {

inline cudaStream_t native(CudaStream stream) { return reinterpret_cast<cudaStream_t>(stream.handle); }

struct RowGrid {
  dim3 grid, block;
};

// Threads along a row are a power of two that leaves few of them idle.
inline RowGrid row_grid(int64_t rows, int64_t columns) {
  constexpr int64_t threads = 256;
  const int64_t quads = blocks_for(columns, 4);
  int64_t across = threads;
  while (across > 1 && blocks_for(quads, across) * across * 7 > quads * 8) across /= 2;
  const int64_t down = threads / across;
  const auto limited = [](int64_t n, int64_t most) { return unsigned(n < most ? n : most); };
  return {dim3(limited(blocks_for(quads, across), 4096), limited(blocks_for(rows, down), 65535)),
          dim3(unsigned(across), unsigned(down))};
}

// f(row, first coordinate, count of coordinates: 4 but at a row's end).
template <class F>
__device__ __forceinline__ void for_quads(int64_t rows, int64_t columns, F&& f) {
  for (int64_t row = int64_t(blockIdx.y) * blockDim.y + threadIdx.y; row < rows; row += int64_t(gridDim.y) * blockDim.y)
    for (int64_t i = 4 * (int64_t(blockIdx.x) * blockDim.x + threadIdx.x); i < columns;
         i += 4 * int64_t(gridDim.x) * blockDim.x)
      f(row, i, columns - i < 4 ? int(columns - i) : 4);
}

template <class T>
struct alignas(sizeof(T) * 2) Pair {
  T value[2];
};
template <class T>
struct alignas(16) Quad {
  T value[4];
};

// Numbers that one access of an array's rows may take: 4, 2 or 1, by the length of a row and the addresses.
template <class... P>
int access_width(int64_t columns, const P*... arrays) {
  const auto fits = [&](int64_t width) {
    return columns % width == 0 && ((reinterpret_cast<uintptr_t>(arrays) % (sizeof(P) * size_t(width)) == 0) && ...);
  };
  return fits(4) ? 4 : fits(2) ? 2 : 1;
}

template <class T>
__device__ __forceinline__ void load_quad(const T* p, int count, int width, T (&v)[4]) {
  if (width == 4) {
    const Quad<T> quad = *reinterpret_cast<const Quad<T>*>(p);
    for (int j = 0; j < 4; ++j) v[j] = quad.value[j];
  } else if (width == 2 && count == 4) {
    for (int j = 0; j < 4; j += 2) {
      const Pair<T> pair = *reinterpret_cast<const Pair<T>*>(p + j);
      v[j] = pair.value[0], v[j + 1] = pair.value[1];
    }
  } else {
    for (int j = 0; j < 4; ++j) v[j] = j < count ? p[j] : T(0);
  }
}

template <class T>
__device__ __forceinline__ void store_quad(T* p, int count, int width, const T (&v)[4]) {
  if (width == 4) {
    *reinterpret_cast<Quad<T>*>(p) = {{v[0], v[1], v[2], v[3]}};
  } else if (width == 2 && count == 4) {
    for (int j = 0; j < 4; j += 2) *reinterpret_cast<Pair<T>*>(p + j) = {{v[j], v[j + 1]}};
  } else {
    for (int j = 0; j < 4; ++j)
      if (j < count) p[j] = v[j];
  }
}

}  // namespace cbk::device
