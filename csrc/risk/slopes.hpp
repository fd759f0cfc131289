// What the gradients' ways have in common: the losses' slopes, sums over samples and where they go.
#pragma once

#include "../common/loss.hpp"
#include "risk.hpp"

namespace cbk::CBK_ISA {

template <class T>
CBK_INLINE void put(T* p, double value, bool accumulate) {
  *p = accumulate ? T(double(*p) + value) : T(value);
}

template <class T>
F64 loss_slope(const GradientTask<T>& task, F64 total, T* g, int64_t stride, const T* y, int64_t samples) {
  const int64_t rows = task.net->outputs, panel = task.plan->panel;
  return task.loss == Loss::mse ? squared_error_slope(total, g, stride, y, rows, panel, samples, task.factor)
                                : cross_entropy_slope(total, g, stride, y, rows, panel, samples, task.factor);
}

// sum_i a_i over `count` samples, whole pairs of vectors: lanes in the particles' type, widened at the end.
template <class T>
CBK_INLINE double total(const T* a, int64_t count) {
  Vector<T> even{}, odd{};
  for (int64_t i = 0; i + 2 * lanes<T> <= count; i += 2 * lanes<T>) {
    even = even + load(a + i);
    odd = odd + load(a + i + lanes<T>);
  }
  return sum(add(add(F64{}, even), odd));
}

}  // namespace cbk::CBK_ISA
