// Entropic optimal transport in the logarithmic domain [Cuturi 2013; Peyre, Cuturi 2019, section 4.4], for measures of
// so many atoms that the exact assignment takes too long.  Beyond the papers that transport.hpp follows.
//
//   P_ij = exp((f_i + g_j - |x_i - y_j|^2) / epsilon) / (M M'),  f_i = -epsilon log (1/M') sum_j exp((g_j - c_ij) /
//   epsilon)
//
// and g likewise.  Coordinates are centred and scaled.  epsilon falls by fours from their squared scale, and not below
// 1/max_rate of the largest squared distance, where the digits of float64 end.  At last the coupling is balanced
// [Altschuler, Weed, Rigollet 2017, algorithm 2]: columns that are too heavy give up mass, and what rows and columns
// then lack is coupled independently, so that no coupling's cost is below the exact optimum.  float64 throughout; costs
// are computed again in each pass, so that memory stays linear.  One thread computes one row: bits do not depend on
// threads.
#pragma once

#include <cstdint>

namespace cbk {

constexpr double max_rate = 0x1p33;

struct SoftRow {
  const double *x, *y;  // [size], [size, padded]
  int64_t size, padded;
  const double* potential;  // [padded]: g / epsilon, -infinity in the padding
  double rate;              // 1 / epsilon
  double* terms;            // [padded]: exp(potential_j - rate |x - y_j|^2) over their sum
};
// The sum is exp(shift) total.
struct SoftSum {
  double shift, total, logarithm;
};

struct SoftColumn {
  const double *y, *x;  // [size], [size, padded]
  int64_t size, padded;
  double potential, rate;
  const double *shift, *total;  // [padded], of the rows: infinity and 1 in the padding
};

struct SinkhornKernels {
  SoftSum (*soft_row)(const SoftRow& row);
  double (*soft_column)(const SoftColumn& column);  // the sum of the rows' terms at one j, to the bit those of soft_row
  int64_t lanes;
};

template <class T>
struct SinkhornProblem {
  const T* atoms;  // [particles, count, size]
  int64_t particles, count, size;
  const T* support;  // [points, size]
  int64_t points;
  double epsilon, tolerance;
  int64_t iterations;
  double* cost;   // [particles]: sum P c
  double* error;  // [particles]: sum_j |sum_i P_ij - 1/M'| before the coupling is balanced
  T* projection;  // [particles, count, size]: M sum_j P_ij y_j
};

template <class T>
void sinkhorn(const SinkhornProblem<T>& problem, int num_threads);

}  // namespace cbk
