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

template <>
struct Sigma<Activation::leaky_relu> {
  template <class V>
  static CBK_INLINE V value(V z) {
    return max(z * Scalar<V>(0.01), z);
  }
  template <class V>
  static CBK_INLINE V slope(V h) {
    return h > Scalar<V>(0) ? splat<V>(1) : splat<V>(Scalar<V>(0.01));
  }
};

template <>
struct Sigma<Activation::silu> {
  template <class V>
  static CBK_INLINE V value(V z) {
    return silu(z);
  }
  template <class V>
  static CBK_INLINE V value(V z, V& derivative) {
    return silu(z, derivative);
  }
};

template <>
struct Sigma<Activation::sin> {
  template <class V>
  static CBK_INLINE V value(V z) {
    return sine(z);
  }
  template <class V>
  static CBK_INLINE V value(V z, V& derivative) {
    return sine(z, derivative);
  }
};

template <>
struct Sigma<Activation::erf> {
  template <class V>
  static CBK_INLINE V value(V z) {
    return error_function(z);
  }
  template <class V>
  static CBK_INLINE V value(V z, V& derivative) {
    return error_function(z, derivative);
  }
};

// These two are 1 at 0, and NaN where z is.
template <>
struct Sigma<Activation::sign> {
  template <class V>
  static CBK_INLINE V value(V z) {
    const V up = z >= Scalar<V>(0) ? splat<V>(1) : z;
    return z < Scalar<V>(0) ? splat<V>(-1) : up;
  }
};

template <>
struct Sigma<Activation::step> {
  template <class V>
  static CBK_INLINE V value(V z) {
    const V up = z >= Scalar<V>(0) ? splat<V>(1) : z;
    return z < Scalar<V>(0) ? V{} : up;
  }
};

// Stands for an activation that is known only at run time.
constexpr Activation any_activation = Activation(-1);
template <>
struct Sigma<any_activation> {};

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

// Whether kernels are compiled for this activation alone.  Of those that keep sigma'(z) beside sigma(z), it is the same
// for all activations but for one call.
template <Activation A, bool kept>
constexpr bool has_kernels = has_kernels_of_its_own(A) && (!kept || slope_from_value<A> || recalls<A>);

#if defined(CBK_ONE_LANE)
#if defined(__CUDACC__)
#define CBK_CALLED __host__ __device__ __noinline__
#else
#define CBK_CALLED __attribute__((noinline))
#endif

template <class T>
struct ValueAndSlope {
  T value, slope;
};

// Of the activations without kernels of their own.  It is called, so that those with some keep their registers.
template <bool sloped, class T>
CBK_CALLED ValueAndSlope<T> activate_any(Activation activation, T z) {
  ValueAndSlope<T> found{z, 0};
#define CBK_CASE(name, ...) \
  case Activation::name: \
    if constexpr (!has_kernels<Activation::name, false>) { \
      if constexpr (sloped && has_slope(Activation::name)) \
        found.value = activate<Activation::name>(z, found.slope); \
      else \
        found.value = activate<Activation::name>(z); \
    } \
    break;
  switch (activation) { CBK_ACTIVATIONS(CBK_CASE) }
#undef CBK_CASE
  return found;
}
#undef CBK_CALLED
#endif

// The constant that with_activation passes to its function.
template <Activation A>
struct Law {
  static constexpr Activation value = A;
  Activation activation;

#if defined(CBK_ONE_LANE)
  template <class T>
  CBK_INLINE T operator()(T z) const {
    if constexpr (A == any_activation)
      return activate_any<false>(activation, z).value;
    else
      return activate<A>(z);
  }
  template <class T>
  CBK_INLINE T operator()(T z, T& derivative) const {
    if constexpr (A == any_activation) {
      const ValueAndSlope<T> found = activate_any<true>(activation, z);
      derivative = found.slope;
      return found.value;
    } else {
      return activate<A>(z, derivative);
    }
  }
#endif
};

// Calls f(law) with the activation as the compile-time constant law.value, or any_activation where it shares kernels.
template <bool kept = false, class F>
CBK_INLINE void with_activation(Activation activation, F&& f) {
#define CBK_CASE(name, ...) \
  case Activation::name: \
    if constexpr (has_kernels<Activation::name, kept>) return f(Law<Activation::name>{activation}); \
    break;
  switch (activation) { CBK_ACTIVATIONS(CBK_CASE) }
#undef CBK_CASE
  f(Law<any_activation>{activation});
}

// Whether a gradient must keep sigma'(z) beside sigma(z), or else the one number that tells both.
CBK_INLINE bool keeps_slopes(Activation activation) {
  bool keeps = false;
  with_activation<true>(activation, [&](auto law) { keeps = law.value == any_activation; });
  return keeps;
}

// Of any activation, in place; count is a multiple of the lanes (activation_simd.cpp).  Slopes are those of an
// activation that has some.
template <class T>
void activate_array(Activation activation, T* z, int64_t count);
template <class T>
void activate_array(Activation activation, T* z, T* derivative, int64_t count);

}  // namespace cbk::CBK_ISA
