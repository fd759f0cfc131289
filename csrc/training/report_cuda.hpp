// What a run tells of itself, found on the device.
#pragma once

#include "../cuda/gpu.hpp"

#include "../consensus/consensus_cuda.hpp"

namespace cbk::device {

constexpr unsigned long long no_failure = ~0ull;

struct Troubles {
  unsigned long long not_finite;  // particles with a risk that is not finite
  // of the first step that failed: step * 2^32 + not_finite_atoms, or + 1 + the task without a finite risk; or
  // no_failure
  unsigned long long failure;
};
constexpr unsigned long long not_finite_atoms = 0;

// An array's rows in an order, batch by batch: from [tasks][samples][columns] to
// [batches][tasks][samples of the batch][columns].
template <class U>
struct Rows {
  const U* from;
  U* to;
  int64_t tasks, columns;
};
// Of two arrays at once; the second may have none.
template <class U, class V = U>
void gather(const Rows<U>& x, const Rows<V>& y, const int64_t* order, int64_t samples, int64_t count, int64_t batch,
            cudaStream_t stream);

// Looks through the risks of `steps` steps, [steps][particles][tasks], and their ess [steps][tasks] (or nullptr); the
// first step's number is at `first_step`.
void look_for_troubles(const double* risk, int64_t steps, int64_t particles, int64_t tasks, const double* ess,
                       const uint32_t* first_step, Troubles* troubles, cudaStream_t stream);

// Sums over coordinates of squared distances to the mean over particles, and the number of coordinates whose standard
// deviation is at most *limit: [parts][2].  mean [size]: the mean, or nullptr.
constexpr int64_t spread_parts = 64;
template <class T>
int64_t spread(const T* theta, int64_t particles, int64_t size, const double* limit, double* parts, double* mean,
               cudaStream_t stream);

struct RowSource {
  const double* risks;
  int64_t count, stride;
  Alphas alphas;
  const double* ess;  // or nullptr
  int64_t tasks;
  const double* spread;
  int64_t parts, particles, size;
  Troubles* troubles;  // start anew
  const double* extras;
  int64_t extra_count;
  int64_t columns() const { return count + 2 * tasks + 5 + extra_count; }
};
void write_row(const RowSource& source, double* row, cudaStream_t stream);

}  // namespace cbk::device
