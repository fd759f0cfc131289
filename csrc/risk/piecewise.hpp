// Squared-error risks of ReLU networks with one input and one output, without a pass over the samples.
//
// Such a network is piecewise linear, g(x) = a_j x + b_j between its M knots -b_m/w_m, and its risk needs only sums over
// the samples between knots.  With x sorted and prefix sums of 1, x, x^2, y, xy in float64,
//
//   sum_s (g - y)^2 = sum_j (b_j^2 n_j + 2 a_j b_j [x]_j + a_j^2 [x^2]_j) - 2 sum_m c_m (w_m [xy]_m + b_m [y]_m) + [y^2]
//
// where [.]_j sums over a segment and [.]_m over the samples that neuron m is active on: O(M) beside the one-off sort,
// and 2 T more multiply-adds a neuron for T tasks.  A rounding bound is kept; a particle for which it is not small beside
// the result (or which is not finite) is left to the pass over the samples.
#pragma once

#include <cstdint>

#include "../network/network.hpp"

namespace cbk {

// A batch, sorted by x.  Index k stands for the samples before position k.
struct SortedBatch {
  int64_t samples, tasks;
  const float* x;       // [samples + 1], the last is NaN
  float low, scale;     // cell of t: int((t - low) * scale), in [0, cells)
  int32_t cells;
  const int32_t* first;  // [cells + 1]: the first sample in each cell
  const double* powers;  // [samples + 1][2]: sums of x, x^2
  const double* cross;   // [samples + 1][2][tasks]: sums of y, xy
  const double* squares; // [tasks]: the whole sum of y^2
};

struct PiecewiseKernels {
  int64_t (*scratch_size)(int64_t samples);  // bytes, to be zeroed once; left zeroed
  // Sums of squared errors into sums[tasks]; false where they may be off by more than `tolerance` relative.
  bool (*risk)(const Network& net, const float* theta, const SortedBatch& batch, double tolerance, void* scratch,
               double* sums);
};

}  // namespace cbk
