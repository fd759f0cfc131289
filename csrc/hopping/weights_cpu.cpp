// Weights of risks, and the step's drift from an ensemble that is weighed in blocks.
#include <omp.h>

#include <cmath>

#include "../common/parallel.hpp"
#include "../consensus/consensus.hpp"
#include "hopping.hpp"

namespace cbk {
namespace {

struct Ranked {
  double risk;
  int64_t n;  // decides between equal risks
  bool operator<(const Ranked& other) const { return risk < other.risk || (risk == other.risk && n < other.n); }
};

// One column by rank: only the better half has weights, and only that is sorted.  Returns the ess.
double rank_column(double* risk, int64_t rows, int64_t stride, int64_t fold, Ranked* ranked) {
  const auto of = [=](int64_t n) -> double& { return risk[(n % (rows / fold) * fold + n / (rows / fold)) * stride]; };
  int64_t finite = 0;
  for (int64_t n = 0; n < rows; ++n) {
    if (std::isfinite(of(n))) ranked[finite++] = {of(n), n};
    of(n) = 0;
  }
  const int64_t count = std::min(finite, rows / 2);
  if (count == 0) return 0;
  if (count < finite) std::nth_element(ranked, ranked + count, ranked + finite);
  std::sort(ranked, ranked + count);
  const double top = std::log(double(rows) / 2 + 0.5);
  double total = 0, squares = 0;
  for (int64_t rank = 0; rank < count; ++rank) {
    const double weight = of(ranked[rank].n) = top - std::log(double(rank + 1));
    total += weight, squares += weight * weight;
  }
  for (int64_t rank = 0; rank < count; ++rank) of(ranked[rank].n) /= total;
  return total * total / squares;
}

// One column with Gibbs weights of an ess.  Returns that, and its alpha.
double gibbs_column(double* risk, int64_t rows, int64_t stride, double target, double* column, double& alpha) {
  for (int64_t n = 0; n < rows; ++n) column[n] = risk[n * stride];
  alpha = alpha_for_ess(column, rows, 1, target);
  const double ess = gibbs_weights(risk, rows, stride, alpha, risk);
  for (int64_t n = 0; n < rows && ess == 0; ++n) risk[n * stride] = 0;
  return ess;
}

int64_t nonfinite_rows(const double* risk, int64_t rows, int64_t columns) {
  int64_t count = 0;
  for (int64_t n = 0; n < rows; ++n)
    count += !std::all_of(risk + n * columns, risk + (n + 1) * columns, [](double r) { return std::isfinite(r); });
  return count;
}

}  // namespace

Weighed hopping_weights(double* risk, int64_t rows, int64_t columns, bool mirrored, double fraction, double* ess,
                        int num_threads) {
  Weighed result{0, nonfinite_rows(risk, rows, columns)};
  // a parallel region costs about as much as ranking 500 risks
  const int threads = rows * columns < 1000 ? 1 : thread_count(num_threads, columns, nanoseconds(20, rows, columns));
  Buffer<Ranked> scratch(threads * rows);
  Buffer<double> alpha(columns);
  parallel_for(columns, threads, [&](int64_t c) {
    Ranked* own = scratch.data() + omp_get_thread_num() * rows;
    alpha.data()[c] = 0;
    ess[c] = fraction > 0 ? gibbs_column(risk + c, rows, columns, std::max(1.0, fraction * double(rows)),
                                         reinterpret_cast<double*>(own), alpha.data()[c])
                          : rank_column(risk + c, rows, columns, mirrored ? 2 : 1, own);
  }, short_tasks(10 * rows));
  for (int64_t c = 0; c < columns; ++c) result.alpha += alpha.data()[c] / double(columns);
  return result;
}

namespace {

// What is summed over blocks: each column's share of the particles that were weighed, sum of squared weights.
struct Sums {
  Buffer<double> share, squares;
  explicit Sums(int64_t columns) : share(columns), squares(columns) {
    std::fill_n(share.data(), columns, 0.0);
    std::fill_n(squares.data(), columns, 0.0);
  }
  double ess(int64_t columns) {
    double mean = 0;
    for (int64_t c = 0; c < columns; ++c) {
      const double s = share.data()[c];
      if (s == 0) return 0;
      mean += s * s / squares.data()[c] / double(columns);
    }
    return mean;
  }
};

// Weights [rows, columns] -> weights of the normals [draws, columns]: of a pair's difference, or less the mean's
// 1/rows.
int64_t weights_of_draws(bool mirrored, int64_t rows, int64_t columns, const double* ess, double* weights) {
  if (!mirrored) {
    for (int64_t i = 0; i < rows * columns; ++i)
      if (ess[i % columns] > 0) weights[i] -= 1 / double(rows);
    return rows;
  }
  for (int64_t n = 0; n < rows / 2; ++n)
    for (int64_t c = 0; c < columns; ++c)
      weights[n * columns + c] = weights[2 * n * columns + c] - weights[(2 * n + 1) * columns + c];
  return rows / 2;
}

// score(block, first, risks): the risks [block.particles, columns] of a block whose first draw is `first`.
template <class T, class Score>
HoppingStep weigh_blocks(const Draw<T>& draw, int64_t size, int64_t columns, double fraction, const int32_t* atom,
                         T* gradient, int threads, Score score) {
  const int64_t fold = draw.mirrored ? 2 : 1, draws = draw.particles / fold;
  const int64_t blocks = divide_up(draw.particles, block_rows(columns));
  Buffer<double> risks((draws / blocks + 1) * fold * columns), ess(columns), drift(size), sum(size);
  std::fill_n(sum.data(), size, 0.0);
  Sums sums(columns);
  HoppingStep result{};
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t first = b * draws / blocks, last = (b + 1) * draws / blocks;
    Draw<T> block = draw;
    block.particles = (last - first) * fold;
    block.key.first_particle += uint32_t(first);
    score(block, first, risks.data());
    const Weighed weighed =
        hopping_weights(risks.data(), block.particles, columns, draw.mirrored, fraction, ess.data(), threads);
    const double share = double(block.particles) / double(draw.particles);
    for (int64_t c = 0; c < columns; ++c)
      if (const double e = ess.data()[c]; e > 0)
        sums.share.data()[c] += share, sums.squares.data()[c] += share * share / e;
    result.alpha += share * weighed.alpha;
    result.nonfinite += weighed.nonfinite;
    const int64_t rows = weights_of_draws(draw.mirrored, block.particles, columns, ess.data(), risks.data());
    noise_drift<T>(risks.data(), rows, columns, atom, block.key, size, drift.data(), threads);
    for (int64_t i = 0; i < size; ++i) sum.data()[i] += share * drift.data()[i];
  }
  for (int64_t i = 0; i < size; ++i) gradient[i] = T(-sum.data()[i]);
  result.ess = sums.ess(columns);
  return result;
}

}  // namespace

template <class T>
HoppingStep hopping_gradient(const RiskProblem<T>& problem, double fraction, const int32_t* atom, T* gradient,
                             int num_threads) {
  const int64_t columns = atom ? problem.net.width : 1;
  return weigh_blocks(*problem.draw, problem.net.size(), columns, fraction, atom, gradient, num_threads,
                      [&](const Draw<T>& block, int64_t, double* risks) {
    RiskProblem<T> part = problem;
    part.draw = &block;
    part.particles = block.particles;
    if (atom)
      atom_risks(part, block.center, risks, num_threads);
    else
      risk(part, risks, num_threads);
  });
}

template <class T>
HoppingStep hopping_gradient(const Draw<T>& draw, int64_t size, const double* risk, double fraction, T* gradient,
                             int num_threads) {
  return weigh_blocks(draw, size, 1, fraction, nullptr, gradient, num_threads,
                      [&](const Draw<T>& block, int64_t first, double* risks) {
    const int64_t fold = draw.mirrored ? 2 : 1, draws = draw.particles / fold;
    for (int64_t n = 0; n < block.particles; ++n) risks[n] = risk[first + n / fold + n % fold * draws];
  });
}

#define CBK_INSTANTIATE(T) \
  template HoppingStep hopping_gradient(const RiskProblem<T>&, double, const int32_t*, T*, int); \
  template HoppingStep hopping_gradient(const Draw<T>&, int64_t, const double*, double, T*, int);
CBK_INSTANTIATE(float)
CBK_INSTANTIATE(double)
#undef CBK_INSTANTIATE

}  // namespace cbk
