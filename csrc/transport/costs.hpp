// Costs of one particle's atoms to the support, in vectors of columns.  Included once per instruction set.
#pragma once

#include "../common/interrupt.hpp"
#include "../common/philox.hpp"
#include "transport.hpp"

namespace cbk::CBK_ISA {
namespace {

template <class E, int count>
struct Pack {
  typedef E type __attribute__((vector_size(count * sizeof(E))));
};

// The least lane.
template <int count, class E, class V>
CBK_INLINE E least_of(V v) {
  if constexpr (count == 2) {
    return v[0] < v[1] ? v[0] : v[1];
  } else {
    typename Pack<E, count / 2>::type half[2];
    std::memcpy(half, &v, sizeof v);
    return least_of<count / 2, E>(half[0] < half[1] ? half[0] : half[1]);
  }
}
template <class E>
CBK_INLINE E least(Vector<E> v) {
  return least_of<lanes<E>, E>(v);
}

// costs[r][.] at `vectors` vectors of columns from y on, for `rows` rows: as many sums as hide an addition's latency.
// No fma: the baseline set has none, and its matches are everyone's.
template <int rows, int vectors, class C>
CBK_INLINE void cost_block(const C* x, int64_t size, const C* y, int64_t tile, Vector<C> (&costs)[rows][vectors]) {
  for (auto& row : costs)
    for (auto& cost : row) cost = Vector<C>{};
#pragma GCC unroll 4
  for (int64_t k = 0; k < size; ++k) {
#pragma GCC unroll 4
    for (int c = 0; c < vectors; ++c) {
      const Vector<C> at = load(y + k * tile + c * lanes<C>);
#pragma GCC unroll 4
      for (int r = 0; r < rows; ++r) {
        const Vector<C> d = splat<Vector<C>>(x[r * size + k]) - at;
        costs[r][c] += d * d;
      }
    }
  }
}

CBK_INLINE float root(float a) { return __builtin_sqrtf(a); }
CBK_INLINE double root(double a) { return __builtin_sqrt(a); }

template <class T, class C>
class Costs {
  using V = Vector<C>;
  static constexpr C infinity = C(__builtin_inf());

 public:
  explicit Costs(const AssignTask<T, C>& task) : task_(task), space_(task.space), duals_(task.duals) {}

  // Atoms [first, first + count) as C, scaled.
  void scale_rows(int64_t first, int64_t count) const {
    for (int64_t i = 0; i < count * task_.size; ++i)
      space_.scaled[i] = C(double(task_.atoms[first * task_.size + i]) * task_.scale);
  }

  // Up to assign_block rows from `first` on, the rest 0; how many.
  int64_t scale_block(int64_t first) {
    const int64_t count = rows_from(first);
    scale_rows(first, count);
    for (int64_t i = count * task_.size; i < assign_block * task_.size; ++i) space_.scaled[i] = 0;
    return count;
  }

  const C* row(int64_t i) {
    C* to = space_.costs ? space_.costs + i * task_.padded : space_.row;
    if (space_.costs && space_.known[i]) return to;
    scale_rows(i, 1);
    write_row(to);
    if (space_.costs) space_.known[i] = true;
    return to;
  }

  // Costs of a block of rows of many coordinates into row [assign_block, padded]; how many rows.
  int64_t block(int64_t first) {
    const int64_t count = scale_block(first);
    write<assign_block, 2>(task_.size, space_.row);
    return count;
  }

  // Reduced cost of the pair, for a row that scale_rows has left at r: the bits that the vectors give.
  C reduced(int64_t r, int64_t j) const { return cost(r, j) - duals_[j]; }
  C cost(int64_t r, int64_t j) const {
    const C* y = point(j);
    C cost = 0;
    for (int64_t k = 0; k < task_.size; ++k) {
      const C d = space_.scaled[r * task_.size + k] - y[k * task_.tile];
      cost += d * d;
    }
    return cost;
  }

  int64_t rows_from(int64_t first) const {
    const int64_t left = task_.count - first;
    return left < assign_block ? left : assign_block;
  }

  // Least reduced costs of up to assign_block rows; how many.
  int64_t cheapest_of(int64_t first, C (&cheapest)[assign_block]) {
    const int64_t count = scale_block(first);
    V best[assign_block];
    for (V& b : best) b = splat<V>(infinity);
    switch (task_.size) {
      case 2: lower<1>(2, best); break;
      case 3: lower<1>(3, best); break;
      case 4: lower<1>(4, best); break;
      default: task_.size < many_coordinates ? lower<1>(task_.size, best) : lower<2>(task_.size, best);
    }
    for (int r = 0; r < assign_block; ++r) cheapest[r] = least<C>(best[r]);
    return count;
  }

  // Distances from each point of the support to the nearest other, less what they are rounded by.
  void separate() const {
    C *const c = space_.row, *const apart = task_.apart;
    if (!apart || apart[0] >= 0) return;
    Paced paced;
    for (int64_t j = 0; j < task_.count; ++j) {
      paced(task_.padded * task_.size);
      for (int64_t k = 0; k < task_.size; ++k) space_.scaled[k] = point(j)[k * task_.tile];
      write_row(c);
      c[j] = infinity;
      for (int64_t i = task_.count; i < task_.padded; ++i) c[i] = infinity;
      V nearest = splat<V>(infinity);
      for (int64_t i = 0; i < task_.padded; i += lanes<C>) nearest = min(nearest, load(c + i));
      apart[j] = root(least<C>(nearest)) * (1 - rounding());
    }
  }

  // Whether the pair is the row's only cheapest, if what the support's points are apart shows that: another column is
  // at least apart - d away by the triangle inequality, d the pair's distance, and its price at most `highest`.
  bool surely_cheapest(int64_t r, int64_t j, C highest) const {
    const C c = cost(r, j), others = task_.apart[j] - root(c) * (1 + rounding());
    return others > smallest && others * others * (1 - rounding()) - highest > c - duals_[j];
  }

 private:
  static constexpr C smallest = sizeof(C) == 4 ? C(1e-15) : C(1e-150);  // its square is far from underflow
  // More than what sums of `size` squared differences and their roots are rounded by, relatively.
  C rounding() const { return C(4 * (task_.size + 8)) * (sizeof(C) == 4 ? C(0x1p-23) : C(0x1p-52)); }

  void write_row(C* to) const {
    switch (task_.size) {  // the usual sizes, unrolled
      case 2: write<1, 1>(2, to); break;
      case 3: write<1, 1>(3, to); break;
      case 4: write<1, 1>(4, to); break;
      default: task_.size < many_coordinates ? write<1, 1>(task_.size, to) : write<1, 4>(task_.size, to);
    }
  }

  template <int rows, int vectors>
  CBK_INLINE void write(int64_t size, C* to) const {
    const int64_t padded = task_.padded, tile = task_.tile;
    for (int64_t t = 0; t < padded; t += tile)
      for (int64_t j = t; j < t + tile; j += vectors * lanes<C>) {
        V costs[rows][vectors];
        cost_block(space_.scaled, size, task_.support + t * size + (j - t), tile, costs);
        for (int r = 0; r < rows; ++r)
          for (int c = 0; c < vectors; ++c) store(to + r * padded + j + c * lanes<C>, costs[r][c]);
      }
  }

  template <int vectors>
  CBK_INLINE void lower(int64_t size, V (&best)[assign_block]) const {
    const C *x = space_.scaled, *support = task_.support, *duals = duals_;
    const int64_t padded = task_.padded, tile = task_.tile;
    for (int64_t t = 0; t < padded; t += tile)
      for (int64_t j = t; j < t + tile; j += vectors * lanes<C>) {
        V costs[assign_block][vectors];
        cost_block(x, size, support + t * size + (j - t), tile, costs);
#pragma GCC unroll 4
        for (int c = 0; c < vectors; ++c) {
          const V price = load(duals + j + c * lanes<C>);
#pragma GCC unroll 4
          for (int r = 0; r < assign_block; ++r) best[r] = min(best[r], costs[r][c] - price);
        }
      }
  }

 protected:
  // The first coordinate of point j; the others follow a tile apart.
  const C* point(int64_t j) const {
    const int64_t first = j < task_.tile ? 0 : j - j % task_.tile;
    return task_.support + first * task_.size + (j - first);
  }

  const AssignTask<T, C>& task_;
  const AssignSpace<C>& space_;
  C* duals_;
};

}  // namespace
}  // namespace cbk::CBK_ISA
