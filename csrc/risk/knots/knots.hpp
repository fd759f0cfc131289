// Squared-error risks of ReLU networks with one input and one output, and their gradients, without a pass over the
// samples.
//
// Such a network is piecewise linear, g(x) = a_j x + b_j between its M knots -b_m/w_m, and its risk needs only sums
// over the samples between knots.  With x sorted and prefix sums of 1, x, x^2, y, xy in float64,
//
//   sum_s (g - y)^2 = sum_j (b_j^2 n_j + 2 a_j b_j [x]_j + a_j^2 [x^2]_j - 2 a_j [xy]_j - 2 b_j [y]_j) + [y^2]
//
// where [.]_j sums over a segment: O(M) beside the one-off sort.  Samples count by their weights, if any, of mean one.
// For T tasks sum_j (a_j [xy]_j + b_j [y]_j) is summed over the knots, by what each adds to a and b: 2 T more
// multiply-adds a neuron.  The gradient's sums over the samples [.]_m that neuron m is active on,
//
//   dR/db_m = (2/S) c_m [g - y]_m
//   dR/dw_m = (2/S) c_m [(g - y) x]_m
//   dR/dc_m = (2/S) (w_m [(g - y) x]_m + b_m [g - y]_m)
//
// are sums over the segments behind its knot, or before it.  A rounding bound is kept; a particle for which it is not
// small beside the risk (or which is not finite) is left to the pass over the samples.
#pragma once

#include <cstdint>

#include "../risk.hpp"

namespace cbk {

// A batch, sorted by x.  Index k stands for the samples before position k.
struct SortedBatch {
  int64_t samples;
  const float* x;    // [-1, samples], NaN before and behind the samples
  float low, scale;  // cell of t: int((t - low) * scale), in [0, cells)
  int32_t cells;
  const int32_t* first;   // [cells + 1]: the first sample in each cell
  const double* moments;  // [samples + 1][4]: sums of 1, x, x^2; and a zero
};

// Sums with the targets of one task, or of up to task_block tasks (stride task_block): these fit L2.
constexpr int64_t task_block = 16;
struct TaskSums {
  const double* cross;    // [samples + 1][2][1 or task_block]: sums of y, xy
  const double* squares;  // [tasks]: the whole sum of y^2
  int64_t tasks;
};

struct Knot {  // adds one [y]_k + x [xy]_k to the sum of g y
  double one, x;
  int64_t k;
};

// What a particle's risks on all tasks have in common.
struct Trace {
  double squares;           // sum of g^2
  double slope, magnitude;  // largest coefficient; sum of all jumps: for the rounding bound
  int64_t knots;
  bool finite;
};

// One instruction set's part.  Sums are of squared errors; false where they may be off by more than `tolerance`
// relative.
struct KnotsKernels {
  int64_t (*scratch_size)(const Network& net, int64_t samples);  // bytes, to be zeroed once; left zeroed
  // Of one task; where `gradient` is not null, [size] of its mean over the samples too.
  bool (*risk)(const Network& net, const float* theta, const SortedBatch& batch, const TaskSums& task, double tolerance,
               void* scratch, double* sum, float* gradient);
  // For many tasks: once a particle, with at most width + 1 knots, then for each block of tasks.
  Trace (*trace)(const Network& net, const float* theta, const SortedBatch& batch, void* scratch, Knot* knots);
  bool (*task_risks)(const Trace& trace, const Knot* knots, const SortedBatch& batch, const TaskSums& tasks,
                     double tolerance, double* sums);
};

// What is wanted of a problem's particles: all on each task, or with `own` particle n on task n of N alone.
template <class T>
struct Wanted {
  double* sums;           // [N, tasks] of losses; [N] where own
  T* gradient = nullptr;  // [N, size] of the one task's risk, if these are wanted too
  bool own = false;
};

// exact[n]: whether particle n's results are; false where the batch has no order.
bool evaluate_by_knots(const RiskProblem<float>& problem, const Wanted<float>& to, bool* exact, int num_threads);

}  // namespace cbk
