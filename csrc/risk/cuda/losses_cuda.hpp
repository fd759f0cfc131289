// Losses of outputs that lie in memory: of every kind, and weighted.
#pragma once

#include "../../cuda/gpu.hpp"

#include "../../common/loss.hpp"
#include "../risk.hpp"

namespace cbk::device {

// The losses that blocks sum of the outputs that they hold (batch_cuda.hpp).  The others would take registers from
// every kernel; their outputs go through memory.
constexpr bool is_fused(LossKind kind) { return kind == LossKind::mse || kind == LossKind::cross_entropy; }
template <class T>
bool is_fused(const RiskProblem<T>& problem) {
  return is_fused(problem.loss.kind) && !problem.weights;
}

// total + the weighted loss of a sample with outputs g; with `slopes` these become factor * weight * dL/dg.
template <bool slopes, class T, class G>
__device__ __forceinline__ double add_any_loss(Loss loss, double total, G* g, int64_t outputs, const T* y,
                                               const int32_t* label, T weight, T factor) {
  with_loss(loss, [&](auto law) {
    constexpr LossKind kind = decltype(law)::kind;
    const Counted<T, true> counted{1, &weight};
    const T number = takes_labels(kind) ? T(*label) : T(0), *const target = takes_labels(kind) ? &number : y;
    if constexpr (!slopes)
      total = law.value(total, g, target, outputs, 1, 1, counted);
    else if constexpr (has_slope(kind))
      total = law.slopes(total, g, 1, target, outputs, 1, factor, counted);
    if (takes_labels(kind) && uint64_t(int64_t(*label)) >= uint64_t(label_count(kind, outputs))) total = quiet_nan;
  });
  return total;
}

// A problem's weights with a mean of 1, and a mean of 0 where all are 0; NaN where one is negative or not finite.
template <class T>
void launch_weights(const RiskProblem<T>& problem, T* weights, cudaStream_t stream);

// Some samples of some particles.
template <class T>
struct OutputLosses {
  Loss loss;
  T* g;  // [particles][samples][outputs]; changed where slopes are wanted
  int64_t particles, samples, outputs;
  const T* y;  // of the first sample, as are labels and weights; a task's begin `all` samples after the one's before
  const int32_t* labels;
  const T* weights;  // or nullptr
  int64_t tasks, all;
  T* slopes;  // nullptr, or [particles][outputs][samples] of dL/dg * factor
  T factor;
};

// Of the samples from s0 on; those of all tasks.
template <class T>
OutputLosses<T> losses_at(const RiskProblem<T>& problem, const T* weights, int64_t s0) {
  OutputLosses<T> k{};
  k.loss = problem.loss, k.outputs = problem.net.outputs;
  k.y = problem.y ? problem.y + s0 * k.outputs : nullptr;
  k.labels = problem.labels ? problem.labels + s0 : nullptr;
  k.weights = weights ? weights + s0 : nullptr;
  k.tasks = problem.tasks, k.all = problem.samples;
  return k;
}

// The sums over samples to sums[particles * tasks].
template <class T>
void launch_losses(const OutputLosses<T>& k, double* sums, cudaStream_t stream);

}  // namespace cbk::device
