// Activations on a vector, and over an array with the choice made once.
#pragma once

#include "../network/network.hpp"
#include "math.hpp"

namespace cbk::CBK_ISA {

// sigma, and its derivative: `slope` from h = sigma(z) where that is enough to know it.  Where h is close to a limit it
// is not enough: 1 - h^2 has lost its digits.  Then `keep` gives h and a number from which `recall` gives h and the
// slope; or, where no one number will do, `value` gives both at once.
template <Activation A>
struct Sigma;

template <>
struct Sigma<Activation::relu> {
  template <class V>
  static CBK_INLINE V value(V z) {
    return max(V{}, z);
  }
  template <class V>
  static CBK_INLINE V slope(V h) {
    return h > Scalar<V>(0) ? splat<V>(1) : V{};
  }  // 0 at the corner
};

template <>
struct Sigma<Activation::tanh> {
  template <class V>
  static CBK_INLINE V value(V z) {
    return tanh(z);
  }
  template <class V>
  static CBK_INLINE V keep(V z, V& kept) {
    kept = half_expm1(z);
    return tanh_from(kept);
  }
  template <class V>
  static CBK_INLINE V recall(V kept, V& derivative) {
    return tanh_from(kept, derivative);
  }
};

template <>
struct Sigma<Activation::sigmoid> {
  template <class V>
  static CBK_INLINE V value(V z) {
    return sigmoid(z);
  }
  template <class V>
  static CBK_INLINE V keep(V z, V& kept) {
    return sigmoid(z, kept);
  }
  template <class V>
  static CBK_INLINE V recall(V kept, V& derivative) {
    const V h = near_quotient(splat<V>(1), kept + Scalar<V>(1));
    derivative = sigmoid_slope(kept, h);
    return h;
  }
};

template <>
struct Sigma<Activation::gelu> {
  template <class V>
  static CBK_INLINE V value(V z) {
    return gelu(z);
  }
  template <class V>
  static CBK_INLINE V value(V z, V& derivative) {
    return gelu(z, derivative);
  }
};

template <>
struct Sigma<Activation::softplus> {
  template <class V>
  static CBK_INLINE V value(V z) {
    return softplus(z);
  }
  template <class V>
  static CBK_INLINE V value(V z, V& derivative) {
    derivative = sigmoid(z);
    return softplus(z);
  }
};

template <>
struct Sigma<Activation::identity> {
  template <class V>
  static CBK_INLINE V value(V z) {
    return z;
  }
  template <class V>
  static CBK_INLINE V slope(V) {
    return splat<V>(1);
  }
};

template <class Law, class V, class = void>
struct HasSlope : std::false_type {};
template <class Law, class V>
struct HasSlope<Law, V, std::void_t<decltype(Law::slope(V{}))>> : std::true_type {};
template <Activation A>
constexpr bool slope_from_value = HasSlope<Sigma<A>, F32>::value;

template <class Law, class V, class = void>
struct Recalls : std::false_type {};
template <class Law, class V>
struct Recalls<Law, V, std::void_t<decltype(Law::recall(V{}, std::declval<V&>()))>> : std::true_type {};
template <Activation A>
constexpr bool recalls = Recalls<Sigma<A>, F32>::value;

template <Activation A, class V>
CBK_INLINE V activate(V z) {
  return Sigma<A>::value(z);
}

template <Activation A, class V>
CBK_INLINE V slope_of_value(V h) {
  return Sigma<A>::slope(h);
}

// The value, and the derivative.
template <Activation A, class V>
CBK_INLINE V activate(V z, V& derivative) {
  if constexpr (slope_from_value<A>) {
    const V h = activate<A>(z);
    derivative = slope_of_value<A>(h);
    return h;
  } else if constexpr (recalls<A>) {
    V kept;
    Sigma<A>::keep(z, kept);
    return Sigma<A>::recall(kept, derivative);
  } else {
    return Sigma<A>::value(z, derivative);
  }
}

// Calls f(tag) with the activation as a compile-time constant.
template <class F>
CBK_INLINE void with_activation(Activation activation, F&& f) {
  using Kind = Activation;
  switch (activation) { CBK_ACTIVATIONS(CBK_KIND_CALL) }
}

// Whether a gradient must keep sigma'(z) beside sigma(z), or else the one number that tells both.
CBK_INLINE bool keeps_slopes(Activation activation) {
  bool keeps = false;
  with_activation(activation, [&](auto tag) { keeps = !slope_from_value<tag.value> && !recalls<tag.value>; });
  return keeps;
}

// In place; count is a multiple of the lanes.
template <class T>
void activate_array(Activation activation, T* z, int64_t count) {
  with_activation(activation, [&](auto tag) {
    if constexpr (tag.value != Activation::identity)
      for (int64_t i = 0; i < count; i += lanes<T>) store(z + i, activate<tag.value>(load(z + i)));
  });
}

template <class T>
void activate_array(Activation activation, T* z, T* derivative, int64_t count) {
  with_activation(activation, [&](auto tag) {
    for (int64_t i = 0; i < count; i += lanes<T>) {
      Vector<T> d;
      store(z + i, activate<tag.value>(load(z + i), d));
      store(derivative + i, d);
    }
  });
}

}  // namespace cbk::CBK_ISA
