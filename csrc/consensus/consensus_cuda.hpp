// consensus.hpp on the GPU; the host waits for nothing: weights by a two-level sum (blocks, then their partial sums),
// points in float64; shapes alone decide the order of the sums.  Where a task has no finite risk, its weights and point
// are NaN and its effective sample size is 0.
#pragma once

#include "../cuda/stream.hpp"
#include "consensus.hpp"

namespace cbk::device {

// The tasks' alphas: a value, or what stands in device memory, `stride` numbers apart.
struct Alphas {
  double value;
  const double* at = nullptr;
  int64_t stride = 0;
};

// risk [particles, tasks], point [tasks, size], weights [particles, tasks], ess [tasks].
template <class T>
void consensus(const T* theta, const double* risk, int64_t particles, int64_t size, int64_t tasks, Alphas alpha,
               T* point, double* weights, double* ess, CudaStream stream);

// Its weights and effective sample sizes alone.  state [3][tasks], where it is given: each task's least risk, and the
// sums of the weights exp(-alpha (R - least)) and of their squares, from which those of other particles can be told.
void gibbs_weights(const double* risk, int64_t particles, int64_t tasks, Alphas alphas, double* weights, double* ess,
                   CudaStream stream, double* state = nullptr);

// sums [tasks, size] of the particles by such weights.  Out is T, or double for sums that are added to others.
template <class T, class Out>
void weighted_sums(const T* theta, const double* weights, int64_t particles, int64_t size, int64_t tasks, Out* sums,
                   CudaStream stream);

// The alphas [tasks] at which the effective sample sizes are `*target` (device memory), as alpha_for_ess.
void solve_alphas(const double* risk, int64_t particles, int64_t tasks, const double* target, double* alphas,
                  CudaStream stream);

}  // namespace cbk::device
