#include "sinkhorn.hpp"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "../common/isa.hpp"
#include "../common/parallel.hpp"
#include "space.hpp"

namespace cbk {
namespace {

// One side of the coupling: its points in the frame, by rows and by columns, and its potential.
class Side {
 public:
  explicit Side(const Shape& shape)
      : shape(shape), columns_(shape), rows_(shape.count * shape.size), potential_(shape.padded) {}
  template <class T>
  void fill(const T* points, const Frame<T>& frame) {
    for (int64_t i = 0; i < shape.count * shape.size; ++i) rows_.data()[i] = frame.at(points[i], i % shape.size);
    columns_.fill(rows_.data());
    std::fill_n(potential_.data(), shape.count, 0.0);
    std::fill(potential_.data() + shape.count, potential_.data() + shape.padded,
              -std::numeric_limits<double>::infinity());
  }
  const double* columns() { return columns_.data(); }
  const double* row(int64_t i) { return rows_.data() + i * shape.size; }
  double* potential() { return potential_.data(); }  // in units of the present epsilon

  const Shape shape;

 private:
  Points<double> columns_;
  Buffer<double> rows_, potential_;
};

// The coupling of one particle.
class Coupling {
 public:
  Coupling(int64_t count, int64_t points, int64_t size, int num_threads)
      : x_(Shape(count, size, 0.5, isa_table().sinkhorn.lanes)),
        y_(Shape(points, size, 0.5, isa_table().sinkhorn.lanes)),
        threads_(count * points < 20000 ? 1 : thread_count(num_threads, count, nanoseconds(1, count, points))),
        most_(std::max(x_.shape.padded, y_.shape.padded)),
        terms_(threads_ * most_),
        value_(x_.shape.padded),
        total_(x_.shape.padded),
        kept_(points),
        lack_(points),
        mean_(size) {}

  template <class T>
  void solve(const SinkhornProblem<T>& p, int64_t n) {
    const T* atoms = p.atoms + n * p.count * p.size;
    const Frame<T> frame(atoms, p.count, p.support, p.points, p.size);
    x_.fill(atoms, frame), y_.fill(p.support, frame);
    const double highest = frame.farthest > 0 ? max_rate / frame.farthest : 1;
    const double last = std::min(1 / (p.epsilon * frame.scale * frame.scale), highest);
    approach(last, p.iterations, p.tolerance);
    p.error[n] = balance(last);
    p.cost[n] = couple(last, frame, p.projection + n * p.count * p.size) / frame.scale / frame.scale;
  }

 private:
  // f(i, the row's sum, the row's weights) for all rows, in parallel.
  template <class F>
  void for_rows(Side& from, Side& to, double rate, F&& f) {
    parallel_for(from.shape.count, threads_, [&](int64_t i) {
      double* terms = terms_.data() + omp_get_thread_num() * most_;
      const SoftSum sum =
          kernels_.soft_row({from.row(i), to.columns(), to.shape.size, to.shape.padded, to.potential(), rate, terms});
      f(i, sum, terms);
    }, short_tasks(to.shape.padded));
  }

  // Potentials at one epsilon, until the rows' masses change by `tolerance`.
  void iterate(double rate, double tolerance, int64_t& left) {
    const double x_mean = std::log(double(y_.shape.count)), y_mean = std::log(double(x_.shape.count));
    while (true) {
      for_rows(x_, y_, rate, [&](int64_t i, const SoftSum& sum, const double*) {
        const double f = x_mean - sum.logarithm;
        value_.data()[i] = std::abs(std::expm1(x_.potential()[i] - f));
        x_.potential()[i] = f;
      });
      double total = 0;
      for (int64_t i = 0; i < x_.shape.count; ++i) total += value_.data()[i];
      if (total / double(x_.shape.count) <= tolerance || --left <= 0) return;
      for_rows(y_, x_, rate,
               [&](int64_t j, const SoftSum& sum, const double*) { y_.potential()[j] = y_mean - sum.logarithm; });
    }
  }

  void approach(double last, int64_t left, double tolerance) {
    double rate = std::min(1.0, last);
    while (rate < last && left > 1) {
      int64_t some = std::min(left - 1, int64_t(20));
      left -= some;
      iterate(rate, 0.1, some);
      left += std::max(some, int64_t(0));
      const double next = std::min(4 * rate, last), grow = next / rate;
      for (int64_t i = 0; i < x_.shape.count; ++i) x_.potential()[i] *= grow;
      for (int64_t j = 0; j < y_.shape.count; ++j) y_.potential()[j] *= grow;
      rate = next;
    }
    iterate(last, tolerance, left);
  }

  // With rows of mass 1/M: how much of each column is kept, and what it lacks; the columns' error.
  double balance(double rate) {
    double *shift = value_.data(), *total = total_.data();
    std::fill_n(shift, x_.shape.padded, std::numeric_limits<double>::infinity()),
        std::fill_n(total, x_.shape.padded, 1.0);
    for_rows(x_, y_, rate,
             [&](int64_t i, const SoftSum& sum, const double*) { shift[i] = sum.shift, total[i] = sum.total; });
    const double unit = double(y_.shape.count) / double(x_.shape.count);
    parallel_for(y_.shape.count, threads_, [&](int64_t j) {
      const double mass = unit * kernels_.soft_column({y_.row(j), x_.columns(), x_.shape.size, x_.shape.padded,
                                                       y_.potential()[j], rate, shift, total});
      kept_.data()[j] = mass > 1 ? 1 / mass : 1;
      lack_.data()[j] = 1 - mass;
    }, short_tasks(x_.shape.padded));
    double error = 0, lacking = 0;
    std::fill_n(mean_.data(), x_.shape.size, 0.0);
    for (int64_t j = 0; j < y_.shape.count; ++j) {
      error += std::abs(lack_.data()[j]);
      const double lack = std::max(lack_.data()[j], 0.0);
      lacking += lack;
      for (int64_t k = 0; k < x_.shape.size; ++k) mean_.data()[k] += lack * y_.row(j)[k];
    }
    for (int64_t k = 0; k < x_.shape.size; ++k) mean_.data()[k] = lacking > 0 ? mean_.data()[k] / lacking : 0;
    spread_ = 0;
    for (int64_t j = 0; j < y_.shape.count && lacking > 0; ++j)
      spread_ += std::max(lack_.data()[j], 0.0) / lacking * squared_distance(y_.row(j), mean_.data(), x_.shape.size);
    return error / double(y_.shape.count);
  }

  // The balanced coupling's projection and cost.
  template <class T>
  double couple(double rate, const Frame<T>& frame, T* projection) {
    const int64_t size = x_.shape.size, points = y_.shape.count;
    for_rows(x_, y_, rate, [&](int64_t i, const SoftSum&, double* weights) {
      double mass = 0, cost = 0;
      for (int64_t j = 0; j < points; ++j) {
        weights[j] *= kept_.data()[j];
        mass += weights[j];
        if (weights[j] > 0) cost += weights[j] * squared_distance(x_.row(i), y_.row(j), size);
      }
      const double rest = std::max(1 - mass, 0.0);
      value_.data()[i] = cost + rest * (squared_distance(x_.row(i), mean_.data(), size) + spread_);
      for (int64_t k = 0; k < size; ++k) {
        double mean = rest * mean_.data()[k];
        for (int64_t j = 0; j < points; ++j) mean += weights[j] * y_.columns()[k * y_.shape.padded + j];
        projection[i * size + k] = T(mean / frame.scale + frame.offset(k));
      }
    });
    double total = 0;
    for (int64_t i = 0; i < x_.shape.count; ++i) total += value_.data()[i];
    return total / double(x_.shape.count);
  }

  const SinkhornKernels& kernels_ = isa_table().sinkhorn;
  Side x_, y_;
  const int threads_;
  const int64_t most_;
  Buffer<double> terms_;          // [threads, most]
  Buffer<double> value_, total_;  // [rows, padded]
  Buffer<double> kept_, lack_;    // [points]: of each column
  Buffer<double> mean_;           // [size]: of what columns lack
  double spread_ = 0;             // and its mean squared distance from there
};

}  // namespace

template <class T>
void sinkhorn(const SinkhornProblem<T>& p, int num_threads) {
  Coupling coupling(p.count, p.points, p.size, num_threads);
  for (int64_t n = 0; n < p.particles; ++n) coupling.solve(p, n);
}

template void sinkhorn(const SinkhornProblem<float>&, int);
template void sinkhorn(const SinkhornProblem<double>&, int);

}  // namespace cbk
