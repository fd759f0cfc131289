// The matrix product that both layers and the gradient are made of: rows of scalars against panels of two vectors.
#pragma once

#include "../../common/interrupt.hpp"
#include "../../common/simd.hpp"

namespace cbk::CBK_ISA {

constexpr int64_t depth_block = 256;  // terms summed in one accumulator: bounds the rounding error and the L1 footprint
constexpr int max_rows = registers == 32 ? 12 : 6;

template <class T>
constexpr int64_t panel_width = 2 * lanes<T>;

// Element (r, k) at data[r * row + k * depth].
template <class T>
struct Scalars {
  const T* data;
  int64_t row, depth;
};

// Line k of a panel at data + k * stride.
template <class T>
struct Panel {
  const T* data;
  int64_t stride;

  CBK_INLINE const T* line(int64_t k) const { return data + k * stride; }
  CBK_INLINE Panel from(int64_t k) const { return {data + k * stride, stride}; }
};
// Line k at rows[k] + first.
template <class T>
struct RowPanel {
  const T* const* rows;
  int64_t first;

  CBK_INLINE const T* line(int64_t k) const { return rows[k] + first; }
  CBK_INLINE RowPanel from(int64_t k) const { return {rows + k, first}; }
};

// What the sums are added to.
template <class T>
struct Start {
  const T* bias;    // one per row, or nullptr
  bool accumulate;  // what stands in the result
};

// acc[r][N vectors] += a(r, k) x[k].
template <int R, int N, class T, class P>
CBK_INLINE void product_term(Scalars<T> a, int64_t k, P x, Vector<T> (&acc)[R][N]) {
  using V = Vector<T>;
  const T* const from = x.line(k);
  V line[N];
#pragma GCC unroll 2
  for (int j = 0; j < N; ++j) line[j] = load(from + j * lanes<T>);
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
    const V w = splat<V>(a.data[r * a.row + k * a.depth]);
#pragma GCC unroll 2
    for (int j = 0; j < N; ++j) acc[r][j] = mad(w, line[j], acc[r][j]);
  }
}

// z[r][N vectors] = start + sum_k a(r, k) x[k] over `depth` terms, for R rows.  With few rows the terms are spread over
// U accumulators each, or the latency of the sums would be all that one sees.
template <int R, int N, int U, class T, class P>
CBK_INLINE void product_tile(Scalars<T> a, int64_t depth, P x, T* z, int64_t z_stride, Start<T> start) {
  using V = Vector<T>;
  V acc[U][R][N] = {};
  int64_t k = 0;
  for (; k + U <= depth; k += U) {
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) product_term(a, k + u, x, acc[u]);
  }
  for (; k < depth; ++k) product_term(a, k, x, acc[0]);
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int j = 0; j < N; ++j) {
      V sum = acc[0][r][j];
#pragma GCC unroll 4
      for (int u = 1; u < U; ++u) sum = sum + acc[u][r][j];
      T* p = z + r * z_stride + j * lanes<T>;
      if (start.bias) sum = sum + splat<V>(start.bias[r]);
      store(p, start.accumulate ? load(p) + sum : sum);
    }
  }
}

constexpr int accumulators(int sums) { return sums >= 8 ? 1 : sums >= 4 ? 2 : 4; }

template <int N, int spread, class T, class P>
void product_rows(int64_t rows, Scalars<T> a, int64_t depth, P x, T* z, int64_t z_stride, Start<T> start) {
  switch (rows) {
#define CBK_ROWS(R) \
  case R: return product_tile<R, N, accumulators(R* spread)>(a, depth, x, z, z_stride, start);
    CBK_ROWS(1)
    CBK_ROWS(2)
    CBK_ROWS(3)
    CBK_ROWS(4)
    CBK_ROWS(5)
    CBK_ROWS(6)
#if defined(CBK_AVX512)
    CBK_ROWS(7)
    CBK_ROWS(8)
    CBK_ROWS(9)
    CBK_ROWS(10)
    CBK_ROWS(11)
    CBK_ROWS(12)
#endif
#undef CBK_ROWS
  }
}

// z[r][N vectors] = start + sum_k a(r, k) x[k][N vectors].  Tiles are of nearly equal height and blocks of nearly equal
// depth, since a low last tile would run at the latency of its few sums.  The bits are those of `spread` vectors.
template <class T, int N = 2, int spread = N, class P = Panel<T>>
void product(Scalars<T> a, int64_t rows, int64_t depth, P x, T* z, int64_t z_stride, Start<T> start) {
  const int64_t tiles = (rows + max_rows - 1) / max_rows, blocks = (depth + depth_block - 1) / depth_block;
  for (int64_t block = 0; block < blocks; ++block) {
    if (block % 256 == 255) poll();
    const int64_t k = depth * block / blocks, terms = depth * (block + 1) / blocks - k;
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t first = rows * tile / tiles, last = rows * (tile + 1) / tiles;
      product_rows<N, spread, T>(last - first, {a.data + first * a.row + k * a.depth, a.row, a.depth}, terms, x.from(k),
                                 z + first * z_stride, z_stride,
                                 {k == 0 && start.bias ? start.bias + first : nullptr, start.accumulate || k > 0});
    }
  }
}

// compiled with the risks, for all
#define CBK_PRODUCT(T) void product<T>(Scalars<T>, int64_t, int64_t, Panel<T>, T*, int64_t, Start<T>)
extern template CBK_PRODUCT(float);
extern template CBK_PRODUCT(double);

}  // namespace cbk::CBK_ISA
