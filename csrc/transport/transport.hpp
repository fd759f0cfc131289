// Optimal transport between measures of equally many atoms [De Deyn, Herty, Samaey 2025, eq. 29-31, 38-40, 48-54].
//
// assign: the exact assignment of atoms x_1..x_M to support points y_1..y_M under |x - y|^2 by shortest augmenting
// paths
//   [Jonker, Volgenant 1987], with prices v_j of the support points.  Costs are sums of squared differences (never
//   |x|^2 + |y|^2 - 2xy, which cancels), exact to a few units in the last place at any offset; coordinates are brought
//   into [-1, 1] by a power of two: the call's, or the particle's own where the call's makes its squares underflow.
//   float64 atoms are solved in float64.  float32 atoms are solved in float32, and the result is kept if its duality
//   gap in float64 is below 4e-6 of the cost, else solved again in float64 from there.  Prices are only where the
//   search starts: those that differ by more than any optimum's are dropped, and where they were so large that their
//   rounding shows in the cost, the problem is solved again without them.  Where values are not finite the match is the
//   identity. One thread solves one particle and no operation depends on the instruction set: neither do the matches.
// barycenter: support_j = sum_n beta_n x_{n, i: match(n, i) = j}, in float64, particles in order.
// transport_update: x' = fma(b, xi, fma(a, x - y_match, x)), a = -lambda dt, b = sigma sqrt(dt) in float64, rounded
// once.
#pragma once

#include <cstdint>
#include <type_traits>

#include "../random/random.hpp"

namespace cbk {

// The columns of least reduced costs of each row (lists.hpp).  A search has two numbers for each row that it scanned:
// `limit`, a lower bound of the distance to columns off the row's list, and `shift`, which it adds to reduced costs.
template <class C>
struct AssignLists {
  int64_t most;              // columns of a row; 0: there are no lists
  int32_t *column, *length;  // [count, most], [count]: -1 where there is no list yet
  C *cost, *bound;           // [count, most], [count]
  C *limit, *shift;          // [count + 1]
};

// Scratch of one thread: rows and columns, the columns padded.  C is the type of the arithmetic.
template <class C>
struct AssignSpace {
  using Index = std::conditional_t<sizeof(C) == 4, int32_t, int64_t>;
  C *open, *distance, *reached;         // [padded]
  C *row, *scaled;                      // [padded] ([assign_block, padded] with lists), [assign_block, size]
  Index* parent;                        // [padded]
  int32_t *row_of, *waiting, *scanned;  // [padded]
  C* costs;                             // [count, padded] for rows of costs that are kept, or nullptr
  bool* known;                          // [count]: the rows that stand in costs
  AssignLists<C> list;
};
constexpr int64_t assign_block = 4;  // rows whose least costs are found together
// From so many coordinates on, points of support stand in tiles of a few vectors, to be read in the order of memory,
// and rows of costs are worth a list.
constexpr int64_t many_coordinates = 16, tile_vectors = 4;

template <class T, class C>
struct AssignTask {
  const T* atoms;    // [count, size], or nullptr: all costs are known
  const C* support;  // [padded / tile, size, tile], scaled
  int64_t count, size, padded, tile;
  double scale;
  C* duals;   // [padded]: the columns' start, then the optimum; -infinity from count on
  bool cold;  // the duals are all 0
  C* apart;   // [count]: bounds of distances to the nearest other point of support; [0] < 0: not known yet; or nullptr
  int32_t* match;  // [count]: a guess, a permutation; then the optimum
  AssignSpace<C> space;
};

template <class T>
struct TransportKernels {
  // match and duals become optimal; false where values are not finite, with nothing known of match
  bool (*exact)(const AssignTask<T, double>& task);
  bool (*single)(const AssignTask<T, float>& task);
  // sum_i (c_{i,match} - v_match) - min_j (c_ij - v_j): the duality gap of match and duals
  double (*gap)(const AssignTask<T, double>& task);
  // coordinates [begin, begin + count) of a particle; begin is a multiple of 64; pointers start there
  void (*update)(const T* x, const T* y, T* out, int64_t begin, int64_t count, T a, T b, NoiseKey key,
                 uint32_t particle);
  int64_t lanes;  // columns are padded to a multiple of it
};

// The largest |a|; infinity where one is NaN or infinite.
template <class T>
double largest(const T* a, int64_t count);

template <class T>
struct AssignProblem {
  const T* atoms;  // [particles, count, size]
  int64_t particles, count, size;
  const T* support;    // [count, size], or of several tasks [tasks, count, size]
  double largest;      // of both
  double* duals;       // [tasks, particles, count], updated; or nullptr: a cold start
  bool guess;          // match holds permutations to start from, else the identity is
  int64_t* match;      // [tasks, particles, count]
  double *cost, *gap;  // [tasks, particles], means over atoms; or nullptr
};

// rows: the problems to solve, task * particles + particle; or nullptr: the first row_count.
template <class T>
void assign(const AssignProblem<T>& problem, const int64_t* rows, int64_t row_count, int num_threads);

template <class T>
struct BarycenterProblem {
  const T* atoms;  // [particles, count, size]
  int64_t particles, count, size;
  double largest;         // of the atoms and the first support
  const double* weights;  // [particles], normalised
  T* support;             // [count, size]: the start, then the result
  int64_t iterations;
  int64_t* match;   // [particles, count]: the coupling that the support was last updated with
  double* history;  // [iterations]: the objective after each
};

// Returns the iterations done: it stops where the coupling repeats.
template <class T>
int64_t barycenter(const BarycenterProblem<T>& problem, int num_threads);

// out [rows, columns]: mean squared distances under the best assignments of a [rows, count, size] to
// b [columns, count, size]; largest of both.
template <class T>
void wasserstein2(const T* a, int64_t rows, const T* b, int64_t columns, int64_t count, int64_t size, double largest,
                  double* out, int num_threads);

// The assignment of least total cost under a matrix [count, count] of finite costs.
void assign_matrix(const double* costs, int64_t count, int32_t* match);

template <class T>
struct TransportUpdate {
  const T* atoms;  // [particles, count, size]
  T* out;          // may be atoms
  int64_t particles, count, size;
  const T* support;      // [count, size], or of several tasks [tasks, count, size]
  const int32_t* task;   // [particles], or nullptr: one task
  const int32_t* match;  // [particles, count], to the support of each particle's task
  double drift, diffusion, dt;
  NoiseKey key;
};
template <class T>
void transport_update(const TransportUpdate<T>& update, int num_threads);

}  // namespace cbk
