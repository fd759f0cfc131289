// Activations on a vector, and over an array with the choice made once.
#pragma once

#include "../network/network.hpp"
#include "math.hpp"

namespace cbk::CBK_ISA {

template <Activation A, class V>
CBK_INLINE V activate(V z) {
  if constexpr (A == Activation::relu) {
    return max(V{}, z);
  } else if constexpr (A == Activation::tanh) {
    return tanh(z);
  } else if constexpr (A == Activation::sigmoid) {
    return sigmoid(z);
  } else if constexpr (A == Activation::gelu) {
    return gelu(z);
  } else if constexpr (A == Activation::softplus) {
    return softplus(z);
  } else {
    static_assert(A == Activation::identity);
    return z;
  }
}

// Whether h = sigma(z) is enough to know sigma'(z), and that (0 at a ReLU's corner).
template <Activation A>
constexpr bool slope_from_value = A != Activation::gelu && A != Activation::softplus;

template <Activation A, class V>
CBK_INLINE V slope_of_value(V h) {
  const V one = splat<V>(1);
  if constexpr (A == Activation::relu) {
    return h > Scalar<V>(0) ? one : V{};
  } else if constexpr (A == Activation::tanh) {
    return mad(-h, h, one);
  } else if constexpr (A == Activation::sigmoid) {
    return h * (one - h);
  } else {
    static_assert(A == Activation::identity);
    return one;
  }
}

// The value, and the derivative.
template <Activation A, class V>
CBK_INLINE V activate(V z, V& derivative) {
  if constexpr (A == Activation::gelu) {
    V density;
    const V cdf = normal_cdf(z, density);
    derivative = mad(z, density, cdf);
    return z * cdf;
  } else if constexpr (A == Activation::softplus) {
    derivative = sigmoid(z);
    return softplus(z);
  } else {
    const V h = activate<A>(z);
    derivative = slope_of_value<A>(h);
    return h;
  }
}

// Calls f(tag) with the activation as a compile-time constant.
template <Activation A>
struct ActivationTag {
  static constexpr Activation value = A;
};

template <class F>
CBK_INLINE void with_activation(Activation activation, F&& f) {
  switch (activation) {
    case Activation::relu: return f(ActivationTag<Activation::relu>{});
    case Activation::tanh: return f(ActivationTag<Activation::tanh>{});
    case Activation::sigmoid: return f(ActivationTag<Activation::sigmoid>{});
    case Activation::gelu: return f(ActivationTag<Activation::gelu>{});
    case Activation::softplus: return f(ActivationTag<Activation::softplus>{});
    case Activation::identity: return f(ActivationTag<Activation::identity>{});
  }
  __builtin_unreachable();  // the compiler asks for every activation above
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
