// update.hpp on the GPU: the same noise and roundings; distances are summed in another order.  All arrays of the problem
// are device memory.  `rows` is not supported.  A task outside [0, tasks) makes its particle NaN.
#pragma once

#include "../cuda/stream.hpp"
#include "update.hpp"

namespace cbk::device {

template <class T>
void cbo_update(const UpdateProblem<T>& problem, int64_t tasks, CudaStream stream);
template <class T>
void hybrid_update(const UpdateProblem<T>& problem, int64_t tasks, const AdamState<T>& adam, CudaStream stream);
template <class T>
void adam_update(const T* theta, T* out, int64_t particles, int64_t size, const AdamState<T>& adam, CudaStream stream);

}  // namespace cbk::device
