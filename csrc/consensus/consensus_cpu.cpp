#include "consensus.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "../common/isa.hpp"
#include "../common/parallel.hpp"

namespace cbk {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

constexpr int64_t often = 1 << 16;  // risks between two polls, and that a task's are gathered of

// f(the risks' memory, that of the weights, how many) of risks and weights that are `stride` apart.
template <class F>
void for_blocks(const double* risk, int64_t particles, int64_t stride, double* weights, F&& f) {
  constexpr int64_t gathered = 512;
  double own[gathered];
  for (int64_t first = 0, count; first < particles; first += count) {
    count = std::min(particles - first, stride == 1 ? often : gathered);
    if (stride == 1) {
      poll();
      f(risk + first, weights ? weights + first : nullptr, count);
      continue;
    }
    for (int64_t i = 0; i < count; ++i) own[i] = risk[(first + i) * stride];
    f(own, own, count);
    for (int64_t i = 0; i < count && weights; ++i) weights[(first + i) * stride] = own[i];
  }
}

// Particles with a risk that is not finite in some task.
int64_t count_not_finite(const double* risk, int64_t particles, int64_t tasks) {
  int64_t count = 0;
  Paced paced;
  for (const double* r = risk; r != risk + particles * tasks; r += tasks, paced(10 * tasks))
    count += !std::all_of(r, r + tasks, [](double x) { return std::isfinite(x); });
  return count;
}

double smallest_finite(const double* risk, int64_t particles, int64_t stride, int64_t& not_finite) {
  double least = infinity;
  for_blocks(risk, particles, stride, nullptr, [&](const double* r, double*, int64_t count) {
    least = std::min(least, isa_table().weights.least(r, count, not_finite));
  });
  return least;
}

double total_of(const double (&sums)[risk_sums]) {
  return ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
}

}  // namespace

double gibbs_weights(const double* risk, int64_t particles, int64_t stride, double alpha, double* weights,
                     int64_t* not_finite) {
  int64_t lost = 0;
  const double least = smallest_finite(risk, particles, stride, lost);
  if (not_finite) *not_finite = lost;
  if (least == infinity) return 0;
  const WeightKernels& kernels = isa_table().weights;
  WeightSums sums;
  for_blocks(risk, particles, stride, weights,
             [&](const double* r, double* w, int64_t count) { kernels.weigh(r, count, least, alpha, w, sums); });
  const double total = total_of(sums.weights);
  for_blocks(weights, particles, stride, weights,
             [&](const double*, double* w, int64_t count) { kernels.scale(w, count, 1 / total); });
  return total * total / total_of(sums.squares);
}

double alpha_for_ess(const double* risk, int64_t particles, int64_t stride, double ess) {
  int64_t lost = 0;
  const double least = smallest_finite(risk, particles, stride, lost);
  double most = least;
  Paced paced;
  for (int64_t n = 0; n < particles; ++n) {
    paced(10);
    if (const double r = risk[n * stride]; std::isfinite(r)) most = std::max(most, r);
  }
  const double range = most - least;
  if (!(range > 0)) return infinity;  // all equal: every alpha gives the same weights
  Buffer<double> scratch(std::min(particles, often));
  const auto ess_at = [&](double alpha) {
    WeightSums sums;
    for_blocks(risk, particles, stride, nullptr, [&](const double* r, double*, int64_t count) {
      isa_table().weights.weigh(r, count, least, alpha, scratch.data(), sums);
    });
    const double total = total_of(sums.weights);
    return total * total / total_of(sums.squares);
  };
  if (ess_at(infinity) >= ess) return infinity;
  if (ess_at(0) <= ess) return 0;
  // Bisection in log(alpha * range).  At -30 all weights agree to 1e-13.  The upper end is found in steps that double.
  double low = -30, high = 2;
  for (double step = 4; ess_at(std::exp(high) / range) > ess && high < 600; step *= 2) low = high, high += step;
  for (int i = 0; i < 60 && high - low > 1e-12; ++i) {
    const double middle = 0.5 * (low + high);
    (ess_at(std::exp(middle) / range) > ess ? low : high) = middle;
  }
  return std::exp(0.5 * (low + high)) / range;
}

namespace {

constexpr int64_t worth_a_region = 50000;  // numbers: reading so many takes about as long as a parallel region

template <class T, class Out>
void short_means(const T* theta, int64_t particles, int64_t size, const double* weights, int64_t tasks, Out* points,
                 int num_threads) {
  const auto sum = [] {
    if constexpr (std::is_same_v<Out, T>)
      return isa_table().consensus<T>().short_sum;
    else
      return isa_table().consensus<T>().short_total;
  }();
  const int threads = particles * tasks * size < worth_a_region
                          ? 1
                          : thread_count(num_threads, tasks, nanoseconds(1.5, particles, tasks));
  parallel_for(tasks, threads, [&](int64_t t) { sum(theta, size, particles, weights + t, tasks, points + t * size); });
}

}  // namespace

template <class T, class Out>
void weighted_means(const T* theta, int64_t particles, int64_t size, const double* weights, int64_t tasks, Out* points,
                    int num_threads) {
  if (size <= short_mean) return short_means(theta, particles, size, weights, tasks, points, num_threads);
  // the particles with a weight above 0, one task after another
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
  const int threads =
      int64_t(rows.size()) * size < worth_a_region
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

// Threads for the weights of several tasks, of so many nanoseconds each.
int weighing_threads(int num_threads, int64_t particles, int64_t tasks, double each) {
  constexpr int64_t worth_threads = 4096;  // weights
  if (tasks == 1 || particles * tasks <= worth_threads) return 1;
  return thread_count(num_threads, tasks, nanoseconds(each, particles, tasks));
}

// Weights at one alpha, all tasks beside one another: the bits of gibbs_weights task after task.
RiskCheck weigh_tasks(const double* risk, int64_t particles, int64_t tasks, double alpha, double* weights, double* ess,
                      int num_threads) {
  const WeightKernels& kernels = isa_table().weights;
  const int threads = weighing_threads(num_threads, particles, tasks, 2);
  const int64_t places = risk_sums * tasks;
  std::vector<double> least(static_cast<size_t>(places)), sums(least.size()), squares(least.size());
  const auto share = [&](auto&& f) {
    parallel_for(threads, threads, [&](int64_t k) {
      f(RiskTable{risk, particles, tasks, risk_sums * (tasks * k / threads), risk_sums * (tasks * (k + 1) / threads)});
    });
  };
  // f(the places of task t), one after the other
  const auto for_task = [&](int64_t t, auto&& f) {
    for (int64_t i = 0; i < risk_sums; ++i) f(size_t(i * tasks + t), i);
  };
  std::atomic<int64_t> lost{0};
  share([&](const RiskTable& table) { lost += kernels.least_of(table, least.data()); });
  RiskCheck check{lost > 0 ? count_not_finite(risk, particles, tasks) : 0, -1};
  for (int64_t t = 0; t < tasks; ++t) {
    double all = infinity;
    for_task(t, [&](size_t place, int64_t) { all = std::min(all, least[place]); });
    for_task(t, [&](size_t place, int64_t) { least[place] = all; });
    if (all == infinity && check.failed < 0) check.failed = t;
  }
  if (check.failed >= 0) return check;
  share([&](const RiskTable& table) {
    kernels.weigh_of(table, least.data(), alpha, weights, sums.data(), squares.data());
  });
  for (int64_t t = 0; t < tasks; ++t) {
    double own[risk_sums], own_squares[risk_sums];
    for_task(t, [&](size_t place, int64_t i) { own[i] = sums[place], own_squares[i] = squares[place]; });
    const double total = total_of(own);
    for_task(t, [&](size_t place, int64_t) { sums[place] = 1 / total; });
    ess[t] = total * total / total_of(own_squares);
  }
  share([&](const RiskTable& table) { kernels.scale_of(table, sums.data(), weights); });
  return check;
}

// Weights with alpha(task) for each task.
template <class Alpha>
RiskCheck weigh_each(const double* risk, int64_t particles, int64_t tasks, Alpha alpha, double* weights, double* ess,
                     int num_threads) {
  RiskCheck check{tasks > 1 ? count_not_finite(risk, particles, tasks) : 0, -1};
  parallel_for(tasks, weighing_threads(num_threads, particles, tasks, 5), [&](int64_t t) {
    ess[t] = gibbs_weights(risk + t, particles, tasks, alpha(t), weights + t, tasks > 1 ? nullptr : &check.not_finite);
  }, short_tasks(10 * particles));
  if (const double* failed = std::find(ess, ess + tasks, 0.0); failed != ess + tasks) check.failed = failed - ess;
  return check;
}

}  // namespace

template <class T>
RiskCheck consensus(const T* theta, int64_t particles, int64_t size, const double* risk, int64_t tasks, double alpha,
                    T* points, double* weights, double* ess, int num_threads) {
  const RiskCheck check =
      tasks > 1 ? weigh_tasks(risk, particles, tasks, alpha, weights, ess, num_threads)
                : weigh_each(risk, particles, 1, [=](int64_t) { return alpha; }, weights, ess, num_threads);
  if (check.failed < 0) weighted_means(theta, particles, size, weights, tasks, points, num_threads);
  return check;
}

template <class T>
RiskCheck consensus_at_ess(const T* theta, int64_t particles, int64_t size, const double* risk, int64_t tasks,
                           double target, double* alphas, T* points, double* weights, double* ess, int num_threads) {
  const auto alpha = [&](int64_t t) { return alphas[t] = alpha_for_ess(risk + t, particles, tasks, target); };
  const RiskCheck check = weigh_each(risk, particles, tasks, alpha, weights, ess, num_threads);
  if (check.failed < 0) weighted_means(theta, particles, size, weights, tasks, points, num_threads);
  return check;
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
