#include "consensus.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "../common/isa.hpp"
#include "../common/parallel.hpp"

namespace cbk {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

double smallest_finite(const double* risk, int64_t particles, int64_t stride) {
  double least = infinity;
  Paced paced;
  for (int64_t n = 0; n < particles; ++n) {
    paced(10);
    if (const double r = risk[n * stride]; r < least && r > -infinity) least = r;  // nor NaN
  }
  return least;
}

// Particles with a risk that is not finite.
int64_t count_not_finite(const double* risk, int64_t particles, int64_t tasks) {
  constexpr int64_t often = 1 << 20;
  int64_t count = 0;
  if (tasks == 1) {
    for (int64_t first = 0; first < particles; first += often, poll()) {
      const int64_t end = std::min(first + often, particles);
#pragma omp simd reduction(+ : count)
      for (int64_t n = first; n < end; ++n) count += std::isfinite(risk[n]) ? 0 : 1;
    }
    return count;
  }
  Paced paced;
  for (const double* r = risk; r != risk + particles * tasks; r += tasks, paced(10 * tasks))
    count += !std::all_of(r, r + tasks, [](double x) { return std::isfinite(x); });
  return count;
}

constexpr double least_exponent = -746;  // below: 0 without libm's slow way there

double unnormalised(double risk, double least, double alpha) {
  if (!std::isfinite(risk)) return 0;
  if (alpha == 0 || risk == least) return 1;
  const double exponent = -alpha * (risk - least);
  return exponent < least_exponent ? 0 : std::exp(exponent);  // alpha = infinity: 0 too
}

// weights[n * stride] = unnormalised(risk[n * stride], least, alpha); their sum.
double unnormalised(const double* risk, int64_t particles, int64_t stride, double least, double alpha,
                    double* weights) {
  constexpr int64_t often = 1 << 20;
  const bool direct = alpha > 0 && alpha < infinity;  // no 0 times infinity but for a risk that is not finite
  if (direct) {
    for (int64_t first = 0; first < particles; first += often, poll()) {
      const int64_t end = std::min(first + often, particles);
#pragma omp simd
      for (int64_t n = first; n < end; ++n) weights[n * stride] = -alpha * (risk[n * stride] - least);
    }
  }
  double total = 0;
  Paced paced;
  for (int64_t n = 0; n < particles; ++n) {
    paced(50);
    double& w = weights[n * stride];
    if (!direct)
      w = unnormalised(risk[n * stride], least, alpha);
    else
      w = w >= least_exponent && w <= 0 ? std::exp(w) : 0;
    if (w != 0) total += w;
  }
  return total;
}

}  // namespace

double gibbs_weights(const double* risk, int64_t particles, int64_t stride, double alpha, double* weights) {
  const double least = smallest_finite(risk, particles, stride);
  if (least == infinity) return 0;
  // most are 0 at a large alpha: neither added nor divided
  const double total = unnormalised(risk, particles, stride, least, alpha, weights);
  double squares = 0;
  Paced paced;
  for (int64_t n = 0; n < particles; ++n) {
    paced(10);
    if (double& w = weights[n * stride]; w != 0) w /= total, squares += w * w;
  }
  return 1 / squares;
}

double alpha_for_ess(const double* risk, int64_t particles, int64_t stride, double ess) {
  const double least = smallest_finite(risk, particles, stride);
  double most = least;
  Paced paced;
  for (int64_t n = 0; n < particles; ++n) {
    paced(10);
    if (const double r = risk[n * stride]; std::isfinite(r)) most = std::max(most, r);
  }
  const double range = most - least;
  if (!(range > 0)) return infinity;  // all equal: every alpha gives the same weights
  const auto ess_at = [&](double alpha) {
    double total = 0, squares = 0;
    for (int64_t n = 0; n < particles; ++n) {
      paced(50);
      const double w = unnormalised(risk[n * stride], least, alpha);
      total += w, squares += w * w;
    }
    return total * total / squares;
  };
  if (ess_at(infinity) >= ess) return infinity;
  if (ess_at(0) <= ess) return 0;
  // alpha * range: at e^-30 the weights are equal to 1e-13; the upper end is found by doubling the logarithm's step
  double low = -30, high = 2;
  for (double step = 4; ess_at(std::exp(high) / range) > ess && high < 600; step *= 2) low = high, high += step;
  for (int i = 0; i < 60 && high - low > 1e-12; ++i) {
    const double middle = 0.5 * (low + high);
    (ess_at(std::exp(middle) / range) > ess ? low : high) = middle;
  }
  return std::exp(0.5 * (low + high)) / range;
}

template <class T, class Out>
void weighted_means(const T* theta, int64_t particles, int64_t size, const double* weights, int64_t tasks, Out* points,
                    int num_threads) {
  // the particles that count, task after task
  std::vector<int64_t> rows, first{0};
  std::vector<double> w;
  rows.reserve(size_t(particles * tasks)), w.reserve(size_t(particles * tasks));
  Paced paced;
  for (int64_t t = 0; t < tasks; ++t) {
    for (int64_t n = 0; n < particles; ++n) {
      paced(10);
      if (const double weight = weights[n * tasks + t]; weight > 0) rows.push_back(n), w.push_back(weight);
    }
    first.push_back(int64_t(rows.size()));
  }
  const auto sum = [] {
    if constexpr (std::is_same_v<Out, T>)
      return isa_table().consensus<T>().weighted_sum;
    else
      return isa_table().consensus<T>().weighted_total;
  }();
  // a parallel region costs about as much as reading 50,000 numbers
  const int threads =
      int64_t(rows.size()) * size < 50000
          ? 1
          : thread_count(num_threads, divide_up(size, consensus_block) * tasks, nanoseconds(0.3, rows.size(), size));
  const int64_t share = round_up(divide_up(size * tasks, threads), 64);
  const int64_t block = std::clamp(share, consensus_block, longest_block), blocks = divide_up(size, block);
  parallel_for(blocks * tasks, threads, [&](int64_t i) {
    const int64_t t = i / blocks, b = i % blocks, from = first[size_t(t)];
    sum(theta, size, rows.data() + from, w.data() + from, first[size_t(t + 1)] - from, b * block,
        std::min((b + 1) * block, size), points + t * size);
  });
}

namespace {

// With alpha(task) for each task.
template <class T, class Alpha>
RiskCheck gather(const T* theta, int64_t particles, int64_t size, const double* risk, int64_t tasks, Alpha alpha,
                 T* points, double* weights, double* ess, int num_threads) {
  const RiskCheck check{count_not_finite(risk, particles, tasks), -1};
  constexpr int64_t worth_threads = 4096;  // weights
  const double work = nanoseconds(5, particles, tasks);
  const int threads = tasks > 1 && particles * tasks > worth_threads ? thread_count(num_threads, tasks, work) : 1;
  parallel_for(tasks, threads, [&](int64_t t) {
    ess[t] = gibbs_weights(risk + t, particles, tasks, alpha(t), weights + t);
  }, short_tasks(10 * particles));
  const double* failed = std::find(ess, ess + tasks, 0.0);
  if (failed != ess + tasks) return {check.not_finite, failed - ess};
  weighted_means(theta, particles, size, weights, tasks, points, num_threads);
  return check;
}

}  // namespace

template <class T>
RiskCheck consensus(const T* theta, int64_t particles, int64_t size, const double* risk, int64_t tasks, double alpha,
                    T* points, double* weights, double* ess, int num_threads) {
  return gather(theta, particles, size, risk, tasks, [&](int64_t) { return alpha; }, points, weights, ess, num_threads);
}

template <class T>
RiskCheck consensus_at_ess(const T* theta, int64_t particles, int64_t size, const double* risk, int64_t tasks,
                           double target, double* alphas, T* points, double* weights, double* ess, int num_threads) {
  const auto alpha = [&](int64_t t) { return alphas[t] = alpha_for_ess(risk + t, particles, tasks, target); };
  return gather(theta, particles, size, risk, tasks, alpha, points, weights, ess, num_threads);
}

template <class T>
double ensemble_variance(const T* theta, int64_t particles, int64_t size, int num_threads) {
  const ConsensusKernels<T>& kernels = isa_table().consensus<T>();
  const int64_t blocks = divide_up(size, consensus_block);
  std::vector<double> part(static_cast<size_t>(blocks));
  const int threads = thread_count(num_threads, blocks, nanoseconds(0.5, particles, size));
  parallel_for(blocks, threads, [&](int64_t b) {
    part[size_t(b)] =
        kernels.spread(theta, particles, size, b * consensus_block, std::min((b + 1) * consensus_block, size));
  });
  double total = 0;
  for (const double p : part) total += p;
  return total / (2.0 * double(particles));
}

#define CBK_INSTANTIATE(T) \
  template void weighted_means(const T*, int64_t, int64_t, const double*, int64_t, T*, int); \
  template RiskCheck consensus(const T*, int64_t, int64_t, const double*, int64_t, double, T*, double*, double*, int); \
  template RiskCheck consensus_at_ess(const T*, int64_t, int64_t, const double*, int64_t, double, double*, T*, \
                                      double*, double*, int); \
  template double ensemble_variance(const T*, int64_t, int64_t, int);
CBK_INSTANTIATE(float)
CBK_INSTANTIATE(double)
template void weighted_means(const float*, int64_t, int64_t, const double*, int64_t, double*, int);
#undef CBK_INSTANTIATE

}  // namespace cbk
