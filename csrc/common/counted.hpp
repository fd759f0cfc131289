// How the samples of a panel count in a sum: in float64 lanes, once each or by their weights, padded samples not at
// all.
#pragma once

#include <type_traits>

#include "math.hpp"

namespace cbk::CBK_ISA {

#if !defined(CBK_ONE_LANE)
// The first `count` lanes of v, zero elsewhere: padded samples do not count.
template <class V>
CBK_INLINE V keep_lanes(V v, int64_t count) {
  using I = Int<V>;
  if (count >= lanes<Scalar<V>>) return v;
  I lane;
  for (int i = 0; i < lanes<Scalar<V>>; ++i) lane[i] = i;
  return lane < I{} + decltype(lane[0] + 0)(count) ? v : V{};
}

// total + f(v), in float64.
template <class F>
CBK_INLINE F64 add_each(F64 total, F64 v, F&& f) {
  return total + f(v);
}
template <class F>
CBK_INLINE F64 add_each(F64 total, F32 v, F&& f) {
  const Pair64 w = widen(v);
  return (total + f(w.low)) + f(w.high);
}
// The same of f(v) times a weight.
template <class F>
CBK_INLINE F64 add_weighted(F64 total, F64 v, F64 weight, F&& f) {
  return mad(f(v), weight, total);
}
template <class F>
CBK_INLINE F64 add_weighted(F64 total, F32 v, F32 weight, F&& f) {
  const Pair64 w = widen(v), by = widen(weight);
  return mad(f(w.high), by.high, mad(f(w.low), by.low, total));
}
#else
template <class V, class F>
CBK_INLINE double add_each(double total, V v, F&& f) {
  return total + f(double(v));
}
template <class V, class F>
CBK_INLINE double add_weighted(double total, V v, V weight, F&& f) {
  return fma(f(double(v)), double(weight), total);
}
#endif

// How a panel's samples count: the first `samples` of them once each, or all by their weights, which are 0 in padded
// samples.  A sample of weight 0 does not count, whatever its loss is.
template <class T, bool by_weight>
struct Counted {
  static constexpr bool weighted = by_weight;
  int64_t samples;
  const T* weights;

  template <class V>
  CBK_INLINE V operator()(V v, int64_t s) const {
    if constexpr (!by_weight) {
      return keep_lanes(v, samples - s);
    } else {
      const V w = load(weights + s);
      return w == Scalar<V>(0) ? V{} : v * w;
    }
  }
};

// From sample `at` of a chunk on, of which `samples` count.
template <bool weighted, class T>
CBK_INLINE Counted<T, weighted> counted_from(int64_t at, int64_t samples, const T* weights) {
  return {samples, weighted ? weights + at : nullptr};
}

// Calls f(tag) with whether there are weights as a compile-time constant.
template <class T, class F>
CBK_INLINE void with_weights(const T* weights, F&& f) {
  if (weights)
    f(std::true_type{});
  else
    f(std::false_type{});
}

}  // namespace cbk::CBK_ISA
