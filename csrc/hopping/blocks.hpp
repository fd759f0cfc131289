// The step's drift from an ensemble that is weighed in blocks.
#pragma once

#include <algorithm>
#include <type_traits>

#include "../common/parallel.hpp"
#include "hopping.hpp"

namespace cbk {

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
inline void weights_of_draws(bool mirrored, int64_t rows, int64_t columns, const double* ess, double* weights) {
  if (!mirrored) {
    for (int64_t i = 0; i < rows * columns; ++i)
      if (ess[i % columns] > 0) weights[i] -= 1 / double(rows);
    return;
  }
  for (int64_t n = 0; n < rows / 2; ++n)
    for (int64_t c = 0; c < columns; ++c)
      weights[n * columns + c] = weights[2 * n * columns + c] - weights[(2 * n + 1) * columns + c];
}

// What weighs a block's risks by their ranks, or by Gibbs weights.
inline auto by_consensus(bool mirrored, int64_t columns, double fraction, int threads) {
  return [=](const auto& block, double* risks, double* ess) {
    const Weighed weighed = hopping_weights(risks, block.particles, columns, mirrored, fraction, ess, threads);
    weights_of_draws(mirrored, block.particles, columns, ess, risks);
    return weighed;
  };
}

// out = sign times what was summed.
template <class T>
void take_sums(const double* sums, double sign, int64_t size, T* out, int num_threads) {
  constexpr int64_t piece = 8192;
  const int64_t pieces = divide_up(size, piece);
  parallel_for(pieces, thread_count(num_threads, pieces, nanoseconds(0.5, size)), [=](int64_t i) {
    const int64_t end = std::min((i + 1) * piece, size);
    for (int64_t j = i * piece; j < end; ++j) out[j] = T(sign * sums[j]);
  });
}

// rows_together: particles of a block at most.
// score(block, first, risks): the risks [block.particles, columns] of a block whose first draw is `first`.
// weigh(block, risks, ess): these become the weights [draws, columns] of its noise; ess [columns].
// drift(block, weights, draws, out): the sum over the block's draws of their weights times their noise, as double, or
// if it can, straight to T, times a sign, where there is one block.
template <class T, class Score, class Weigh, class Drift>
HoppingStep weigh_blocks(const Draw<T>& draw, int64_t size, int64_t columns, int64_t rows_together, T* gradient,
                         int threads, Score score, Weigh weigh, Drift drift_of) {
  const int64_t fold = draw.mirrored ? 2 : 1, draws = draw.particles / fold;
  const int64_t blocks = divide_up(draw.particles, rows_together);
  constexpr bool signs = std::is_invocable_v<Drift, const Draw<T>&, const double*, int64_t, T*, double>;
  const bool straight = blocks == 1 && signs;
  Buffer<double> risks((draws / blocks + 1) * fold * columns), ess(columns), drift(straight ? 0 : size),
      sum(blocks > 1 ? size : 0);
  Sums sums(columns);
  HoppingStep result{};
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t first = b * draws / blocks, last = (b + 1) * draws / blocks;
    Draw<T> block = draw;
    block.particles = (last - first) * fold;
    block.key.first_particle += uint32_t(first);
    score(block, first, risks.data());
    const Weighed weighed = weigh(block, risks.data(), ess.data());
    const double share = double(block.particles) / double(draw.particles);
    for (int64_t c = 0; c < columns; ++c)
      if (const double e = ess.data()[c]; e > 0)
        sums.share.data()[c] += share, sums.squares.data()[c] += share * share / e;
    result.alpha += share * weighed.alpha;
    result.nonfinite += weighed.nonfinite;
    if constexpr (signs)
      if (straight) {
        drift_of(block, risks.data(), draws, gradient, -1.0);
        break;
      }
    drift_of(block, risks.data(), last - first, drift.data());
    for (int64_t i = 0; i < size && blocks > 1; ++i)
      sum.data()[i] = (b > 0 ? sum.data()[i] : 0) + share * drift.data()[i];
  }
  if (!straight) take_sums(blocks > 1 ? sum.data() : drift.data(), -1, size, gradient, threads);
  result.ess = sums.ess(columns);
  return result;
}

}  // namespace cbk
