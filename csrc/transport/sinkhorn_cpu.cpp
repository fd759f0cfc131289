#include "sinkhorn.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "../common/isa.hpp"
#include "../common/parallel.hpp"
#include "space.hpp"

namespace cbk {
namespace {

// One side of the coupling: its points, scaled, by rows and by columns, and its potential.
class Side {
 public:
  explicit Side(const Shape& shape)
      : shape(shape), columns_(shape), rows_(shape.count * shape.size), potential_(shape.padded) {}
  template <class T>
  void fill(const T* points) {
    columns_.fill(points);
    for (int64_t i = 0; i < shape.count * shape.size; ++i) rows_.data()[i] = double(points[i]) * shape.scale;
    std::fill_n(potential_.data(), shape.count, 0.0);
    std::fill(potential_.data() + shape.count, potential_.data() + shape.padded,
              -std::numeric_limits<double>::infinity());
  }
  const double* columns() { return columns_.data(); }
  double* rows() { return rows_.data(); }
  double* potential() { return potential_.data(); }  // in units of the present epsilon

  const Shape shape;

 private:
  Points<double> columns_;
  Buffer<double> rows_, potential_;
};

// f(i, softmin of row i, weights of row i) for all rows, in parallel.
template <class F>
void for_rows(Side& from, Side& to, double rate, int threads, F&& f) {
  const SinkhornKernels& kernels = isa_table().sinkhorn;
  const double mean = std::log(double(to.shape.count));
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    Buffer<double> terms(to.shape.padded);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < from.shape.count; ++i) {
      const double log_sum = kernels.soft_row({from.rows() + i * from.shape.size, to.columns(), to.shape.size,
                                               to.shape.padded, to.potential(), rate, terms.data()});
      f(i, mean - log_sum, terms.data());
    }
  }
}

// Potentials at one epsilon; returns the last error of the rows' masses.
double iterate(Side& x, Side& y, double* change, double rate, double tolerance, int64_t& left, int threads) {
  double error = std::numeric_limits<double>::infinity();
  while (true) {
    for_rows(x, y, rate, threads, [&](int64_t i, double f, const double*) {
      change[i] = std::abs(std::expm1(x.potential()[i] - f));
      x.potential()[i] = f;
    });
    double total = 0;
    for (int64_t i = 0; i < x.shape.count; ++i) total += change[i];
    error = total / double(x.shape.count);
    if (error <= tolerance || --left <= 0) return error;
    for_rows(y, x, rate, threads, [&](int64_t j, double g, const double*) { y.potential()[j] = g; });
  }
}

}  // namespace

template <class T>
void sinkhorn(const SinkhornProblem<T>& p, int num_threads) {
  const int64_t lanes = isa_table().sinkhorn.lanes, size = p.size;
  Side x(Shape(p.count, size, p.largest, lanes)), y(Shape(p.points, size, p.largest, lanes));
  Buffer<double> change(p.count), cost(p.count);
  const double unit = x.shape.scale * x.shape.scale, last = 1 / (p.epsilon * unit);
  const int threads = p.count * p.points < 20000 ? 1 : thread_count(num_threads, p.count);
  for (int64_t n = 0; n < p.particles; ++n) {
    x.fill(p.atoms + n * p.count * size);
    y.fill(p.support);
    int64_t left = p.iterations;
    double rate = std::min(1.0, last);
    while (rate < last && left > 1) {
      int64_t some = std::min(left - 1, int64_t(20));
      left -= some;
      iterate(x, y, change.data(), rate, 0.1, some, threads);
      left += std::max(some, int64_t(0));
      const double next = std::min(4 * rate, last), grow = next / rate;
      for (int64_t i = 0; i < p.count; ++i) x.potential()[i] *= grow;
      for (int64_t j = 0; j < p.points; ++j) y.potential()[j] *= grow;
      rate = next;
    }
    p.error[n] = iterate(x, y, change.data(), last, p.tolerance, left, threads);
    T* projection = p.projection + n * p.count * size;
    for_rows(x, y, last, threads, [&](int64_t i, double, const double* weights) {
      double total = 0;
      const double* at = x.rows() + i * size;
      for (int64_t j = 0; j < p.points; ++j)
        if (weights[j] > 0) total += weights[j] * squared_distance(at, y.rows() + j * size, size);
      cost.data()[i] = total;
      for (int64_t k = 0; k < size; ++k) {
        double mean = 0;
        for (int64_t j = 0; j < p.points; ++j) mean += weights[j] * y.columns()[k * y.shape.padded + j];
        projection[i * size + k] = T(mean / x.shape.scale);
      }
    });
    p.cost[n] = 0;
    for (int64_t i = 0; i < p.count; ++i) p.cost[n] += cost.data()[i];
    p.cost[n] = p.cost[n] / unit / double(p.count);
  }
}

template void sinkhorn(const SinkhornProblem<float>&, int);
template void sinkhorn(const SinkhornProblem<double>&, int);

}  // namespace cbk
