// Weights of risks, and the step's drift.
#include <omp.h>

#include <cmath>

#include "../common/isa.hpp"
#include "../common/parallel.hpp"
#include "../consensus/consensus.hpp"
#include "blocks.hpp"

namespace cbk {
namespace {

struct Ranked {
  double risk;
  int64_t n;
  bool operator<(const Ranked& other) const { return risk < other.risk; }
};

// Puts the `count` best in their order, and behind them those that equal the last; returns how many there are.  Among
// few, by counting how many are better than each; where some are equal, and among many, by sorting.
constexpr int64_t counted = 512;
int64_t put_best(Ranked* ranked, int64_t finite, int64_t count) {
  const auto [low, high] = std::minmax_element(ranked, ranked + finite);
  // to integers in the same order
  const double least = low->risk, scale = 2147483000.0 / (high->risk - least);
  if (finite <= counted && scale > 0 && scale < HUGE_VAL) {
    int32_t values[counted], ranks[counted];
    const int64_t padded = round_up(finite, 16);
    for (int64_t n = 0; n < padded; ++n) values[n] = n < finite ? int32_t((ranked[n].risk - least) * scale) : INT32_MAX;
    isa_table().hopping<double>().ranks(values, padded, ranks);
    int64_t sum = 0;
    for (int64_t n = 0; n < finite; ++n) sum += ranks[n];
    if (sum == finite * (finite - 1) / 2) {  // no two are equal
      Ranked best[counted];
      for (int64_t n = 0; n < finite; ++n) best[ranks[n]] = ranked[n];
      std::copy_n(best, count, ranked);
      return count;
    }
  }
  if (count < finite) std::nth_element(ranked, ranked + count, ranked + finite);
  std::sort(ranked, ranked + count);
  const double last = ranked[count - 1].risk;
  return std::partition(ranked + count, ranked + finite, [=](const Ranked& r) { return r.risk == last; }) - ranked;
}

// One column by rank: the better half has weights, log_weights of their ranks.  Equal risks share theirs equally: else
// the order of the draws would move a centre around which all risks are equal.  Returns the ess.
double rank_column(double* risk, int64_t rows, int64_t stride, int64_t fold, const double* log_weights,
                   Ranked* ranked) {
  int64_t finite = 0;  // a draw's place in the risks is its n
  for (int64_t sign = 0; sign < fold; ++sign)
    for (int64_t n = sign; n < rows; n += fold) {
      double& own = risk[n * stride];
      if (std::isfinite(own)) ranked[finite++] = {own, n};
      own = 0;
    }
  const int64_t count = std::min(finite, rows / 2);
  if (count == 0) return 0;
  const int64_t weighed = put_best(ranked, finite, count);
  double total = 0, squares = 0;
  for (int64_t rank = 0; rank < count; ++rank) total += log_weights[rank];
  for (int64_t rank = 0, end; rank < weighed; rank = end) {
    double shared = 0;
    for (end = rank; end < weighed && ranked[end].risk == ranked[rank].risk; ++end)
      if (end < count) shared += log_weights[end];
    const double weight = shared / total / double(end - rank);  // exactly 1 / rows where all are equal
    squares += double(end - rank) * weight * weight;
    for (int64_t r = rank; r < end; ++r) risk[ranked[r].n * stride] = weight;
  }
  return 1 / squares;
}

// One column with Gibbs weights of an ess.  Returns that, and its alpha.
double gibbs_column(double* risk, int64_t rows, int64_t stride, double target, double* column, double& alpha) {
  for (int64_t n = 0; n < rows; ++n) column[n] = risk[n * stride];
  alpha = alpha_for_ess(column, rows, 1, target);
  const double ess = gibbs_weights(risk, rows, stride, alpha, risk);
  for (int64_t n = 0; n < rows && ess == 0; ++n) risk[n * stride] = 0;
  return ess;
}

}  // namespace

int64_t nonfinite_rows(const double* risk, int64_t rows, int64_t columns) {
  int64_t count = 0;
  for (int64_t n = 0; n < rows; ++n)
    count += !std::all_of(risk + n * columns, risk + (n + 1) * columns, [](double r) { return std::isfinite(r); });
  return count;
}

Weighed hopping_weights(double* risk, int64_t rows, int64_t columns, bool mirrored, double fraction, double* ess,
                        int num_threads) {
  Weighed result{0, nonfinite_rows(risk, rows, columns)};
  // a parallel region costs about as much as ranking 500 risks
  const int threads = rows * columns < 1000 ? 1 : thread_count(num_threads, columns, nanoseconds(20, rows, columns));
  Buffer<Ranked> scratch(threads * rows);
  Buffer<double> alpha(columns), log_weights(rows / 2);
  for (int64_t rank = 0; rank < rows / 2; ++rank)
    log_weights.data()[rank] = std::log(double(rows) / 2 + 0.5) - std::log(double(rank + 1));
  parallel_for(columns, threads, [&](int64_t c) {
    Ranked* own = scratch.data() + omp_get_thread_num() * rows;
    alpha.data()[c] = 0;
    ess[c] = fraction > 0 ? gibbs_column(risk + c, rows, columns, std::max(1.0, fraction * double(rows)),
                                         reinterpret_cast<double*>(own), alpha.data()[c])
                          : rank_column(risk + c, rows, columns, mirrored ? 2 : 1, log_weights.data(), own);
  }, short_tasks(10 * rows));
  for (int64_t c = 0; c < columns; ++c) result.alpha += alpha.data()[c] / double(columns);
  return result;
}

template <class T>
HoppingStep hopping_gradient(const RiskProblem<T>& problem, double fraction, const int32_t* atom, T* gradient,
                             int num_threads) {
  const int64_t columns = atom ? problem.net.width : 1;
  const int64_t size = problem.net.size();
  const auto score = [&](const Draw<T>& block, int64_t, double* risks) {
    RiskProblem<T> part = problem;
    part.draw = &block;
    part.particles = block.particles;
    if (atom)
      atom_risks(part, block.center, risks, num_threads);
    else
      risk(part, risks, num_threads);
  };
  const auto drift = [&](const Draw<T>& block, const double* weights, int64_t rows, double* out) {
    noise_drift<T>(weights, rows, columns, atom, block.key, size, out, num_threads);
  };
  const auto weigh = by_consensus(problem.draw->mirrored, columns, fraction, num_threads);
  return weigh_blocks(*problem.draw, size, columns, block_rows(columns), gradient, num_threads, score, weigh, drift);
}

template <class T>
HoppingStep hopping_gradient(const Draw<T>& draw, int64_t size, const double* risk, double fraction, T* gradient,
                             int num_threads) {
  const auto score = [&](const Draw<T>& block, int64_t first, double* risks) {
    const int64_t fold = draw.mirrored ? 2 : 1, draws = draw.particles / fold;
    for (int64_t n = 0; n < block.particles; ++n) risks[n] = risk[first + n / fold + n % fold * draws];
  };
  const auto drift = [&](const Draw<T>& block, const double* weights, int64_t rows, double* out) {
    noise_drift<T>(weights, rows, 1, nullptr, block.key, size, out, num_threads);
  };
  const auto weigh = by_consensus(draw.mirrored, 1, fraction, num_threads);
  return weigh_blocks(draw, size, 1, block_rows(1), gradient, num_threads, score, weigh, drift);
}

#define CBK_INSTANTIATE(T) \
  template HoppingStep hopping_gradient(const RiskProblem<T>&, double, const int32_t*, T*, int); \
  template HoppingStep hopping_gradient(const Draw<T>&, int64_t, const double*, double, T*, int);
CBK_INSTANTIATE(float)
CBK_INSTANTIATE(double)
#undef CBK_INSTANTIATE

}  // namespace cbk
