// Rows of numbers to columns, in squares of a register's lanes.
#pragma once

#include "simd.hpp"

namespace cbk::CBK_ISA {

// Lane i is lane at[i] of a, or of b behind it.
template <class V, size_t... at>
CBK_INLINE V picked(V a, V b, std::index_sequence<at...>) {
#if __has_builtin(__builtin_shufflevector)
  return __builtin_shufflevector(a, b, at...);
#else  // GCC before 12
  return __builtin_shuffle(a, b, Int<V>{at...});
#endif
}

// Lanes as rows: the blocks off the diagonal change places, for blocks of H lanes, H / 2, ..., one.
template <size_t H, class V, size_t... lane>
CBK_INLINE void transpose_square(V (&r)[sizeof...(lane)], std::index_sequence<lane...> all) {
  constexpr size_t L = sizeof...(lane);
  constexpr std::index_sequence<(lane & H ? lane + L - H : lane)...> low;
  constexpr std::index_sequence<(lane & H ? lane + L : lane + H)...> high;
#pragma GCC unroll 16
  for (size_t i = 0; i < L; ++i) {
    if ((i & H) == 0) {
      const V a = r[i], b = r[i + H];
      r[i] = picked(a, b, low);
      r[i + H] = picked(a, b, high);
    }
  }
  if constexpr (H > 1) transpose_square<H / 2>(r, all);
}

// to[column][row] = from[row][at + column], `lanes` rows and columns.
template <class T>
CBK_INLINE void transpose_whole(const T* const* from, int64_t at, T* to, int64_t to_stride) {
  constexpr int L = lanes<T>;
  Vector<T> r[L];
#pragma GCC unroll 16
  for (int i = 0; i < L; ++i) r[i] = load(from[i] + at);
  transpose_square<L / 2>(r, std::make_index_sequence<L>{});
#pragma GCC unroll 16
  for (int i = 0; i < L; ++i) store(to + i * to_stride, r[i]);
}

// to[column][row] = from[row][column], `lanes` rows and, at most as many, `columns`; a missing row (nullptr) is 0.
template <class T>
CBK_INLINE void transpose_tile(const T* const* from, int64_t at, int64_t columns, T* to, int64_t to_stride) {
  constexpr int L = lanes<T>;
  Vector<T> r[L] = {};
#pragma GCC unroll 16
  for (int i = 0; i < L; ++i) {
    if (!from[i]) continue;
    if (columns >= L)
      r[i] = load(from[i] + at);
    else
      std::memcpy(&r[i], from[i] + at, size_t(columns) * sizeof(T));
  }
  transpose_square<L / 2>(r, std::make_index_sequence<L>{});
#pragma GCC unroll 16
  for (int i = 0; i < L; ++i)
    if (i < columns) store(to + i * to_stride, r[i]);
}

}  // namespace cbk::CBK_ISA
