// Losses of one panel of samples: outputs g[rows][panel] against targets, summed over samples in float64 lanes.
#pragma once

#include "math.hpp"

namespace cbk::CBK_ISA {

// The first `count` lanes of v, zero elsewhere: padded samples do not count.
template <class V>
CBK_INLINE V keep_lanes(V v, int64_t count) {
  using I = Int<V>;
  I lane;
  for (int i = 0; i < lanes<Scalar<V>>; ++i) lane[i] = i;
  return lane < I{} + decltype(lane[0] + 0)(count) ? v : V{};
}

// sum_c (y_c - g_c)^2.  At most four squares meet in the outputs' own type before they are widened.
template <class T>
CBK_INLINE F64 squared_error(F64 total, const T* g, const T* y, int64_t rows, int64_t panel, int64_t samples) {
  using V = Vector<T>;
  for (int64_t row = 0; row < rows; ++row, g += panel, y += panel) {
    for (int64_t s = 0; s < samples; s += 4 * lanes<T>) {
      V sum{};
      for (int64_t i = s; i < s + 4 * lanes<T> && i < samples; i += lanes<T>) {
        V e = load(g + i) - load(y + i);
        if (samples - i < lanes<T>) e = keep_lanes(e, samples - i);
        sum = mad(e, e, sum);
      }
      total = add(total, sum);
    }
  }
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
    V loss = log1p(others + ties) - picked;
    if (samples - s < lanes<T>) loss = keep_lanes(loss, samples - s);
    total = add(total, loss);
  }
  return total;
}

}  // namespace cbk::CBK_ISA
