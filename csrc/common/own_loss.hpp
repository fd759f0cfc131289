// Losses of one's own: a compiled function of one sample, called for one after another.
#pragma once

#include <cstdint>

#include "math.hpp"

#if !defined(CBK_ONE_LANE)
namespace cbk::CBK_ISA {

template <LossKind K>
struct LossLaw;  // loss.hpp
template <class T, bool by_weight>
struct Counted;

// The loss of a sample: outputs [count] against target [count], or of labels [1], the label as a number.
template <class T>
using OwnLoss = double (*)(const T* outputs, const T* target, int64_t count);

// Memory for a sample's numbers, given back also where the function throws.
template <class T>
struct OwnRow {
  T* data;
  explicit OwnRow(int64_t count) : data(new T[size_t(count)]) {}
  OwnRow(const OwnRow&) = delete;
  OwnRow& operator=(const OwnRow&) = delete;
  ~OwnRow() { delete[] data; }
};

// The sum over samples, by weights unless these are nullptr; g is [outputs] lines of a panel's samples, y [targets]
// lines.  A sample of weight 0 does not count, whatever its loss is.
template <class T, class F>
CBK_INLINE double sum_own(const T* weights, int64_t samples, F&& loss) {
  double sum = 0;
  for (int64_t s = 0; s < samples; ++s) {
    if (!weights)
      sum += loss(s);
    else if (weights[s] != T(0))
      sum += double(weights[s]) * loss(s);
  }
  return sum;
}

template <class T>
__attribute__((noinline)) double own_losses(OwnLoss<T> own, const T* g, const T* y, int64_t outputs, int64_t targets,
                                            int64_t panel, int64_t samples, const T* weights) {
  // one output's numbers stand where the function can read them
  if (outputs == 1) return sum_own(weights, samples, [&](int64_t s) { return own(g + s, y + s, 1); });
  const OwnRow<T> row(outputs + targets);
  return sum_own(weights, samples, [&](int64_t s) {
    for (int64_t c = 0; c < outputs; ++c) row.data[c] = g[c * panel + s];
    for (int64_t c = 0; c < targets; ++c) row.data[outputs + c] = y[c * panel + s];
    return own(row.data, row.data + outputs, outputs);
  });
}

// A compiled function of one's own.
template <LossKind K>
struct OfFunction {
  static constexpr LossKind kind = K;
  static constexpr bool of_residuals = false;
  const void* function = nullptr;

  CBK_INLINE void take(const Loss& loss) { function = loss.function; }
  template <class T, bool weighted>
  CBK_INLINE F64 value(F64 total, const T* g, const T* y, int64_t outputs, int64_t panel, int64_t samples,
                       const Counted<T, weighted>& counted) const {
    const auto own = reinterpret_cast<OwnLoss<T>>(const_cast<void*>(function));
    total[0] += own_losses(own, g, y, outputs, target_columns(K, outputs), panel, samples,
                           weighted ? counted.weights : nullptr);
    return total;
  }
};
template <>
struct LossLaw<LossKind::own_values> : OfFunction<LossKind::own_values> {};
template <>
struct LossLaw<LossKind::own_labels> : OfFunction<LossKind::own_labels> {};

}  // namespace cbk::CBK_ISA
#endif
