// The consensus point v = sum_n beta_n theta_n, beta_n = exp(-alpha R_n) / sum_k exp(-alpha R_k) [PTTM 2017].
//
// Exponents are shifted by the smallest risk, all sums are float64 in a fixed order, and particles of zero weight are
// never read.  A particle whose risk is not finite has weight 0.  alpha = infinity: equal weights on the exact minima.
// Sums over risks are eight sums, the i-th risk's part in the i % 8-th: so no order depends on the vectors' length.
#pragma once

#include <cstdint>

namespace cbk {

constexpr int risk_sums = 8;

// Of unnormalised weights.
struct WeightSums {
  double weights[risk_sums] = {}, squares[risk_sums] = {};
};

// Risks [particles, tasks] as one line of numbers.  Each of the 8 T places in eight particles' risks has its own sum.
// Threads share these places: [begin, end) are one thread's, both multiples of 8.
struct RiskTable {
  const double* risk;
  int64_t particles, tasks, begin, end;
};

struct WeightKernels {
  // The least finite one of risk[count], or infinity; `not_finite` grows by the number of those that are not.
  double (*least)(const double* risk, int64_t count, int64_t& not_finite);
  // weights[i] = exp(-alpha (risk[i] - least)), which may be the risks' own memory; the sums grow by them.
  void (*weigh)(const double* risk, int64_t count, double least, double alpha, double* weights, WeightSums& sums);
  void (*scale)(double* weights, int64_t count, double factor);
  // The same of several tasks, with a least risk, sums and a factor for each place; `least_of` returns how many numbers
  // are not finite.
  int64_t (*least_of)(const RiskTable& table, double* least);
  void (*weigh_of)(const RiskTable& table, const double* least, double alpha, double* weights, double* sums,
                   double* squares);
  void (*scale_of)(const RiskTable& table, const double* factor, double* weights);
};

template <class T>
struct ConsensusKernels {
  // out[i] = sum_j weights[j] theta[rows[j]][i] for i in [begin, end), end - begin <= longest_block
  void (*weighted_sum)(const T* theta, int64_t stride, const int64_t* rows, const double* weights, int64_t count,
                       int64_t begin, int64_t end, T* out);
  void (*weighted_total)(const T* theta, int64_t stride, const int64_t* rows, const double* weights, int64_t count,
                         int64_t begin, int64_t end, double* out);  // the same, not rounded to T
  // The same of rows of at most `short_mean` numbers, with weights[n * stride] of every particle n.  Rows of at most
  // `line_mean` numbers are eight sums, the n-th row's part in the n % 8-th, others of at most 8 are four.
  void (*short_sum)(const T* theta, int64_t size, int64_t particles, const double* weights, int64_t stride, T* out);
  void (*short_total)(const T* theta, int64_t size, int64_t particles, const double* weights, int64_t stride,
                      double* out);
  // sum over i in [begin, end) and particles of (theta - mean over particles)^2; of rows of at most `line_mean` numbers
  // over all of them
  double (*spread)(const T* theta, int64_t particles, int64_t stride, int64_t begin, int64_t end);
};
constexpr int64_t consensus_block = 1024;  // its float64 sums are a quarter of the first cache
constexpr int64_t short_mean = 32, line_mean = 5;
constexpr int64_t longest_block = 8192;  // of points, whose bits do not depend on it: long runs of memory

// Weights of one task from risk[n * stride]; returns the effective sample size 1 / sum beta^2, or 0 where no risk is
// finite (weights are then untouched).  `not_finite`: where the number of risks that are not finite goes.
double gibbs_weights(const double* risk, int64_t particles, int64_t stride, double alpha, double* weights,
                     int64_t* not_finite = nullptr);

// The alpha at which the effective sample size is `ess`, by bisection in log alpha, scaled by the risks' spread;
// infinity where even the minima alone are more than `ess`.
double alpha_for_ess(const double* risk, int64_t particles, int64_t stride, double ess);

// What became of the risks of N particles on T tasks.
struct RiskCheck {
  int64_t not_finite;  // particles with a risk that is not finite
  int64_t failed;      // a task on which no risk is finite, or -1
};

// points[T, D], weights[N, T] and ess[T] from risk[N, T]; nothing but the weights is written where a task has failed.
template <class T>
RiskCheck consensus(const T* theta, int64_t particles, int64_t size, const double* risk, int64_t tasks, double alpha,
                    T* points, double* weights, double* ess, int num_threads);
// The same at the alphas[T] at which the effective sample sizes are `target`.
template <class T>
RiskCheck consensus_at_ess(const T* theta, int64_t particles, int64_t size, const double* risk, int64_t tasks,
                           double target, double* alphas, T* points, double* weights, double* ess, int num_threads);

// points[T, D] from weights[N, T]; Out is T, or double for sums that are added to others.
template <class T, class Out>
void weighted_means(const T* theta, int64_t particles, int64_t size, const double* weights, int64_t tasks, Out* points,
                    int num_threads);

// (1/2N) sum_n |theta_n - mean|^2.
template <class T>
double ensemble_variance(const T* theta, int64_t particles, int64_t size, int num_threads);

}  // namespace cbk
