// transport.hpp on the GPU.  Assignments are solved in float64 by one block each, from coordinates that a pair's own
// power of two scales, where squares would over- or underflow; prices that would mislead are dropped.  What the host
// would have to see is not checked: where a cost or a price is not finite, the match is the identity and the cost NaN;
// a guess that is no permutation is used as far as it is one; a match outside [0, points) makes its atom NaN in an
// update, weights of which one is negative or not finite, or whose sum is 0, make a barycenter NaN.
#pragma once

#include "../cuda/stream.hpp"
#include "../update/update_cuda.hpp"
#include "sinkhorn.hpp"

namespace cbk::device {

// Measure a of `first` against measure b of `second`: pair a * seconds + b.
template <class T>
struct Measures {
  const T* first;   // [firsts, count, size]
  const T* second;  // [seconds, count, size]
  int64_t firsts, seconds, count, size;
};

// What is wanted of each pair; nullptr for what is not.
struct Assigned {
  int64_t* match = nullptr;  // [pairs, count]; with `guess` its values are the start
  bool guess = false;
  double* duals = nullptr;  // [pairs, count]: prices of the second measure's atoms to start from, then the optimum's
  double *cost = nullptr, *gap = nullptr;  // [pairs], means over atoms
  int32_t* partner = nullptr;              // [pairs, count]: the match's inverse
  const double* only = nullptr;            // [pairs]: solved are those where (this > 0) == positive
  bool positive = true;
};

template <class T>
void assign(const Measures<T>& measures, const Assigned& to, CudaStream stream);

// Particles and the tasks' supports, in pairs particle * tasks + task.
template <class T>
struct Coupling {
  const T* atoms;  // [particles, count, size]
  T* support;      // [tasks, count, size]
  int64_t particles, tasks, count, size;
  const double* weights;  // [pairs]
};
// support_j = sum_n beta_n x_{n, partner(n, j)}, partner [pairs, count]; a particle of weight 0 is not read.
template <class T>
void average_partners(const Coupling<T>& coupling, const int32_t* partner, CudaStream stream);
// cost [pairs] = (1/count) sum_i |x_{n,i} - y_match(n,i)|^2, match [pairs, count]; 0 where `only` (or nullptr) is not
// positive.
template <class T>
void coupling_costs(const Coupling<T>& coupling, const int64_t* match, const double* only, double* cost,
                    CudaStream stream);

template <class T>
struct BarycenterArrays {
  const T* atoms;  // [particles, count, size]
  int64_t particles, count, size;
  const double* weights;        // [particles], normalised here
  bool start;                   // support holds the start; else it is the heaviest particle
  T* support;                   // [count, size]
  int64_t iterations;           // all are done
  int64_t* match;               // [particles, count]
  double *history, *objective;  // [iterations], and the last of them
};
template <class T>
void barycenter(const BarycenterArrays<T>& arrays, CudaStream stream);

// sinkhorn.hpp on the GPU; epsilon falls from each particle's own scale.  Where a value is not finite its cost, error
// and projection are NaN.
template <class T>
void sinkhorn(const SinkhornProblem<T>& problem, CudaStream stream);

// support [points, size], to which match [particles, count] refers.  Given `now`, in device memory, its a, b and step
// count.
template <class T>
void transport_update(const T* atoms, const T* support, const int32_t* match, T* out, int64_t particles, int64_t count,
                      int64_t size, int64_t points, double drift, double diffusion, double dt, NoiseKey key,
                      CudaStream stream, const StepNumbers<T>* now = nullptr);

}  // namespace cbk::device
