#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "../common/isa.hpp"
#include "../common/parallel.hpp"
#include "space.hpp"

namespace cbk {
namespace {

template <class T>
double mean_cost(const T* atoms, const T* support, const int32_t* match, int64_t count, int64_t size) {
  double total = 0;
  for (int64_t i = 0; i < count; ++i) total += squared_distance(atoms + i * size, support + match[i] * size, size);
  return total / double(count);
}

}  // namespace

template <class T>
double largest(const T* a, int64_t count) {
  // magnitudes compare as integers, and those of infinities and NaNs are the greatest
  using Word = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  Word most = 0;
  for (int64_t i = 0; i < count; ++i) {
    Word word;
    std::memcpy(&word, a + i, sizeof word);
    most = std::max(most, word & std::numeric_limits<Word>::max());
  }
  T value;
  std::memcpy(&value, &most, sizeof value);
  return std::isfinite(value) ? double(value) : std::numeric_limits<double>::infinity();
}

template <class T>
void assign(const AssignProblem<T>& p, const int64_t* rows, int64_t row_count, int num_threads) {
  const TransportKernels<T>& kernels = isa_table().transport<T>();
  const int threads = thread_count(num_threads, row_count);
  Measure<T> support(p.support, p.count, p.size, p.largest, kernels.lanes);
#pragma omp parallel num_threads(threads)
  {
    Space space(p.count, p.size, support.padded, threads, true);
#pragma omp for schedule(dynamic, 1)
    for (int64_t r = 0; r < row_count; ++r) {
      const int64_t n = rows ? rows[r] : r, at = n * p.count;
      if (p.guess)
        std::copy_n(p.match + at, p.count, space.match());
      else
        std::fill_n(space.match(), p.count, -1);
      const double unit = support.scale * support.scale;
      for (int64_t j = 0; j < p.count; ++j) space.duals()[j] = p.duals ? p.duals[at + j] * unit : 0;
      kernels.assign({p.atoms + at * p.size, support.data(), p.count, p.size, support.padded, support.scale,
                      space.duals(), space.match(), space.view()});
      std::copy_n(space.match(), p.count, p.match + at);
      if (p.duals)
        for (int64_t j = 0; j < p.count; ++j) p.duals[at + j] = space.duals()[j] / unit;
      if (p.cost) p.cost[n] = mean_cost(p.atoms + at * p.size, p.support, space.match(), p.count, p.size);
    }
  }
}

template <class T>
void wasserstein2(const T* a, int64_t rows, const T* b, int64_t columns, int64_t count, int64_t size, double largest,
                  double* out, int num_threads) {
  const TransportKernels<T>& kernels = isa_table().transport<T>();
  const int64_t length = count * size;
  const int threads = thread_count(num_threads, rows * columns);
#pragma omp parallel num_threads(threads)
  {
    Measure<T> support(count, size, largest, kernels.lanes);
    Space space(count, size, support.padded, threads, true);
#pragma omp for schedule(dynamic, 1)
    for (int64_t pair = 0; pair < rows * columns; ++pair) {
      const T *x = a + pair / columns * length, *y = b + pair % columns * length;
      support.fill(y);
      std::fill_n(space.match(), count, -1);
      std::fill_n(space.duals(), count, 0.0);
      kernels.assign({x, support.data(), count, size, support.padded, support.scale, space.duals(), space.match(),
                      space.view()});
      out[pair] = mean_cost(x, y, space.match(), count, size);
    }
  }
}

void assign_matrix(const double* costs, int64_t count, int32_t* match) {
  const TransportKernels<double>& kernels = isa_table().transport<double>();
  const int64_t padded = round_up(count, kernels.lanes);
  Buffer<double> matrix(count * padded);
  for (int64_t i = 0; i < count; ++i) {
    std::copy_n(costs + i * count, count, matrix.data() + i * padded);
    std::fill(matrix.data() + i * padded + count, matrix.data() + (i + 1) * padded, 0.0);
  }
  Space space(count, 1, padded, 1, false);
  std::fill_n(space.match(), count, -1);
  std::fill_n(space.duals(), count, 0.0);
  AssignSpace view = space.view();
  view.matrix = matrix.data();
  kernels.assign({nullptr, nullptr, count, 1, padded, 1.0, space.duals(), space.match(), view});
  std::copy_n(space.match(), count, match);
}

#define CBK_INSTANTIATE(T)                                                             \
  template double largest(const T*, int64_t);                                          \
  template void assign(const AssignProblem<T>&, const int64_t*, int64_t, int);         \
  template void wasserstein2(const T*, int64_t, const T*, int64_t, int64_t, int64_t, double, double*, int);
CBK_INSTANTIATE(float)
CBK_INSTANTIATE(double)
#undef CBK_INSTANTIATE

}  // namespace cbk
