// Least squares of pairs' differences (low_rank.hpp): those of all neurons share a factor, but for neurons with a pair
// that does not count, noise of a rank above 1, and fewer draws than a neuron has numbers behind the first layer.
#include <omp.h>

#include <array>
#include <cmath>
#include <limits>
#include <optional>

#include "../common/isa.hpp"
#include "../common/parallel.hpp"
#include "low_rank.hpp"

namespace cbk {
namespace {

// Rows of float64, of which Z Z^T + fit_ridge = U^T U.
class Root {
 public:
  // fill(p, to, step): number k of row p is put at to[k * step].
  template <class Fill>
  Root(int64_t rows, int64_t depth, int num_threads, Fill fill)
      : rows_(rows),
        panel_(2 * isa_table().low_rank<double>().lanes),
        stride_(round_up(rows, panel_)),
        upper_(stride_ * stride_) {
    const LowRankKernels<double>& kernels = isa_table().low_rank<double>();
    Buffer<double> z(stride_ * depth);
    const int64_t panels = stride_ / panel_;
    const int threads = thread_count(num_threads, panels, nanoseconds(0.05, rows, rows, depth));
    parallel_for(panels, threads, [&](int64_t i) {
      double* const panel = z.data() + i * panel_ * depth;
      std::fill_n(panel, panel_ * depth, 0.0);
      for (int64_t p = i * panel_; p < std::min((i + 1) * panel_, rows); ++p) fill(p, panel + p % panel_, panel_);
    });
    parallel_for(panels * panels, threads, [&](int64_t task) {
      const int64_t i = task / panels, j = task % panels;
      if (i <= j)
        kernels.gram(z.data() + i * panel_ * depth, z.data() + j * panel_ * depth, depth, rows - j * panel_,
                     upper_.data() + i * panel_ * stride_ + j * panel_, stride_);
    });
    for (int64_t p = 0; p < rows; ++p) upper_.data()[p * (stride_ + 1)] += fit_ridge;
    positive_ = kernels.cholesky(upper_.data(), rows, stride_);
  }

  bool positive() const { return positive_; }
  int64_t stride() const { return stride_; }
  // x with U^T U x = it, in its place.
  void solve(double* x) {
    for (int64_t i = 0; i < rows_; ++i) {
      const double* row = upper_.data() + i * stride_;
      x[i] /= row[i];
      for (int64_t j = i + 1; j < rows_; ++j) x[j] -= x[i] * row[j];
    }
    for (int64_t i = rows_ - 1; i >= 0; --i) {
      const double* row = upper_.data() + i * stride_;
      for (int64_t j = i + 1; j < rows_; ++j) x[i] -= row[j] * x[j];
      x[i] /= row[i];
    }
  }
  // L^-1 and its transpose, [rows][stride], zeros elsewhere.  U is gone then.
  template <class T>
  void invert(T* inverse, T* transposed, int num_threads) {
    Buffer<double> lower(rows_ * stride_);
    for (int64_t i = 0; i < rows_; ++i)
      for (int64_t j = 0; j <= i; ++j) lower.data()[i * stride_ + j] = upper_.data()[j * stride_ + i];
    std::fill_n(inverse, rows_ * stride_, T(0)), std::fill_n(transposed, rows_ * stride_, T(0));
    const int threads = thread_count(num_threads, rows_, nanoseconds(0.1, rows_, rows_, rows_));
    parallel_for(rows_, threads, [&](int64_t i) {
      double* row = upper_.data() + i * stride_;
      std::fill_n(row, i + 1, 0.0);
      row[i] = 1;
      isa_table().low_rank<double>().solve(lower.data(), i + 1, stride_, row);
      for (int64_t j = 0; j <= i; ++j) inverse[i * stride_ + j] = T(row[j]), transposed[j * stride_ + i] = T(row[j]);
    });
  }

 private:
  int64_t rows_, panel_, stride_;
  Buffer<double> upper_;
  bool positive_ = false;
};

// Makes a neuron's differences of length 1, or 0 where all are; NaN becomes 0.  Powers of two take them to the size of
// 1, where no square leaves the range.  Returns whether there was no NaN.
bool normalise(double* delta, int64_t draws, int64_t stride) {
  double largest = 0;
  bool whole = true;
  for (int64_t p = 0; p < draws; ++p) {
    double& own = delta[p * stride];
    if (std::isnan(own)) own = 0, whole = false;
    largest = std::max(largest, std::abs(own));
  }
  if (largest == 0) return whole;
  const int exponent = -std::ilogb(largest);
  const double half = std::ldexp(1.0, exponent / 2), other = std::ldexp(1.0, exponent - exponent / 2);
  double squares = 0;
  for (int64_t p = 0; p < draws; ++p) {
    const double own = delta[p * stride] = delta[p * stride] * half * other;
    squares += own * own;
  }
  const double length = std::sqrt(squares);
  for (int64_t p = 0; p < draws; ++p) delta[p * stride] /= length;
  return whole;
}

// One neuron alone, from the rows of its noise.  counts: of each draw whether it does.
template <class T>
void fit_alone(const Network& net, const DrawnNoise<T>& noise, int64_t m, const bool* counts, double* delta) {
  const int64_t draws = noise.count, width = net.width, own = 1 + net.outputs, size = noise.rest_size(net);
  const double first = 1 / std::sqrt(double(noise.length)), rest = std::sqrt(fit_share);
  Root root(draws, noise.length + own, 1, [&](int64_t p, double* to, int64_t step) {
    if (!counts[p]) return;
    for (int64_t k = 0; k < noise.rank; ++k) {
      const int64_t row = p * noise.rank + k;
      const double by = first * double(noise.factor[row * width + m]);
      for (int64_t i = 0; i < noise.length; ++i) to[i * step] += by * double(noise.direction[row * noise.length + i]);
    }
    for (int64_t c = 0; c < own; ++c)
      to[(noise.length + c) * step] = rest * double(noise.rest[p * size + c * width + m]);
  });
  if (!root.positive()) return;
  Buffer<double> x(draws);
  for (int64_t p = 0; p < draws; ++p) x.data()[p] = delta[p * width + m];
  root.solve(x.data());
  normalise(x.data(), draws, 1);
  for (int64_t p = 0; p < draws; ++p) delta[p * width + m] = x.data()[p];
}

}  // namespace

template <class T>
void draw_noise(const Network& net, const DrawnNoise<T>& noise, NoiseKey key, int num_threads) {
  NoiseKey along = key;
  along.stream = stream_directions;
  const LowRankKernels<T>& kernels = isa_table().low_rank<T>();
  const auto normal = isa_table().random<T>().normal;
  // a row of normals begins at a multiple of 64
  const int64_t begin = net.biases() / 64 * 64, skipped = net.biases() - begin, size = noise.rest_size(net);
  const int64_t factors = noise.rank * net.width, numbers = noise.rank * noise.length;
  const int team = thread_count(num_threads, noise.count, nanoseconds(1.5, noise.count, numbers + size));
  Buffer<T> rows(team * (skipped + size));
  parallel_for(noise.count, team, [&](int64_t n) {
    kernels.factors(key, uint32_t(n), noise.rank, net.width, noise.factor + n * factors);
    normal(along, uint32_t(n), 0, numbers, noise.direction + n * numbers);
    T* row = rows.data() + omp_get_thread_num() * (skipped + size);
    normal(key, uint32_t(n), begin, skipped + size, row);
    std::copy_n(row + skipped, size, noise.rest + n * size);
  });
}

Weighed take_differences(int64_t draws, int64_t width, double* risk, double* ess) {
  const Weighed weighed{0, nonfinite_rows(risk, 2 * draws, width)};
  std::fill_n(ess, width, 0.0);
  for (int64_t p = 0; p < draws; ++p)
    for (int64_t m = 0; m < width; ++m) {
      const double plus = risk[2 * p * width + m], difference = risk[(2 * p + 1) * width + m] - plus;
      const bool counts = std::isfinite(difference);
      risk[p * width + m] = counts ? difference : std::numeric_limits<double>::quiet_NaN();
      ess[m] += counts ? 2 : 0;
    }
  return weighed;
}

template <class T>
void fit_differences(const Network& net, const DrawnNoise<T>& noise, double* delta, int num_threads) {
  const FitKernels<T>& kernels = isa_table().fit<T>();
  const int64_t draws = noise.count, width = net.width, groups = divide_up(width, kernels.lanes);
  SharedFit<T> fit{&net, noise, 0, nullptr, nullptr};
  const bool shared = noise.rank == 1 && draws > 1 + net.outputs;
  std::optional<Buffer<T>> inverses;
  bool together = false;
  if (shared) {
    const double by = 1 / std::sqrt(double(noise.length));
    Root root(draws, noise.length, num_threads, [&](int64_t p, double* to, int64_t step) {
      for (int64_t i = 0; i < noise.length; ++i) to[i * step] = by * double(noise.direction[p * noise.length + i]);
    });
    together = root.positive();
    fit.stride = root.stride();
    inverses.emplace(2 * draws * fit.stride);
    if (together) root.invert(inverses->data(), inverses->data() + draws * fit.stride, num_threads);
    fit.inverse = inverses->data(), fit.transposed = fit.inverse + draws * fit.stride;
  }
  const int64_t size = shared ? round_up(kernels.scratch_size(net.outputs, draws), 64) : 0;
  const double each = together ? nanoseconds(0.05, draws, draws, net.outputs + 4)
                               : nanoseconds(0.2, draws, draws, noise.length + net.outputs + draws);
  const int team = thread_count(num_threads, groups, each * double(width));
  Buffer<T> scratch(team * size);
  parallel_for(groups, team, [&](int64_t group) {
    const int64_t first = group * kernels.lanes, last = std::min(first + kernels.lanes, width);
    T* const own = scratch.data() + omp_get_thread_num() * size;
    Buffer<bool> counts((last - first) * draws);
    Buffer<double> kept((last - first) * draws);
    std::array<bool, 64> alone{};
    for (int64_t m = first; m < last; ++m) {
      bool* const counting = counts.data() + (m - first) * draws;
      for (int64_t p = 0; p < draws; ++p) counting[p] = !std::isnan(delta[p * width + m]);
      alone[size_t(m - first)] = !normalise(delta + m, draws, width) || !together;
      for (int64_t p = 0; p < draws; ++p) kept.data()[(m - first) * draws + p] = delta[p * width + m];
    }
    if (together) kernels.neurons(fit, first, delta, own);
    for (int64_t m = first; m < last; ++m) {
      if (!alone[size_t(m - first)]) continue;
      for (int64_t p = 0; p < draws; ++p) delta[p * width + m] = kept.data()[(m - first) * draws + p];
      fit_alone(net, noise, m, counts.data() + (m - first) * draws, delta);
    }
  });
}

template <class T>
Weighed fit_weights(const Network& net, int64_t rank, int64_t length, NoiseKey key, int64_t draws, double* risk,
                    double* ess, int num_threads) {
  DrawnNoise<T> noise{rank, draws, length, nullptr, nullptr, nullptr};
  const int64_t factors = draws * rank * net.width, directions = draws * rank * length;
  Buffer<T> numbers(factors + directions + draws * noise.rest_size(net));
  noise.factor = numbers.data(), noise.direction = noise.factor + factors, noise.rest = noise.direction + directions;
  draw_noise(net, noise, key, num_threads);
  const Weighed weighed = take_differences(draws, net.width, risk, ess);
  fit_differences(net, noise, risk, num_threads);
  return weighed;
}

#define CBK_INSTANTIATE(T) \
  template void draw_noise(const Network&, const DrawnNoise<T>&, NoiseKey, int); \
  template void fit_differences(const Network&, const DrawnNoise<T>&, double*, int); \
  template Weighed fit_weights<T>(const Network&, int64_t, int64_t, NoiseKey, int64_t, double*, double*, int);
CBK_INSTANTIATE(float)
CBK_INSTANTIATE(double)
#undef CBK_INSTANTIATE

}  // namespace cbk
