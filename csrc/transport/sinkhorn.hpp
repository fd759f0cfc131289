// Entropic optimal transport in the logarithmic domain [Cuturi 2013; Peyre, Cuturi 2019, section 4.4], for measures of so
// many atoms that the exact assignment takes too long.  Beyond the papers that transport.hpp follows.
//
//   P_ij = exp((f_i + g_j - |x_i - y_j|^2) / epsilon) / (M M'),  f_i = -epsilon log (1/M') sum_j exp((g_j - c_ij) / epsilon)
//
// and g likewise.  epsilon falls by fours from the squared scale of the coordinates.  float64 throughout; costs are
// computed again in each pass, so that memory stays linear.  One thread computes one row: bits do not depend on threads.
#pragma once

#include <cstdint>

namespace cbk {

struct SoftRow {
  const double *x, *y;  // [size], [size, padded]
  int64_t size, padded;
  const double* potential;  // [padded]: g / epsilon, -infinity in the padding
  double rate;              // 1 / epsilon
  double* terms;            // [padded]: exp(potential_j - rate |x - y_j|^2) over their sum
};

struct SinkhornKernels {
  double (*soft_row)(const SoftRow& row);  // the logarithm of the sum
  int64_t lanes;
};

template <class T>
struct SinkhornProblem {
  const T* atoms;  // [particles, count, size]
  int64_t particles, count, size;
  const T* support;  // [points, size]
  int64_t points;
  double largest;  // of both
  double epsilon, tolerance;
  int64_t iterations;
  double* cost;   // [particles]: sum P c
  double* error;  // [particles]: sum_i |sum_j P_ij - 1/M| before the last half step
  T* projection;  // [particles, count, size]: M sum_j P_ij y_j
};

template <class T>
void sinkhorn(const SinkhornProblem<T>& problem, int num_threads);

}  // namespace cbk
