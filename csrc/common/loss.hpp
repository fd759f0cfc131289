// Losses of one panel of samples: outputs g[rows][panel] against targets, summed over samples in float64 lanes.
#pragma once

#include "kinds.hpp"
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
#else

// exp(x) for x <= 0, or NaN: 2^t and what the product's rounding left.
CBK_INLINE float exp_below(float x) {
  x = max(-87.3f, x);
  const float t = x * 1.44269502f, rest = fma(x, 1.92596299e-8f, fma(x, 1.44269502f, -t));
  const float power = exp2_near(t);
  return fma(power * rest, 0.693147181f, power);
}
CBK_INLINE double exp_below(double x) { return exp(x); }
#endif

// A loss: its sum over a panel's samples, and the same with g replaced by factor * dL/dg, zero in padded samples.  g is
// [outputs] lines of a panel's samples, `stride` apart; y is [rows][panel].  On one lane a loss of labels also has
// of_label, the loss of one sample.
template <Loss L>
struct LossLaw;

// L = sum_c l(g_c - y_c): Law::add gives total + l, Law::slope factor * l'.
template <class Law>
struct OfResiduals {
  static constexpr bool of_residuals = true;

  template <class T>
  static CBK_INLINE F64 value(F64 total, const T* g, const T* y, int64_t outputs, int64_t panel, int64_t samples) {
    for (int64_t c = 0; c < outputs; ++c, g += panel, y += panel)
      for (int64_t s = 0; s < samples; s += lanes<T>)
        total = Law::add(total, keep_lanes(load(g + s) - load(y + s), samples - s));
    return total;
  }

  template <class T>
  static CBK_INLINE F64 slopes(F64 total, T* g, int64_t stride, const T* y, int64_t outputs, int64_t panel,
                               int64_t samples, T factor) {
    using V = Vector<T>;
    for (int64_t c = 0; c < outputs; ++c, g += stride, y += panel) {
      for (int64_t s = 0; s < panel; s += lanes<T>) {
        const V e = keep_lanes(load(g + s) - load(y + s), samples - s);
        total = Law::add(total, e);
        store(g + s, Law::slope(e, factor));
      }
    }
    return total;
  }
};

// Squared in float64, since a wild float32 particle's square is no float32.
template <>
struct LossLaw<Loss::mse> : OfResiduals<LossLaw<Loss::mse>> {
  template <class V>
  static CBK_INLINE F64 add(F64 total, V e) {
    return add_square(total, e);
  }
  template <class V>
  static CBK_INLINE V slope(V e, Scalar<V> factor) {
    return e * (2 * factor);
  }
};

// log sum_c exp(g_c) - g_label = log1p(sum of exp(g_c - max) but for one maximum) - (g_label - max): relatively exact
// however sure the network is.
template <>
struct LossLaw<Loss::cross_entropy> {
  static constexpr bool of_residuals = false;

#if defined(CBK_ONE_LANE)  // without a branch: exp(0) is 1
  template <class T>
  static CBK_INLINE T of_label(const T* g, int outputs, int label) {
    T top = g[0];
    CBK_UNROLL_BY(5)  // ten classes are two turns
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
  static CBK_INLINE F64 value(F64 total, const T* g, const T* label, int64_t outputs, int64_t panel, int64_t samples) {
    using V = Vector<T>;
    for (int64_t s = 0; s < samples; s += lanes<T>) {
      const V wanted = load(label + s);
      V top = load(g + s);
      for (int64_t c = 1; c < outputs; ++c) top = max(top, load(g + c * panel + s));
      V others{}, ties = splat<V>(-1), picked{};
      for (int64_t c = 0; c < outputs; ++c) {
        const V z = load(g + c * panel + s) - top;
        const auto is_top = z == T(0);
        others = others + (is_top ? V{} : exp(z));
        ties = ties + (is_top ? splat<V>(1) : V{});
        picked = wanted == T(c) ? z : picked;
      }
      total = cbk::CBK_ISA::add(total, keep_lanes(log1p(others + ties) - picked, samples - s));
    }
    return total;
  }

  template <class T>
  static CBK_INLINE F64 slopes(F64 total, T* g, int64_t stride, const T* label, int64_t outputs, int64_t panel,
                               int64_t samples, T factor) {
    using V = Vector<T>;
    for (int64_t s = 0; s < panel; s += lanes<T>) {
      const V wanted = load(label + s);
      V top = load(g + s);
      for (int64_t c = 1; c < outputs; ++c) top = max(top, load(g + c * stride + s));
      V others{}, ties = splat<V>(-1), picked{};
      for (int64_t c = 0; c < outputs; ++c) {
        const V z = load(g + c * stride + s) - top, e = exp(z);
        const auto is_top = z == T(0);
        others = others + (is_top ? V{} : e);
        ties = ties + (is_top ? splat<V>(1) : V{});
        picked = wanted == T(c) ? z : picked;
        store(g + c * stride + s, e);
      }
      total = cbk::CBK_ISA::add(total, keep_lanes(log1p(others + ties) - picked, samples - s));
      const V inverse = splat<V>(1) / (others + ties + T(1));
      for (int64_t c = 0; c < outputs; ++c) {
        T* p = g + c * stride + s;
        const V slope = mad(load(p), inverse, wanted == T(c) ? splat<V>(-1) : V{});
        store(p, keep_lanes(slope * factor, samples - s));
      }
    }
    return total;
  }
};

// Lines of a sample's targets.
CBK_INLINE int64_t target_rows(Loss loss, int64_t outputs) { return targets_of(loss) == Targets::labels ? 1 : outputs; }

// Calls f(tag) with the loss as a compile-time constant.
template <class F>
CBK_INLINE void with_loss(Loss loss, F&& f) {
  using Kind = Loss;
  switch (loss) { CBK_LOSSES(CBK_KIND_CALL) }
}

}  // namespace cbk::CBK_ISA
