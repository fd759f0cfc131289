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

constexpr int rows_at_once = 4;  // each number of a row is loaded and stored once for so many that are taken off it

// to[k] += sum over the rows i < count of by[i] rows[i][k], in their order, k in [first, last).
CBK_INLINE void add_rows(const double* by, const double* rows, int64_t stride, int64_t count, int64_t first,
                         int64_t last, double* to) {
  int64_t k = first;
  for (; k + lanes<double> <= last; k += lanes<double>) {
    F64 sum = load(to + k);
    if (count == rows_at_once) {
      CBK_UNROLL(4)
      for (int i = 0; i < rows_at_once; ++i) sum = mad(splat<F64>(by[i]), load(rows + i * stride + k), sum);
    } else {
      for (int64_t i = 0; i < count; ++i) sum = mad(splat<F64>(by[i]), load(rows + i * stride + k), sum);
    }
    store(to + k, sum);
  }
  for (; k < last; ++k)
    for (int64_t i = 0; i < count; ++i) to[k] = mad(by[i], rows[i * stride + k], to[k]);
}

inline bool cholesky(double* upper, int64_t size, int64_t stride) {
  constexpr int64_t width = lanes<double>;
  const int64_t end = (size + width - 1) / width * width;
  Paced paced;
  for (int64_t first = 0; first < size; first += rows_at_once) {
    const int64_t count = size - first < rows_at_once ? size - first : rows_at_once;
    const double* const rows = upper + first * stride;
    double by[rows_at_once];
    for (int64_t i = first; i < size; ++i) {  // what stands below the diagonal is not looked at
      double* const row = upper + i * stride;
      const int64_t above = i - first < count ? i - first : count;
      for (int64_t j = 0; j < above; ++j) by[j] = -rows[j * stride + i];
      add_rows(by, rows, stride, above, i / width * width, end, row);
      if (above == count) continue;
      const double pivot = row[i];
      if (!(pivot > 0 && pivot < HUGE_VAL)) return false;
      const double inverse = 1 / std::sqrt(pivot);
      for (int64_t k = i; k < size; ++k) row[k] *= inverse;
    }
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
