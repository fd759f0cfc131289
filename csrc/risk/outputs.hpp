// What the paths share on the way to a network's outputs, forward and for gradients.
#pragma once

#include "../common/activation.hpp"
#include "risk.hpp"

namespace cbk::CBK_ISA {

template <int N>
struct Constant {
  static constexpr int value = N;
};

// Where a panel's hidden values are kept, or numbers that give them; and slopes, if these do not follow from them.  A
// neuron's begin `stride` after the last one's.
template <class T>
struct Kept {
  T *value, *slope;
  int64_t stride;
};

// Of an activation that needs no slopes kept.
template <Activation A, class T>
CBK_INLINE Vector<T> activate_keep(Vector<T> z, const Kept<T>& kept, int64_t at) {
  if constexpr (recalls<A>) {
    Vector<T> number;
    const Vector<T> h = Sigma<A>::keep(z, number);
    store(kept.value + at, number);
    return h;
  } else {
    const Vector<T> h = activate<A>(z);
    store(kept.value + at, h);
    return h;
  }
}

// sigma(z) and sigma'(z) of what is kept at `at`.
template <Activation A, class T>
CBK_INLINE Vector<T> recall_kept(const Kept<T>& kept, int64_t at, Vector<T>& slope) {
  const Vector<T> value = load(kept.value + at);
  if constexpr (recalls<A>)
    return Sigma<A>::recall(value, slope);
  else if constexpr (slope_from_value<A>)
    slope = slope_of_value<A>(value);
  else
    slope = load(kept.slope + at);
  return value;
}

// g = scale * sum (+ a) in place, one output every `stride`.
template <class T>
void scale_outputs(const Network& net, const T* theta, int64_t panel, T* g, int64_t stride) {
  using V = Vector<T>;
  for (int64_t c = 0; c < net.outputs; ++c) {
    const V a = splat<V>(net.output_bias ? theta[net.output_biases() + c] : T(0)), scale = splat<V>(T(net.scale));
    for (int64_t s = 0; s < panel; s += lanes<T>) store(g + c * stride + s, mad(load(g + c * stride + s), scale, a));
  }
}

}  // namespace cbk::CBK_ISA
