// Least squares of pairs' differences (low_rank.hpp): those of all neurons share a factor, but for neurons with a pair
// that does not count, noise of a rank above 1, and fewer draws than a neuron has numbers behind the first layer.
#include <omp.h>

#include <cmath>
#include <limits>

#include "../risk/packing.hpp"
#include "fit.hpp"

namespace cbk {
namespace {

// Z Z^T + ridge = L L^T on this thread, z: [panels][depth][panel].
bool make(Factor& factor, const double* z, int64_t depth, double ridge) {
  const int64_t panel = Factor::panel();
  for (int64_t block = 0; block < factor.blocks(); ++block) factor.multiply(0, block, z, panel, panel * depth, depth);
  return factor.factor(0, ridge);
}
// Where number 0 of row p stands there; the others are a panel apart.
double* row_of(double* z, int64_t p, int64_t depth) {
  const int64_t panel = Factor::panel();
  return z + p / panel * panel * depth + p % panel;
}

constexpr int64_t most_lanes = 64;

// Makes the differences [draws] of each of some neurons, which stand side by side, of length 1, or 0 where all are; NaN
// becomes 0.  Powers of two take them to the size of 1, where no square leaves the range.  Bit i of what is returned
// says that neuron i had a NaN.
uint64_t normalise(double* delta, int64_t draws, int64_t stride, int64_t neurons) {
  double largest[most_lanes] = {}, half[most_lanes], other[most_lanes], length[most_lanes] = {}, nans[most_lanes] = {};
  for (int64_t p = 0; p < draws; ++p) {
    double* const row = delta + p * stride;
    for (int64_t i = 0; i < neurons; ++i) {
      const bool nan = std::isnan(row[i]);
      nans[i] += nan ? 1 : 0, row[i] = nan ? 0 : row[i];
      largest[i] = std::max(largest[i], std::abs(row[i]));
    }
  }
  uint64_t had = 0;
  for (int64_t i = 0; i < neurons; ++i) {
    const int exponent = largest[i] > 0 ? -std::ilogb(largest[i]) : 0;
    half[i] = std::ldexp(1.0, exponent / 2), other[i] = std::ldexp(1.0, exponent - exponent / 2);
    had |= uint64_t(nans[i] > 0) << i;
  }
  for (int64_t p = 0; p < draws; ++p) {
    double* const row = delta + p * stride;
    for (int64_t i = 0; i < neurons; ++i) row[i] = row[i] * half[i] * other[i], length[i] += row[i] * row[i];
  }
  for (int64_t i = 0; i < neurons; ++i) length[i] = length[i] > 0 ? std::sqrt(length[i]) : 1;
  for (int64_t p = 0; p < draws; ++p) {
    double* const row = delta + p * stride;
    for (int64_t i = 0; i < neurons; ++i) row[i] /= length[i];
  }
  return had;
}

// One neuron alone, from the rows of its noise.  NaN in delta [draws][width]: the draw does not count.
template <class T>
void fit_alone(const Network& net, const DrawnNoise<T>& noise, int64_t m, double* delta) {
  const int64_t draws = noise.count, width = net.width, own = 1 + net.outputs, size = noise.rest_size(net);
  const double first = 1 / std::sqrt(double(noise.length)), rest = std::sqrt(fit_share);
  const int64_t depth = noise.length + own, panel = Factor::panel();
  Factor factor(draws);
  Buffer<double> z(factor.stride() * depth), x(draws);
  std::fill_n(z.data(), factor.stride() * depth, 0.0);
  for (int64_t p = 0; p < draws; ++p) {
    if (std::isnan(delta[p * width + m])) continue;
    double* const to = row_of(z.data(), p, depth);
    for (int64_t k = 0; k < noise.rank; ++k) {
      const int64_t row = p * noise.rank + k;
      const double by = first * double(noise.factor[row * width + m]);
      for (int64_t i = 0; i < noise.length; ++i) to[i * panel] += by * double(noise.direction[row * noise.length + i]);
    }
    for (int64_t c = 0; c < own; ++c)
      to[(noise.length + c) * panel] = rest * double(noise.rest[p * size + c * width + m]);
  }
  for (int64_t p = 0; p < draws; ++p) x.data()[p] = delta[p * width + m];
  normalise(x.data(), draws, 1, 1);
  if (make(factor, z.data(), depth, fit_ridge)) {
    factor.solve(x.data());
    normalise(x.data(), draws, 1, 1);
  }
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
      const bool counts = std::abs(difference) <= std::numeric_limits<double>::max();
      risk[p * width + m] = counts ? difference : std::numeric_limits<double>::quiet_NaN();
      ess[m] += counts ? 2 : 0;
    }
  return weighed;
}

template <class T>
FitFactor<T>::FitFactor(int64_t draws, int64_t length)
    : factor_(draws),
      z_(factor_.stride() * length),
      packed_(Factor::panel() * length),
      inverse_(draws * factor_.stride()),
      transposed_(draws * factor_.stride()) {}

template <class T>
void FitFactor<T>::make(const DrawnNoise<T>& noise) {
  constexpr int64_t together = 64;  // rows of L^-1 that are turned
  const int64_t draws = factor_.rows(), stride = factor_.stride(), panel = Factor::panel(), depth = noise.length;
  for (int64_t first = 0; first < draws; first += panel)
    pack_rows([&](int64_t p) { return noise.direction + (first + p) * depth; }, draws - first, panel, depth,
              packed_.data(), z_.data() + first * depth, panel);
  // that of n K, whose L is sqrt n times that of K
  positive_ = cbk::make(factor_, z_.data(), depth, fit_ridge * double(depth));
  if (!positive_) return;
  for (int64_t i = 0; i < factor_.panels(); ++i) factor_.invert(i);
  const double by = std::sqrt(double(depth));
  T* const inverse = inverse_.data();
  std::fill_n(inverse, draws * stride, T(0));
  for (int64_t row = 0; row < draws; ++row)
    for (int64_t column = 0; column <= row; ++column)
      inverse[row * stride + column] = T(by * factor_.inverse()[row * stride + column]);
  for (int64_t first = 0; first < stride; first += together)
    pack_rows([&](int64_t p) { return inverse + (first + p) * stride; }, draws - first,
              std::min(together, stride - first), draws, transposed_.data() + first, static_cast<double*>(nullptr),
              stride);
}

template <class T>
void fit_differences(const Network& net, const DrawnNoise<T>& noise, std::optional<FitFactor<T>>& shared, double* delta,
                     int num_threads) {
  const FitKernels<T>& kernels = isa_table().fit<T>();
  const int64_t draws = noise.count, width = net.width, groups = divide_up(width, kernels.lanes);
  const bool together = shared && shared->positive();
  SharedFit<T> fit{};
  if (together) fit = shared->of(net, noise);
  const int64_t size = together ? round_up(kernels.scratch_size(net.outputs, draws), 64) : 0;
  const double each = together ? nanoseconds(0.05, draws, draws, net.outputs + 4)
                               : nanoseconds(0.2, draws, draws, noise.length + net.outputs + draws);
  const int team = thread_count(num_threads, groups, each * double(width));
  Buffer<T> scratch(team * size);
  parallel_for(groups, team, [&](int64_t group) {
    const int64_t first = group * kernels.lanes, count = std::min(int64_t(kernels.lanes), width - first);
    Buffer<double> kept(count * draws);
    for (int64_t p = 0; p < draws; ++p) std::copy_n(delta + p * width + first, count, kept.data() + p * count);
    uint64_t alone = ~uint64_t(0);
    if (together) {
      alone = normalise(delta + first, draws, width, count);
      kernels.neurons(fit, first, delta, scratch.data() + omp_get_thread_num() * size);
    }
    for (int64_t i = 0; i < count; ++i) {
      if (!(alone >> i & 1)) continue;
      for (int64_t p = 0; p < draws; ++p) delta[p * width + first + i] = kept.data()[p * count + i];
      fit_alone(net, noise, first + i, delta);
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
  std::optional<FitFactor<T>> shared;
  if (shares_factor(net, rank, draws)) shared.emplace(draws, length), shared->make(noise);
  const Weighed weighed = take_differences(draws, net.width, risk, ess);
  fit_differences(net, noise, shared, risk, num_threads);
  return weighed;
}

#define CBK_INSTANTIATE(T) \
  template void draw_noise(const Network&, const DrawnNoise<T>&, NoiseKey, int); \
  template class FitFactor<T>; \
  template void fit_differences(const Network&, const DrawnNoise<T>&, std::optional<FitFactor<T>>&, double*, int); \
  template Weighed fit_weights<T>(const Network&, int64_t, int64_t, NoiseKey, int64_t, double*, double*, int);
CBK_INSTANTIATE(float)
CBK_INSTANTIATE(double)
#undef CBK_INSTANTIATE

}  // namespace cbk
