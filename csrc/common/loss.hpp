// Losses of one panel of samples: outputs g[rows][panel] against targets, summed over samples in float64 lanes.
#pragma once

#include <limits>

#include "counted.hpp"
#include "kinds.hpp"
#include "math.hpp"
#include "own_loss.hpp"

namespace cbk::CBK_ISA {

// 0, or NaN where v is.
template <class V>
CBK_INLINE V nan_of(V v) {
  return v == v ? V{} : v;
}

// A loss: its sum over a panel's samples, and the same with g replaced by factor * dL/dg, zero in padded samples.  g is
// [outputs] lines of a panel's samples, `stride` apart; y is [rows][panel].
template <LossKind K>
struct LossLaw;

struct HasParameter {
  double parameter = 0;

  CBK_INLINE void take(const Loss& loss) { parameter = loss.parameter; }
};

// L = sum_c l(g_c - y_c): Law has l as `of` in float64, and as `slope` factor * l'.
template <LossKind K>
struct OfResiduals : HasParameter {
  using Law = LossLaw<K>;
  static constexpr LossKind kind = K;
  static constexpr bool of_residuals = true;

  CBK_INLINE const Law& law() const { return static_cast<const Law&>(*this); }

  // Adds l of a vector of residuals of the panel's samples s and after it.
  template <class V, class T, bool weighted>
  CBK_INLINE F64 add(F64 total, V e, const Counted<T, weighted>& counted, int64_t s) const {
    if constexpr (weighted) {
      const V w = load(counted.weights + s);
      const Law& own = law();
      return add_weighted(total, w == T(0) ? V{} : e, w, [&](F64 half) { return own.of(half); });
    } else {
      return law().add_plain(total, counted(e, s));
    }
  }
  template <class V>
  CBK_INLINE F64 add_plain(F64 total, V e) const {
    const Law& own = law();
    return add_each(total, e, [&](F64 half) { return own.of(half); });
  }

  template <class T, bool weighted>
  CBK_INLINE F64 value(F64 total, const T* g, const T* y, int64_t outputs, int64_t panel, int64_t samples,
                       const Counted<T, weighted>& counted) const {
    for (int64_t c = 0; c < outputs; ++c, g += panel, y += panel)
      for (int64_t s = 0; s < samples; s += lanes<T>) total = add(total, load(g + s) - load(y + s), counted, s);
    return total;
  }

  template <class T, bool weighted>
  CBK_INLINE F64 slopes(F64 total, T* g, int64_t stride, const T* y, int64_t outputs, int64_t panel, T factor,
                        const Counted<T, weighted>& counted) const {
    using V = Vector<T>;
    for (int64_t c = 0; c < outputs; ++c, g += stride, y += panel) {
      for (int64_t s = 0; s < panel; s += lanes<T>) {
        if constexpr (weighted) {
          const V e = load(g + s) - load(y + s);
          total = add(total, e, counted, s);
          store(g + s, counted(law().slope(e, factor), s));
        } else {
          const V e = counted(load(g + s) - load(y + s), s);
          total = law().add_plain(total, e);
          store(g + s, law().slope(e, factor));
        }
      }
    }
    return total;
  }
};

// Squared in float64: the square of a large float32 residual may overflow float32.
template <>
struct LossLaw<LossKind::mse> : OfResiduals<LossKind::mse> {
  template <class V>
  static CBK_INLINE F64 add_plain(F64 total, V e) {
    return add_square(total, e);
  }
  static CBK_INLINE F64 of(F64 e) { return e * e; }
  template <class V>
  static CBK_INLINE V slope(V e, Scalar<V> factor) {
    return e * (2 * factor);
  }
};

// |e|, whose slope at 0 is 0.
template <>
struct LossLaw<LossKind::mae> : OfResiduals<LossKind::mae> {
  static CBK_INLINE F64 of(F64 e) { return abs(e); }
  template <class V>
  static CBK_INLINE V slope(V e, Scalar<V> factor) {
    const V size = splat<V>(factor);
    return (e > 0 ? size : e < 0 ? -size : V{}) + nan_of(e);
  }
};

// e^2 / 2 up to |e| = delta, and the tangent from there on.
template <>
struct LossLaw<LossKind::huber> : OfResiduals<LossKind::huber> {
  CBK_INLINE F64 of(F64 e) const {
    const F64 size = abs(e), near = min(splat<F64>(parameter), size);
    return near * (size - 0.5 * near);
  }
  template <class V>
  CBK_INLINE V slope(V e, Scalar<V> factor) const {
    const V end = splat<V>(Scalar<V>(parameter));
    return min(end, max(-end, e)) * factor;
  }
};

// (1 - q) e for e = g - y above 0, -q e below: least where a share q of the targets lies below g.  Its slope at 0 is 0.
template <>
struct LossLaw<LossKind::pinball> : OfResiduals<LossKind::pinball> {
  CBK_INLINE F64 of(F64 e) const { return e * (e > 0 ? splat<F64>(1 - parameter) : splat<F64>(-parameter)); }
  template <class V>
  CBK_INLINE V slope(V e, Scalar<V> factor) const {
    const V above = splat<V>(Scalar<V>((1 - parameter) * factor)), below = splat<V>(Scalar<V>(-parameter * factor));
    return (e > 0 ? above : e < 0 ? below : V{}) + nan_of(e);
  }
};

// L of a label, a number: Law has the losses of a vector of samples as `loss`, and as `slope` the same with the outputs
// replaced by keep(dL/dg).
template <LossKind K>
struct OfLabels : HasParameter {
  using Law = LossLaw<K>;
  static constexpr LossKind kind = K;
  static constexpr bool of_residuals = false;

  template <class T, bool weighted>
  CBK_INLINE F64 value(F64 total, const T* g, const T* label, int64_t outputs, int64_t panel, int64_t samples,
                       const Counted<T, weighted>& counted) const {
    for (int64_t s = 0; s < samples; s += lanes<T>)
      total = cbk::CBK_ISA::add(total, counted(Law::loss(g + s, panel, load(label + s), outputs), s));
    return total;
  }

  template <class T, bool weighted>
  CBK_INLINE F64 slopes(F64 total, T* g, int64_t stride, const T* label, int64_t outputs, int64_t panel, T factor,
                        const Counted<T, weighted>& counted) const {
    using V = Vector<T>;
    for (int64_t s = 0; s < panel; s += lanes<T>) {
      const auto keep = [&](V slope) { return counted(slope * factor, s); };
      total = cbk::CBK_ISA::add(total, counted(Law::slope(g + s, stride, load(label + s), outputs, keep), s));
    }
    return total;
  }
};

#if defined(CBK_ONE_LANE)
// exp(x) for x <= 0, or NaN: 2^t and what the product's rounding left.
CBK_INLINE float exp_below(float x) {
  x = max(-87.3f, x);
  const float t = x * 1.44269502f, rest = fma(x, 1.92596299e-8f, fma(x, 1.44269502f, -t));
  const float power = exp2_near(t);
  return fma(power * rest, 0.693147181f, power);
}
CBK_INLINE double exp_below(double x) { return exp(x); }
#endif

// log sum_c exp(g_c) - g_label = log1p(sum of exp(g_c - max) but for one maximum) - (g_label - max): relatively exact
// however sure the network is.
template <>
struct LossLaw<LossKind::cross_entropy> : OfLabels<LossKind::cross_entropy> {
#if defined(CBK_ONE_LANE)  // the loss of one sample, without a branch: exp(0) is 1
  template <class T>
  static CBK_INLINE T of_label(const T* g, int outputs, int label) {
    T top = g[0];
    CBK_UNROLL_BY(5)  // by five: ten classes take two turns
    for (int c = 0; c < outputs; ++c) top = max(top, g[c]);
    T others = 0, ties = -1;
    CBK_UNROLL_BY(5)
    for (int c = 0; c < outputs; ++c) {
      const T z = g[c] - top, is_top = z == 0 ? T(1) : T(0);
      others = others + (exp_below(z) - is_top), ties = ties + is_top;
    }
    return log1p(others + ties) - (g[label] - top);
  }
#endif

  template <class T>
  static CBK_INLINE Vector<T> largest(const T* g, int64_t stride, int64_t outputs) {
    Vector<T> top = load(g);
    for (int64_t c = 1; c < outputs; ++c) top = max(top, load(g + c * stride));
    return top;
  }

  template <class T, class V>
  static CBK_INLINE V loss(const T* g, int64_t stride, V wanted, int64_t outputs) {
    const V top = largest(g, stride, outputs);
    V others{}, ties = splat<V>(-1), picked{};
    for (int64_t c = 0; c < outputs; ++c) {
      const V z = load(g + c * stride) - top;
      const auto is_top = z == T(0);
      others = others + (is_top ? V{} : exp(z));
      ties = ties + (is_top ? splat<V>(1) : V{});
      picked = wanted == T(c) ? z : picked;
    }
    return log1p(others + ties) - picked;
  }

  template <class T, class V, class Keep>
  static CBK_INLINE V slope(T* g, int64_t stride, V wanted, int64_t outputs, Keep&& keep) {
    const V top = largest(g, stride, outputs);
    V others{}, ties = splat<V>(-1), picked{};
    for (int64_t c = 0; c < outputs; ++c) {
      const V z = load(g + c * stride) - top, e = exp(z);
      const auto is_top = z == T(0);
      others = others + (is_top ? V{} : e);
      ties = ties + (is_top ? splat<V>(1) : V{});
      picked = wanted == T(c) ? z : picked;
      store(g + c * stride, e);
    }
    const V inverse = splat<V>(1) / (others + ties + T(1));
    for (int64_t c = 0; c < outputs; ++c) {
      T* p = g + c * stride;
      store(p, keep(mad(load(p), inverse, wanted == T(c) ? splat<V>(-1) : V{})));
    }
    return log1p(others + ties) - picked;
  }
};

// The largest output but that of the label `without`, and the first class that has it, both as numbers.
template <class V>
struct Winner {
  V class_, output, nan;  // nan: 0, or NaN where an output is
};
template <class T>
constexpr T below_all = -std::numeric_limits<T>::infinity();
template <class T, class V>
CBK_INLINE Winner<V> winner(const T* g, int64_t stride, V without, int64_t outputs) {
  Winner<V> first{V{}, splat<V>(below_all<T>), V{}};
  for (int64_t c = 0; c < outputs; ++c) {
    const V out = load(g + c * stride), other = without == T(c) ? splat<V>(below_all<T>) : out;
    const auto better = other > first.output;
    first.class_ = better ? splat<V>(T(c)) : first.class_;
    first.output = better ? other : first.output;
    first.nan = first.nan + nan_of(out);
  }
  return first;
}

// One output: max(0, 1 - t g) with t = -1 or 1.  Several: max(0, 1 + max over the others of g_c - g_label) [Crammer,
// Singer 2001].  The slope at the corner is 0; of equal rivals the first one has it.
template <>
struct LossLaw<LossKind::hinge> : OfLabels<LossKind::hinge> {
  template <class T, class V>
  static CBK_INLINE V margin(const T* g, int64_t stride, V wanted, int64_t outputs, V& rival) {
    if (outputs == 1) return mad(T(1) - T(2) * wanted, load(g), splat<V>(1));
    const Winner<V> first = winner(g, stride, wanted, outputs);
    rival = first.class_;
    V picked{};
    for (int64_t c = 0; c < outputs; ++c) picked = wanted == T(c) ? load(g + c * stride) : picked;
    return (first.output - picked) + T(1) + first.nan;
  }
  template <class T, class V>
  static CBK_INLINE V loss(const T* g, int64_t stride, V wanted, int64_t outputs) {
    V rival{};
    return max(V{}, margin(g, stride, wanted, outputs, rival));
  }
  template <class T, class V, class Keep>
  static CBK_INLINE V slope(T* g, int64_t stride, V wanted, int64_t outputs, Keep&& keep) {
    V rival{};
    const V margin = LossLaw::margin(static_cast<const T*>(g), stride, wanted, outputs, rival);
    const V active = (margin > T(0) ? splat<V>(1) : V{}) + nan_of(margin);
    if (outputs == 1) {
      store(g, keep(active * (T(1) - T(2) * wanted)));
    } else {
      for (int64_t c = 0; c < outputs; ++c)
        store(g + c * stride,
              keep(active * ((rival == T(c) ? splat<V>(1) : V{}) - (wanted == T(c) ? splat<V>(1) : V{}))));
    }
    return max(V{}, margin);
  }
};

// log(1 + exp(-t g)) with t = -1 or 1, of one output.
template <>
struct LossLaw<LossKind::logistic> : OfLabels<LossKind::logistic> {
  template <class T, class V>
  static CBK_INLINE V loss(const T* g, int64_t, V wanted, int64_t) {
    return softplus((T(1) - T(2) * wanted) * load(g));
  }
  template <class T, class V, class Keep>
  static CBK_INLINE V slope(T* g, int64_t, V wanted, int64_t, Keep&& keep) {
    const V against = T(1) - T(2) * wanted, z = against * load(g);
    store(g, keep(against * sigmoid(z)));
    return softplus(z);
  }
};

// 1 where the prediction is not the label.  Predicted is the first class with the largest output, or one output's side.
template <>
struct LossLaw<LossKind::zero_one> : OfLabels<LossKind::zero_one> {
  template <class T, class V>
  static CBK_INLINE V loss(const T* g, int64_t stride, V wanted, int64_t outputs) {
    const Winner<V> first = winner(g, stride, splat<V>(-1), outputs);
    const V told = outputs == 1 ? (first.output >= T(0) ? splat<V>(1) : V{}) : first.class_;
    return (told == wanted ? V{} : splat<V>(1)) + first.nan;
  }
};

// Calls f(law).
template <class F>
CBK_INLINE void with_loss(Loss loss, F&& f) {
#define CBK_KIND_CASE(name, ...) \
  case LossKind::name: { \
    LossLaw<LossKind::name> law; \
    law.take(loss); \
    return f(law); \
  }
  switch (loss.kind) {
    CBK_LOSSES(CBK_KIND_CASE)
#if defined(CBK_ONE_LANE)
    default: return;  // functions of one's own are refused on cards
#else
    CBK_OWN_LOSSES(CBK_KIND_CASE)
#endif
  }
#undef CBK_KIND_CASE
}

}  // namespace cbk::CBK_ISA
