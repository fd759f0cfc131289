// Least squares of pairs' differences (low_rank.hpp): those of all neurons share a factor, but for neurons with a pair
// that does not count, noise of a rank above 1, and fewer draws than a neuron has numbers behind the first layer.
#include <omp.h>

#include <atomic>
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

// delta [draws]: the differences of neuron m, NaN where one is not finite.  Returns how many particles have one.
// bad [2 draws] becomes 1 where a risk is not finite.
double take_differences(const PairRisks& risks, int64_t m, int64_t draws, double* delta, uint8_t* bad) {
  double counted = 0;
  for (int64_t p = 0; p < draws; ++p) {
    const double plus = risks.of(2 * p, m), minus = risks.of(2 * p + 1, m), difference = minus - plus;
    const bool counts = std::isfinite(difference);
    delta[p] = counts ? difference : std::numeric_limits<double>::quiet_NaN(), counted += counts ? 2 : 0;
    if (counts) continue;  // other neurons' threads may write the same
    if (!std::isfinite(plus)) std::atomic_ref(bad[2 * p]).store(1, std::memory_order_relaxed);
    if (!std::isfinite(minus)) std::atomic_ref(bad[2 * p + 1]).store(1, std::memory_order_relaxed);
  }
  return counted;
}

// One neuron alone, from the rows of its noise: delta [draws] becomes its weights.  NaN: the draw does not count.
template <class T>
void fit_alone(const Network& net, const DrawnNoise<T>& noise, int64_t m, double* delta, double* weights) {
  const int64_t draws = noise.count, width = net.width, own = 1 + net.outputs, size = noise.rest_size(net);
  const double first = 1 / std::sqrt(double(noise.length)), rest = std::sqrt(fit_share);
  const int64_t depth = noise.length + own, panel = Factor::panel();
  Factor factor(draws);
  Buffer<double> z(factor.stride() * depth);
  std::fill_n(z.data(), factor.stride() * depth, 0.0);
  for (int64_t p = 0; p < draws; ++p) {
    if (std::isnan(delta[p])) continue;
    double* const to = row_of(z.data(), p, depth);
    for (int64_t k = 0; k < noise.rank; ++k) {
      const int64_t row = p * noise.rank + k;
      const double by = first * double(noise.factor[row * width + m]);
      for (int64_t i = 0; i < noise.length; ++i) to[i * panel] += by * double(noise.direction[row * noise.length + i]);
    }
    for (int64_t c = 0; c < own; ++c)
      to[(noise.length + c) * panel] = rest * double(noise.rest[p * size + c * width + m]);
  }
  normalise(delta, draws, 1, 1);
  if (make(factor, z.data(), depth, fit_ridge)) {
    factor.solve(delta);
    normalise(delta, draws, 1, 1);
  }
  for (int64_t p = 0; p < draws; ++p) weights[p * width + m] = delta[p];
}

}  // namespace

template <class T>
void draw_noise(const Network& net, const DrawnNoise<T>& noise, NoiseKey key, int64_t first, int64_t last) {
  NoiseKey along = key;
  along.stream = stream_directions;
  const LowRankKernels<T>& kernels = isa_table().low_rank<T>();
  const auto normal = isa_table().random<T>().normal;
  // a row of normals begins at a multiple of 64
  const int64_t begin = net.biases() / 64 * 64, skipped = net.biases() - begin, size = noise.rest_size(net);
  const int64_t factors = noise.rank * net.width, numbers = noise.rank * noise.length;
  Buffer<T> row(skipped > 0 ? skipped + size : 0);
  for (int64_t n = first; n < last; ++n) {
    kernels.factors(key, uint32_t(n), noise.rank, net.width, noise.factor + n * factors);
    normal(along, uint32_t(n), 0, numbers, noise.direction + n * numbers);
    T* const rest = noise.rest + n * size;
    normal(key, uint32_t(n), begin, skipped + size, skipped > 0 ? row.data() : rest);
    if (skipped > 0) std::copy_n(row.data() + skipped, size, rest);
  }
}

template <class T>
void draw_noise(const Network& net, const DrawnNoise<T>& noise, NoiseKey key, int num_threads) {
  const double work = nanoseconds(1.5, noise.count, noise.rank * noise.length + noise.rest_size(net));
  parallel_for(noise.count, thread_count(num_threads, noise.count, work),
               [&](int64_t n) { draw_noise(net, noise, key, n, n + 1); });
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
Weighed fit_differences(const Network& net, const DrawnNoise<T>& noise, std::optional<FitFactor<T>>& shared,
                        const PairRisks& risks, double* weights, double* ess, int num_threads) {
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
  Buffer<uint8_t> bad(2 * draws);  // particles with a risk that is not finite
  std::fill_n(bad.data(), 2 * draws, uint8_t(0));
  parallel_for(groups, team, [&](int64_t group) {
    const int64_t first = group * kernels.lanes, count = std::min(int64_t(kernels.lanes), width - first);
    Buffer<double> differences(count * draws);
    for (int64_t i = 0; i < count; ++i)
      ess[first + i] = take_differences(risks, first + i, draws, differences.data() + i * draws, bad.data());
    for (int64_t p = 0; p < draws; ++p)
      for (int64_t i = 0; i < count; ++i) weights[p * width + first + i] = differences.data()[i * draws + p];
    uint64_t alone = ~uint64_t(0);
    if (together) {
      alone = normalise(weights + first, draws, width, count);
      kernels.neurons(fit, first, weights, scratch.data() + omp_get_thread_num() * size);
    }
    for (int64_t i = 0; i < count; ++i)
      if (alone >> i & 1) fit_alone(net, noise, first + i, differences.data() + i * draws, weights);
  });
  return {0, std::count(bad.data(), bad.data() + 2 * draws, uint8_t(1))};
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
  return fit_differences(net, noise, shared, {risk, net.width, 1, 1}, risk, ess, num_threads);
}

#define CBK_INSTANTIATE(T) \
  template void draw_noise(const Network&, const DrawnNoise<T>&, NoiseKey, int); \
  template void draw_noise(const Network&, const DrawnNoise<T>&, NoiseKey, int64_t, int64_t); \
  template class FitFactor<T>; \
  template Weighed fit_differences(const Network&, const DrawnNoise<T>&, std::optional<FitFactor<T>>&, \
                                   const PairRisks&, double*, double*, int); \
  template Weighed fit_weights<T>(const Network&, int64_t, int64_t, NoiseKey, int64_t, double*, double*, int);
CBK_INSTANTIATE(float)
CBK_INSTANTIATE(double)
#undef CBK_INSTANTIATE

}  // namespace cbk
