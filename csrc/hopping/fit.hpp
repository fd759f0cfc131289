// Least squares of pairs' differences (low_rank.hpp) in their steps.
#pragma once

#include <optional>

#include "factor.hpp"

namespace cbk {

// Of noise of rank 1, what all neurons share: E E^T / n + fit_ridge I = L L^T.
template <class T>
class FitFactor {
 public:
  FitFactor(int64_t draws, int64_t length);
  // On this thread: others may do something else.
  void make(const DrawnNoise<T>& noise);

  bool positive() const { return positive_; }
  SharedFit<T> of(const Network& net, const DrawnNoise<T>& noise) {
    return {&net, noise, factor_.stride(), inverse_.data(), transposed_.data()};
  }

 private:
  Factor factor_;
  Buffer<double> z_;
  Buffer<T> packed_, inverse_, transposed_;
  bool positive_ = false;
};

// Whether neurons share a factor: else each has its own.
inline bool shares_factor(const Network& net, int64_t rank, int64_t draws) {
  return rank == 1 && draws > 1 + net.outputs;
}

// Sums of losses over so many samples, of particles that stand `particle` apart and neurons that stand `neuron` apart.
struct PairRisks {
  const double* sum;
  int64_t particle, neuron;
  double samples;

  double of(int64_t n, int64_t m) const { return sum[n * particle + m * neuron] / samples; }
};

// weights [draws, width] of the draws' noise, which fit the differences R(c - s xi) - R(c + s xi); ess [width]: the
// particles of pairs that have one.  Risks [2 draws, width] may stand where the weights are to be.
template <class T>
Weighed fit_differences(const Network& net, const DrawnNoise<T>& noise, std::optional<FitFactor<T>>& shared,
                        const PairRisks& risks, double* weights, double* ess, int num_threads);

}  // namespace cbk
