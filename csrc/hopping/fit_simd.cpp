// Inner kernels of least squares (low_rank.hpp), compiled once per instruction set.  Lanes are neurons: no sum is
// across lanes, and those without a neuron have zeros.
#include "../common/philox.hpp"
#include "../risk/products/product.hpp"
#include "low_rank.hpp"

namespace cbk::CBK_ISA {
namespace {

// V has a column for the bias, one an output, and a delta last; a column is a vector.
int64_t columns_of(int64_t outputs) { return outputs + 2; }
int64_t row_size(int64_t outputs, int lanes) { return (columns_of(outputs) + 1) / 2 * 2 * lanes; }
constexpr int across = 4, down = registers == 32 ? 4 : 2;  // of the sums that stay in registers

template <class T>
int64_t scratch_size(int64_t outputs, int64_t draws) {
  const int64_t columns = columns_of(outputs);
  // W and what a last tile of columns reads behind it, two columns of V, W^T W, W^T W's solution
  return draws * row_size(outputs, lanes<T>) + (across + 2 * draws + columns * columns + columns) * lanes<T>;
}

// The first `count` numbers, zeros behind them.
template <class T>
CBK_INLINE Vector<T> take(const T* p, int64_t count) {
  if (count >= lanes<T>) return load(p);
  Vector<T> v{};
  for (int64_t i = 0; i < count; ++i) v[i] = p[i];
  return v;
}

// W = L^-1 V [draws][row], two columns at a time.
template <class T>
void whiten(const SharedFit<T>& fit, int64_t m, int64_t count, const double* delta, T* panel, T* w) {
  using V = Vector<T>;
  const int64_t draws = fit.noise.count, width = fit.net->width, outputs = fit.net->outputs;
  const int64_t row = row_size(outputs, lanes<T>), size = fit.noise.rest_size(*fit.net);
  Paced paced;
  for (int64_t c0 = 0; c0 < columns_of(outputs); c0 += 2) {
    for (int64_t p = 0; p < draws; ++p) {
      const V sign = take(fit.noise.factor + p * width + m, count);
      for (int64_t c = c0; c < c0 + 2; ++c) {
        V value{};
        if (c <= outputs)
          value = take(fit.noise.rest + p * size + c * width + m, count);
        else if (c == outputs + 1)
          for (int64_t i = 0; i < count; ++i) value[i] = T(delta[p * width + m + i]);
        store(panel + (2 * p + c - c0) * lanes<T>, sign * value);
      }
    }
    for (int64_t first = 0, rows; first < draws; first += rows) {
      rows = draws - first < max_rows ? draws - first : max_rows;
      paced(rows * (first + rows) * 2 * lanes<T>);
      product<T>({fit.inverse + first * fit.stride, fit.stride, 1}, rows, first + rows, {panel, 2 * lanes<T>},
                 w + first * row + c0 * lanes<T>, row, {nullptr, false});
    }
  }
}

// The sums of tile (a, b) of W^T W, columns a and b of W and those behind them, into s [columns][columns].
template <class T>
CBK_INLINE void sum_tile(const T* w, int64_t draws, int64_t row, int64_t a, int64_t b, int64_t columns, T* s) {
  using V = Vector<T>;
  V total[down][across] = {};
  for (int64_t p = 0; p < draws; ++p, w += row) {
    V right[across];
    for (int j = 0; j < across; ++j) right[j] = load(w + (b + j) * lanes<T>);
    for (int i = 0; i < down; ++i) {
      const V left = load(w + (a + i) * lanes<T>);
      for (int j = 0; j < across; ++j) total[i][j] = mad(left, right[j], total[i][j]);
    }
  }
  for (int i = 0; i < down; ++i)
    for (int j = 0; j < across; ++j)
      if (a + i < columns && b + j < columns) store(s + ((a + i) * columns + b + j) * lanes<T>, total[i][j]);
}

// u with (W^T W + 1 / fit_share) u = W^T w, w the last column.
template <class T>
void solve_small(const T* w, int64_t draws, int64_t row, int64_t columns, T* s, T* u) {
  using V = Vector<T>;
  const int64_t size = columns - 1;
  Paced paced;
  for (int64_t a = 0; a < columns; a += down)
    for (int64_t b = a / across * across; b < columns; b += across) {
      paced(draws * down * across * lanes<T>);
      sum_tile(w, draws, row, a, b, columns, s);
    }
  const auto at = [&](int64_t i, int64_t j) { return s + (i * columns + j) * lanes<T>; };
  for (int64_t i = 0; i < size; ++i) {  // Cholesky, and the last column's solution with it
    store(u + i * lanes<T>, V{} + 1 / sqrt(load(at(i, i)) + T(1 / fit_share)));
    for (int64_t j = i + 1; j < columns; ++j) store(at(i, j), load(at(i, j)) * load(u + i * lanes<T>));
    paced((size - i) * (size - i) / 2 * lanes<T>);
    for (int64_t k = i + 1; k < size; ++k)
      for (int64_t j = k; j < columns; ++j) store(at(k, j), mad(-load(at(i, k)), load(at(i, j)), load(at(k, j))));
  }
  for (int64_t i = size - 1; i >= 0; --i) {
    V value = load(at(i, size));
    for (int64_t j = i + 1; j < size; ++j) value = mad(-load(at(i, j)), load(u + j * lanes<T>), value);
    store(u + i * lanes<T>, value * load(u + i * lanes<T>));
  }
}

// delta' = sign x, of length 1.
template <class T>
void put(const SharedFit<T>& fit, int64_t m, int64_t count, const T* x, double* delta) {
  const int64_t draws = fit.noise.count, width = fit.net->width;
  double squares[lanes<T>] = {};
  for (int64_t p = 0; p < draws; ++p)
    for (int i = 0; i < lanes<T>; ++i) squares[i] += double(x[p * lanes<T> + i]) * double(x[p * lanes<T> + i]);
  for (int i = 0; i < count; ++i) squares[i] = squares[i] > 0 ? 1 / std::sqrt(squares[i]) : 0;
  for (int64_t p = 0; p < draws; ++p)
    for (int i = 0; i < count; ++i)
      delta[p * width + m + i] = double(fit.noise.factor[p * width + m + i] * x[p * lanes<T> + i]) * squares[i];
}

template <class T>
void neurons(const SharedFit<T>& fit, int64_t m, double* delta, T* scratch) {
  using V = Vector<T>;
  const int64_t draws = fit.noise.count, outputs = fit.net->outputs, row = row_size(outputs, lanes<T>);
  const int64_t columns = columns_of(outputs), left = fit.net->width - m, count = left < lanes<T> ? left : lanes<T>;
  T *w = scratch, *panel = w + draws * row + across * lanes<T>, *s = panel + 2 * draws * lanes<T>,
    *u = s + columns * columns * lanes<T>;
  whiten(fit, m, count, delta, panel, w);
  solve_small(w, draws, row, columns, s, u);
  T *z = panel, *x = panel + draws * lanes<T>;
  for (int64_t p = 0; p < draws; ++p) {
    V value = load(w + p * row + (columns - 1) * lanes<T>);
    for (int64_t c = 0; c < columns - 1; ++c)
      value = mad(-load(u + c * lanes<T>), load(w + p * row + c * lanes<T>), value);
    store(z + p * lanes<T>, value);
  }
  for (int64_t first = 0, rows; first < draws; first += rows) {
    rows = draws - first < max_rows ? draws - first : max_rows;
    product<T, 1>({fit.transposed + first * (fit.stride + 1), fit.stride, 1}, rows, draws - first,
                  {z + first * lanes<T>, lanes<T>}, x + first * lanes<T>, lanes<T>, {nullptr, false});
  }
  put(fit, m, count, x, delta);
}

}  // namespace

template <class T>
FitKernels<T> fit_kernels() {
  return {lanes<T>, scratch_size<T>, neurons<T>};
}
template FitKernels<float> fit_kernels();
template FitKernels<double> fit_kernels();

}  // namespace cbk::CBK_ISA
