// Losses of one panel of samples: outputs g[rows][panel] against targets, summed over samples in float64 lanes.
#pragma once

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

#endif

// sum_c (y_c - g_c)^2; squared in float64, since a wild float32 particle's square is no float32.
template <class T>
CBK_INLINE F64 squared_error(F64 total, const T* g, const T* y, int64_t rows, int64_t panel, int64_t samples) {
  for (int64_t row = 0; row < rows; ++row, g += panel, y += panel)
    for (int64_t s = 0; s < samples; s += lanes<T>)
      total = add_square(total, keep_lanes(load(g + s) - load(y + s), samples - s));
  return total;
}

// log sum_c exp(g_c) - g_label = log1p(sum of exp(g_c - max) but for one maximum) - (g_label - max): relatively exact
// however sure the network is.
template <class T>
CBK_INLINE F64 cross_entropy(F64 total, const T* g, const T* label, int64_t rows, int64_t panel, int64_t samples) {
  using V = Vector<T>;
  for (int64_t s = 0; s < samples; s += lanes<T>) {
    const V wanted = load(label + s);
    V top = load(g + s);
    for (int64_t c = 1; c < rows; ++c) top = max(top, load(g + c * panel + s));
    V others{}, ties = splat<V>(-1), picked{};
    for (int64_t c = 0; c < rows; ++c) {
      const V z = load(g + c * panel + s) - top;
      const auto is_top = z == T(0);
      others = others + (is_top ? V{} : exp(z));
      ties = ties + (is_top ? splat<V>(1) : V{});
      picked = wanted == T(c) ? z : picked;
    }
    total = add(total, keep_lanes(log1p(others + ties) - picked, samples - s));
  }
  return total;
}

// Also replaces g by factor * dL/dg, zero in padded samples.  Line c of g lies at g + c * stride.
template <class T>
CBK_INLINE F64 squared_error_slope(F64 total, T* g, int64_t stride, const T* y, int64_t rows, int64_t panel,
                                   int64_t samples, T factor) {
  using V = Vector<T>;
  for (int64_t row = 0; row < rows; ++row, g += stride, y += panel) {
    for (int64_t s = 0; s < panel; s += lanes<T>) {
      const V e = keep_lanes(load(g + s) - load(y + s), samples - s);
      total = add_square(total, e);
      store(g + s, e * (2 * factor));
    }
  }
  return total;
}

template <class T>
CBK_INLINE F64 cross_entropy_slope(F64 total, T* g, int64_t stride, const T* label, int64_t rows, int64_t panel,
                                   int64_t samples, T factor) {
  using V = Vector<T>;
  for (int64_t s = 0; s < panel; s += lanes<T>) {
    const V wanted = load(label + s);
    V top = load(g + s);
    for (int64_t c = 1; c < rows; ++c) top = max(top, load(g + c * stride + s));
    V others{}, ties = splat<V>(-1), picked{};
    for (int64_t c = 0; c < rows; ++c) {
      const V z = load(g + c * stride + s) - top, e = exp(z);
      const auto is_top = z == T(0);
      others = others + (is_top ? V{} : e);
      ties = ties + (is_top ? splat<V>(1) : V{});
      picked = wanted == T(c) ? z : picked;
      store(g + c * stride + s, e);
    }
    total = add(total, keep_lanes(log1p(others + ties) - picked, samples - s));
    const V inverse = splat<V>(1) / (others + ties + T(1));
    for (int64_t c = 0; c < rows; ++c) {
      T* p = g + c * stride + s;
      const V slope = mad(load(p), inverse, wanted == T(c) ? splat<V>(-1) : V{});
      store(p, keep_lanes(slope * factor, samples - s));
    }
  }
  return total;
}

}  // namespace cbk::CBK_ISA
