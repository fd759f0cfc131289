// risk.hpp on the GPU.  All arrays of a problem are device memory; a drawn ensemble's centre too.  Losses are summed over
// samples in float64; shapes alone decide the order of all sums.  A label outside [0, outputs) makes the risk NaN.
#pragma once

#include "../cuda/stream.hpp"
#include "../hopping/hopping.hpp"
#include "risk.hpp"

namespace cbk::device {

template <class T>
void forward(const RiskProblem<T>& problem, T* out, CudaStream stream);
// Entry i of [particles, tasks] to out[i * stride].
template <class T>
void risk(const RiskProblem<T>& problem, double* out, CudaStream stream, int64_t stride = 1);
template <class T>
void risk_gradient(const RiskProblem<T>& problem, double* out, T* gradient, CudaStream stream);

}  // namespace cbk::device
