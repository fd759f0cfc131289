// Activations on a vector, and over an array with the choice made once.
#pragma once

#include "../network/network.hpp"
#include "math.hpp"

namespace cbk::CBK_ISA {

// sigma, and its derivative: `slope` from h = sigma(z) where that is enough to know it, else `value` gives both at
// once. Where h is close to a limit it is not enough: 1 - h^2 has lost its digits.
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
  static CBK_INLINE V value(V z, V& derivative) {
    return tanh(z, derivative);
  }
};

template <>
struct Sigma<Activation::sigmoid> {
  template <class V>
  static CBK_INLINE V value(V z) {
    return sigmoid(z);
  }
  template <class V>
  static CBK_INLINE V value(V z, V& derivative) {
    return sigmoid(z, derivative);
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

// Whether a gradient must keep sigma'(z) beside sigma(z).
CBK_INLINE bool keeps_slopes(Activation activation) {
  bool keeps = false;
  with_activation(activation, [&](auto tag) { keeps = !slope_from_value<tag.value>; });
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
