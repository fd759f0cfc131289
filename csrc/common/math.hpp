// Elementary functions on vectors, each exact to a few units in the last place, without libm.
//
// log1p_core, log and sincos decide the bits of the normals: every rounding is explicit and the same on every
// instruction set.  The others serve the activations and losses.
#pragma once

#include "simd.hpp"
// in the instruction set's namespace, which simd.hpp names
#include "polynomials.hpp"

namespace cbk::CBK_ISA {

// Coefficient i of a table, as a constant: device code may not refer to the host's arrays.
template <const auto& table, int i>
constexpr auto coefficient = table[i];
template <const auto& table>
using Powers = std::make_integer_sequence<int, int(sizeof(table) / sizeof(table[0])) - 1>;

// Horner's scheme; `polynomial` rounds once a step everywhere, `horner` where bits may differ.
template <const auto& table, class V, int... i>
CBK_INLINE V polynomial(V x, std::integer_sequence<int, i...>) {
  V p = splat<V>(coefficient<table, 0>);
  ((p = fma(p, x, splat<V>(coefficient<table, i + 1>))), ...);
  return p;
}
template <const auto& table, class V>
CBK_INLINE V polynomial(V x) {
  return polynomial<table>(x, Powers<table>{});
}
template <const auto& table, class V, int... i>
CBK_INLINE V horner(V x, std::integer_sequence<int, i...>) {
  V p = splat<V>(coefficient<table, 0>);
  ((p = mad(p, x, splat<V>(coefficient<table, i + 1>))), ...);
  return p;
}
template <const auto& table, class V>
CBK_INLINE V horner(V x) {
  return horner<table>(x, Powers<table>{});
}

// The leading coefficient is 1 and not in the table: one addition in place of a multiply-add.
template <const auto& table, class V, int... i>
CBK_INLINE V monic(V x, std::integer_sequence<int, i...>) {
  V p = x + splat<V>(coefficient<table, 0>);
  ((p = mad(p, x, splat<V>(coefficient<table, i + 1>))), ...);
  return p;
}
template <const auto& table, class V>
CBK_INLINE V monic(V x) {
  return monic<table>(x, Powers<table>{});
}

// log(1 + f) + e ln 2 for f in [-1/4, 1/2] and integral e.
CBK_INLINE F32 log1p_core(F32 f, F32 e) {
  const F32 f2 = f * f;
  F32 r = polynomial<tables::Table<float>::LOG>(f) * f;
  r = fma(r, f2, e * splat<F32>(-2.12194440e-4f));
  r = fma(f2, splat<F32>(-0.5f), r);
  return fma(e, splat<F32>(0.693359375f), f + r);
}

CBK_INLINE F64 log1p_core(F64 f, F64 e) {
  const F64 s = f / (f + 2.0), t = s * s, half = f * f * 0.5;
  // log(1+f) = f - (f^2/2 - s (f^2/2 + t p(t))): f itself is never rounded
  const F64 r = t * polynomial<tables::Table<double>::LOG>(t);
  const F64 low = fma(e, splat<F64>(1.90821492927058770002e-10), s * (half + r));
  return fma(e, splat<F64>(6.93147180369123816490e-01), f - (half - low));
}

// x = (1 + f) 2^e with 1 + f in [3/4, 3/2), for normal x > 0.
template <class V>
CBK_INLINE V split_exponent(V x, V& e) {
  using I = Int<V>;
  const I offset = bits<I>(x) - bits<I>(splat<V>(Scalar<V>(0.75)));
  if constexpr (sizeof(Scalar<V>) == 4) {
    const I exponent = offset >> 23;
    e = to_float(exponent);
    return bits<V>(bits<I>(x) - (exponent << 23)) - 1.0f;
  } else {  // no arithmetic 64-bit shift below AVX-512: a logical one of a value made positive
    const I exponent = bits<I>(bits<U64>(offset + (int64_t(1) << 62)) >> 52) - 1024;
    e = to_float(exponent);
    return bits<V>(bits<I>(x) - (exponent << 52)) - 1.0;
  }
}

template <class V>
CBK_INLINE V log(V x) {
  V e;
  const V f = split_exponent(x, e);
  return log1p_core(f, e);
}

// log(1 + t) for t >= 0, relatively exact near 0.
template <class V>
CBK_INLINE V log1p(V t) {
  V e;
  const V f = split_exponent(t + Scalar<V>(1), e);
  const auto small = t <= Scalar<V>(0.25);
  const V r = log1p_core(small ? t : f, small ? V{} : e);
  return t < Scalar<V>(1e30) ? r : t;  // infinity and NaN pass through
}

// sin and cos of x in [-pi/4, pi/4].
template <class V>
CBK_INLINE void sincos_core(V x, V& sine, V& cosine) {
  using T = tables::Table<Scalar<V>>;
  const V x2 = x * x;
  sine = fma(polynomial<T::SIN>(x2) * x2, x, x);
  cosine = fma(polynomial<T::COS>(x2), x2 * x2, fma(x2, splat<V>(Scalar<V>(-0.5)), splat<V>(1)));
}

// e^x - 1 = 2^n p + (2^n - 1) with p = e^r - 1, x = n ln 2 + r; x is clamped to where 2^n is a normal number.
template <class V>
CBK_INLINE V reduce_exp(V x, V& scale) {
  using T = Scalar<V>;
  constexpr bool single = sizeof(T) == 4;
  x = min(splat<V>(single ? T(88.3) : T(709.4)), max(splat<V>(single ? T(-87.3) : T(-708.3)), x));
  const V n = round(x * T(1.44269504088896340736));
  V r = mad(n, splat<V>(single ? T(-0.693359375) : T(-6.93147180369123816490e-01)), x);
  r = mad(n, splat<V>(single ? T(2.12194440e-4) : T(-1.90821492927058770002e-10)), r);
  const V half = exp2_integer(n - T(1));  // 2^n itself may be one step past the largest number
  scale = half + half;
  return mad(horner<tables::Table<T>::EXP>(r), r * r, r);
}

template <class V>
CBK_INLINE V exp(V x) {
  V scale;
  const V p = reduce_exp(x, scale);
  return mad(scale, p, scale);
}

template <class V>
CBK_INLINE V expm1(V x) {
  V scale;
  const V p = reduce_exp(x, scale);
  return mad(scale, p, scale - Scalar<V>(1));
}

CBK_INLINE F64 tanh(F64 x) {
  const F64 t = expm1(abs(x) * -2.0);
  return copysign(t / (t + 2.0), x);
}

// A quotient of polynomials costs less than tables in registers: the permutations take the multiply-adds' ports.
CBK_INLINE F32 tanh(F32 x) {
  using Table = tables::Table<float>;
  const F32 z = min(splat<F32>(7.9f), max(splat<F32>(-7.9f), x)), t = z * z;
  return quotient(z * horner<Table::TANH_P>(t), monic<Table::TANH_Q>(t));
}

template <class V>
CBK_INLINE V sigmoid(V x) {
  return quotient(splat<V>(1), exp(-x) + Scalar<V>(1));
}

// max(x, 0) + log(1 + exp(-|x|)).
template <class V>
CBK_INLINE V softplus(V x) {
  return max(V{}, x) + log1p(exp(-abs(x)));
}

// Phi(x) = erfc(-x / sqrt 2) / 2, relatively exact in the lower tail too, and the density exp(-x^2 / 2) / sqrt(2 pi).
template <class V>
CBK_INLINE V normal_cdf(V x, V& density) {
  using T = Scalar<V>;
  const V bound = min(abs(x), splat<V>(T(56))), z = bound * T(0.70710678118654752440);
  const V t = quotient(z - T(3.75), z + T(3.75));
  const V square = bound * bound, rest = fma(bound, bound, -square);  // z^2 = (square + rest) / 2
  const V p = horner<tables::Table<T>::ERFC>(t);
  const V e = exp(square * T(-0.5)), exact = mad(e, rest * T(-0.5), e);
  density = exact * T(0.39894228040143267794);
  const V tail = quotient(exact * p, mad(z, splat<V>(2), splat<V>(1))) * T(0.5);
  return x < T(0) ? tail : T(1) - tail;
}

template <class V>
CBK_INLINE V gelu(V x) {
  V density;
  return x * normal_cdf(x, density);
}

}  // namespace cbk::CBK_ISA
