// The cheapest columns of each row, for problems whose rows cost much and cannot all be kept.
//
// A list holds the columns whose reduced costs c_ij - v_j were the least when it was made, and `bound` the least of all
// others'.  Prices only fall while a problem is solved, so that the bound holds to its end, rounding included.
#pragma once

#include "costs.hpp"

namespace cbk::CBK_ISA {
namespace {

template <class T, class C>
class Lists : public Costs<T, C> {
  using V = Vector<C>;
  using I = Int<V>;
  static constexpr C infinity = C(__builtin_inf());

 public:
  using Costs<T, C>::Costs;

  bool used() const { return space_.list.most > 0; }

  // Makes the lists of the row's block where there are none yet.
  void need(int64_t i) {
    if (space_.list.length[i] >= 0) return;
    const int64_t first = i / assign_block * assign_block, count = this->block(first);
    for (int64_t r = 0; r < count; ++r) make(first + r, space_.row + r * task_.padded);
  }

  // Row i's list from its costs c and the present prices.
  void make(int64_t i, const C* c) {
    const AssignLists<C>& list = space_.list;
    const C cut = cut_of(c);
    C bound = infinity;
    int32_t length = 0;
    for (int64_t j = 0; j < task_.count; ++j) {
      const C r = c[j] - duals_[j];
      if (r <= cut) {
        list.column[i * list.most + length] = int32_t(j);
        list.cost[i * list.most + length++] = c[j];
      } else if (r < bound) {
        bound = r;
      }
    }
    list.length[i] = length;
    list.bound[i] = bound;
  }

  // Cost of the pair.
  C at(int64_t i, int64_t j) {
    const AssignLists<C>& list = space_.list;
    for (int64_t e = i * list.most; e < i * list.most + list.length[i]; ++e)
      if (list.column[e] == j) return list.cost[e];
    this->scale_rows(i, 1);
    return this->cost(0, j);
  }

 private:
  // What at most list.most of the row's reduced costs do not exceed, and at least three quarters as many where they
  // are not equal: by bisection.
  C cut_of(const C* c) const {
    V least_of_all = splat<V>(infinity), most_of_all = splat<V>(-infinity);
    for (int64_t j = 0; j < task_.padded; j += lanes<C>) {
      const V r = load(c + j) - load(duals_ + j);  // infinite behind the last column
      least_of_all = min(least_of_all, r);
      most_of_all = max(most_of_all, r < splat<V>(infinity) ? r : splat<V>(-infinity));
    }
    C low = least<C>(least_of_all), high = -least<C>(-most_of_all), cut = -infinity;
    if (task_.count <= space_.list.most) return high;
    for (int turn = 0; turn < 24; ++turn) {
      const C middle = low + (high - low) / 2;
      const int64_t found = count_up_to(c, middle);
      if (found > space_.list.most) {
        high = middle;
      } else {
        cut = low = middle;
        if (4 * found >= 3 * space_.list.most) break;
      }
    }
    return cut;
  }

  int64_t count_up_to(const C* c, C cut) const {
    I found{};
    for (int64_t j = 0; j < task_.padded; j += lanes<C>)
      found += load(c + j) - load(duals_ + j) <= splat<V>(cut);  // true is -1
    int64_t total = 0;
    for (int l = 0; l < lanes<C>; ++l) total -= found[l];
    return total;
  }

 protected:
  using Costs<T, C>::task_;
  using Costs<T, C>::space_;
  using Costs<T, C>::duals_;
};

}  // namespace
}  // namespace cbk::CBK_ISA
