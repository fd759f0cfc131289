// consensus.hpp on the GPU, without a word to the host: weights by a two-level sum (blocks, then their partial sums), points
// in float64; shapes alone decide the order of the sums.  Where a task has no finite risk, its weights and point are NaN
// and its effective sample size is 0.
#pragma once

#include "../cuda/stream.hpp"
#include "consensus.hpp"

namespace cbk::device {

// risk [particles, tasks], point [tasks, size], weights [particles, tasks], ess [tasks].
template <class T>
void consensus(const T* theta, const double* risk, int64_t particles, int64_t size, int64_t tasks, double alpha, T* point,
               double* weights, double* ess, CudaStream stream);

}  // namespace cbk::device
