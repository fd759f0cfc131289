// The consensus point and the noisy step of a small ensemble in one kernel: where launches decide, each counts.
#pragma once

#include "../consensus/consensus_cuda.hpp"
#include "../update/update_cuda.hpp"

namespace cbk::device {

// Whether it pays, and applies: one task, noise that needs no distance.
template <class T>
bool is_small(const UpdateProblem<T>& problem, int64_t tasks);

// As consensus and cbo_update, whose form of noise the problem decides; problem.point is written.
template <class T>
void consensus_and_update(const UpdateProblem<T>& problem, const double* risk, Alphas alpha, T* point, double* ess,
                          CudaStream stream, const StepNumbers<T>* now);

}  // namespace cbk::device
