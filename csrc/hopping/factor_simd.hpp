// Inner kernels of positive definite matrices in float64 (factor.hpp), compiled once per instruction set.
#pragma once

#include "../common/interrupt.hpp"
#include "../risk/products/product.hpp"

namespace cbk::CBK_ISA {

inline void gram(const double* x, const double* with, int64_t line, int64_t depth, int64_t columns, double* block,
                 int64_t stride) {
  constexpr int64_t half = lanes<double>;
  const Scalars<double> a{x, 1, line};
  const Panel<double> z{with, line};
  const Start<double> none{nullptr, false};
  const int64_t rows = x != with ? 2 * half : columns < half ? columns : half;  // of the diagonal's, the triangle
  if (columns <= half) return product<double, 1, 2>(a, rows, depth, z, block, stride, none);
  product<double>(a, rows, depth, z, block, stride, none);
  if (x == with)
    product<double, 1, 2>({x + half, 1, line}, columns < 2 * half ? columns - half : half, depth, {with + half, line},
                          block + half * (stride + 1), stride, none);
}

// Of R rows from row i on, at `to`: to[r][k] -= sum over `count` rows of first[j][i + r] first[j][k], in their order,
// for the whole vectors from column i on.
template <int R, int count>
CBK_INLINE void take_off(const double* first, double* to, int64_t stride, int64_t i, int64_t size) {
  double by[count][R];
  for (int j = 0; j < count; ++j)
    for (int r = 0; r < R; ++r) by[j][r] = -first[j * stride + i + r];
  for (int64_t k = i / lanes<double> * lanes<double>; k < size; k += lanes<double>) {
    F64 sum[R];
    CBK_UNROLL(8)
    for (int r = 0; r < R; ++r) sum[r] = load(to + r * stride + k);
    CBK_UNROLL(8)
    for (int j = 0; j < count; ++j) {
      const F64 row = load(first + j * stride + k);
      CBK_UNROLL(8)
      for (int r = 0; r < R; ++r) sum[r] = mad(splat<F64>(by[j][r]), row, sum[r]);
    }
    CBK_UNROLL(8)
    for (int r = 0; r < R; ++r) store(to + r * stride + k, sum[r]);
  }
}

inline bool cholesky(double* upper, int64_t size, int64_t stride) {
  constexpr int rows_at_once = 8, together = 4;  // rows that are taken off at once, and from how many
  Paced paced;
  for (int64_t first = 0; first < size; first += rows_at_once) {
    const int64_t end = size - first < rows_at_once ? size : first + rows_at_once;
    double* const rows = upper + first * stride;
    for (int64_t i = first; i < end; ++i) {  // what stands below the diagonal is not looked at
      double* const row = upper + i * stride;
      const double pivot = row[i];
      if (!(pivot > 0 && pivot < HUGE_VAL)) return false;
      const F64 inverse = splat<F64>(1 / std::sqrt(pivot));
      for (int64_t k = i / lanes<double> * lanes<double>; k < size; k += lanes<double>)
        store(row + k, load(row + k) * inverse);
      for (int64_t below = i + 1; below < end; ++below)
        take_off<1, 1>(row, upper + below * stride, stride, below, size);
    }
    int64_t i = end;
    for (; i + together <= size; i += together)
      take_off<together, rows_at_once>(rows, upper + i * stride, stride, i, size);
    for (; i < size; ++i) take_off<1, rows_at_once>(rows, upper + i * stride, stride, i, size);
    paced((size - first) * (size - first) * rows_at_once / 2);
  }
  return true;
}

// Rows [i, i + R) of the columns of L^-1 from `first` on, which are a panel's, from the rows before them.
template <int R>
void invert_rows(const double* upper, int64_t stride, int64_t first, int64_t i, double* inverse) {
  constexpr int width = lanes<double>;
  double* const to = inverse + i * stride + first;
  F64 x[R][2] = {};
  for (int64_t k = first; k < i; ++k) {
    const double *from = inverse + k * stride + first, *by = upper + k * stride + i;
    const F64 low = load(from), high = load(from + width);
    CBK_UNROLL(8)
    for (int r = 0; r < R; ++r) {
      const F64 l = splat<F64>(-by[r]);
      x[r][0] = mad(l, low, x[r][0]), x[r][1] = mad(l, high, x[r][1]);
    }
  }
  CBK_UNROLL(8)
  for (int r = 0; r < R; ++r) {
    const double* const row = upper + (i + r) * stride + i;
    double own[2 * width] = {};
    if (i + r < first + 2 * width) own[i + r - first] = 1;
    const F64 by = splat<F64>(1 / row[r]);
    x[r][0] = (x[r][0] + load(own)) * by, x[r][1] = (x[r][1] + load(own + width)) * by;
    store(to + r * stride, x[r][0]), store(to + r * stride + width, x[r][1]);
    CBK_UNROLL(8)
    for (int below = r + 1; below < R; ++below) {
      const F64 l = splat<F64>(-row[below]);
      x[below][0] = mad(l, x[r][0], x[below][0]), x[below][1] = mad(l, x[r][1], x[below][1]);
    }
  }
}

inline void invert(const double* upper, int64_t size, int64_t stride, int64_t first, double* inverse) {
  constexpr int rows = 8;
  Paced paced;
  int64_t i = first;
  for (; i + rows <= size; i += rows) {
    paced((i - first) * panel_width<double> * rows);
    invert_rows<rows>(upper, stride, first, i, inverse);
  }
  for (; i < size; ++i) {
    paced((i - first) * panel_width<double>);
    invert_rows<1>(upper, stride, first, i, inverse);
  }
}

}  // namespace cbk::CBK_ISA
