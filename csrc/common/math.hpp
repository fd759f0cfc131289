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
    const I exponent = bits<I>((bits<U64>(offset) + (uint64_t(1) << 62)) >> 52) - 1024;
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
  using T = Scalar<V>;
  V e;
  V f = split_exponent(t + T(1), e);
  // up to 1 what the sum rounds off would show
  f = t <= T(1) ? mad(t, splat<V>(T(0.5)), splat<V>(T(-0.5))) : f;
  const auto small = t <= T(0.5);
  const V r = log1p_core(small ? t : f, small ? V{} : e);
  return t < T(1e30) ? r : t;  // infinity and NaN pass through
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
// `low` is what x has not: the digits behind its own.
template <class V, class... Low>
CBK_INLINE V reduce_exp(V x, V& scale, Low... low) {
  using T = Scalar<V>;
  constexpr bool single = sizeof(T) == 4;
  x = min(splat<V>(single ? T(88.3) : T(709.4)), max(splat<V>(single ? T(-87.3) : T(-708.3)), x));
  const V n = round(x * T(1.44269504088896340736));
  V r = (mad(n, splat<V>(single ? T(-0.693359375) : T(-6.93147180369123816490e-01)), x) + ... + low);
  r = mad(n, splat<V>(single ? T(2.12194440e-4) : T(-1.90821492927058770002e-10)), r);
  const V half = exp2_integer(n - T(1));  // 2^n itself may be one step past the largest number
  scale = half + half;
  return mad(horner<tables::Table<T>::EXP>(r), r * r, r);
}

template <class V, class... Low>
CBK_INLINE V exp(V x, Low... low) {
  V scale;
  const V p = reduce_exp(x, scale, low...);
  return mad(scale, p, scale);
}

template <class V>
CBK_INLINE V expm1(V x) {
  V scale;
  const V p = reduce_exp(x, scale);
  return mad(scale, p, scale - Scalar<V>(1));
}

// tanh |x| = part / (part + rest), and 1 - tanh |x| = rest / (part + rest) without cancellation.
//
// |x| = n ln(2)/2 + r and tau = tanh r give part = ((2^n - 1) + (2^n + 1) tau) / 2 and rest = 1 - tau.  r is in [-1/8,
// 3/8] ln 2: so that n = 0, where all is exact but tau, reaches to tanh = 1/4.  The divisor is formed as a sum, so that
// the rounding of `part` hardly counts where tanh is close to 1.  |x| is cut where the slope, about 4 exp(-2 |x|),
// passes 1e-30 or 1e-290: its products with smaller ones would be subnormal numbers, which many processors are slow at.
template <class V>
CBK_INLINE V tanh_part(V x, V& rest) {
  using T = Scalar<V>;
  constexpr bool single = sizeof(T) == 4;
  constexpr int mantissa = single ? 23 : 52;
  // a sum with this has halves in its last bit and the exponent of 2^n / 2 above it
  constexpr T shift = single ? T(6291456 + 126) : T(3377699720527872 + 1022);
  const V z = min(splat<V>(single ? T(36) : T(340)), abs(x));
  const V nearest = mad(z, splat<V>(T(2.88539008177792681472)), splat<V>(shift));
  const V below = bits<V>(bits<Word<V>>(nearest) & ~(Word<V>{} + 1));
  const V half_power = bits<V>(bits<Word<V>>(below) << (mantissa - 1));
  const V r = mad(below - shift, splat<V>(T(-0.34657359027997265471)), z), t = r * r;
  const V tau = mad(horner<tables::Table<T>::TANH>(t), t * r, r);
  rest = T(1) - tau;
  return mad(half_power + T(0.5), tau, half_power - T(0.5));
}

// a with the sign of x, for a that is not negative.
template <class V>
CBK_INLINE V with_sign(V a, V x) {
  using I = Int<V>;
  return bits<V>(bits<I>(a) | (bits<I>(x) & ((I{} + 1) << (sizeof(Scalar<V>) * 8 - 1))));
}

template <class V>
CBK_INLINE V tanh(V x) {
  V rest;
  const V part = tanh_part(x, rest);
  return with_sign(near_quotient(part, part + rest), x);
}

// m = (exp(2 |x|) - 1) / 2 with the sign of x, cut as above: of this one number tanh x = m / (|m| + 1) and its slope
// follow, with 1 - tanh |x| = 1 / (|m| + 1).  That costs less than `tanh` and a slope beside it, and 3 units in the
// last place instead of 2.
template <class V>
CBK_INLINE V half_expm1(V x) {
  using T = Scalar<V>;
  constexpr bool single = sizeof(T) == 4;
  constexpr int mantissa = single ? 23 : 52;
  constexpr T shift = single ? T(12582912 + 126) : T(6755399441055744 + 1022);  // with the exponent of 2^n / 2
  const V z = min(splat<V>(single ? T(36) : T(340)), abs(x));
  const V nearest = mad(z, splat<V>(T(2.88539008177792681472)), splat<V>(shift));
  const V half_power = bits<V>(bits<Word<V>>(nearest) << mantissa);
  const V r = mad(nearest - shift, splat<V>(T(-0.34657359027997265471)), z);
  const V p = mad(horner<tables::Table<T>::HALF_EXPM1>(r), r * r, r);
  return with_sign(mad(half_power + half_power, p, half_power - T(0.5)), x);
}
template <class V>
CBK_INLINE V tanh_from(V m) {
  return near_quotient(m, abs(m) + Scalar<V>(1));
}
template <class V>
CBK_INLINE V tanh_from(V m, V& derivative) {
  const V inverse = quotient(splat<V>(1), abs(m) + Scalar<V>(1));
  derivative = inverse * (Scalar<V>(2) - inverse);
  return m * inverse;
}

// 1 / (1 + e) of e = exp(-x), and e itself.  1 + e is rounded once as a whole.
template <class V>
CBK_INLINE V sigmoid(V x, V& e) {
  V scale;
  const V p = reduce_exp(-x, scale);
  e = mad(scale, p, scale);
  return near_quotient(splat<V>(1), scale + mad(scale, p, splat<V>(1)));
}
template <class V>
CBK_INLINE V sigmoid(V x) {
  V e;
  return sigmoid(x, e);
}
// e / (1 + e)^2, with h = 1 / (1 + e).
template <class V>
CBK_INLINE V sigmoid_slope(V e, V h) {
  return e * h * h;
}

// max(x, 0) + log(1 + exp(-|x|)).
template <class V>
CBK_INLINE V softplus(V x) {
  return max(V{}, x) + log1p(exp(-abs(x)));
}

// Phi(x), relatively exact in the lower tail too, and the density exp(-x^2 / 2) / sqrt(2 pi).
template <class V>
CBK_INLINE V normal_cdf(V x, V& density) {
  using T = Scalar<V>;
  const V b = min(abs(x), splat<V>(T(56))), t = quotient(b - T(4.25), b + T(4.25));
  const V square = b * b, rest = fma(b, b, -square);  // b^2 = square + rest
  const V e = exp(square * T(-0.5), rest * T(-0.5));
  density = e * T(0.39894228040143267794);
  const V tail = quotient(e * horner<tables::Table<T>::NORMAL_TAIL>(t), mad(b, splat<V>(T(0.75)), splat<V>(1)));
  return x < T(0) ? tail : T(1) - tail;
}

// x Phi(x), and Phi(x) + x phi(x); what is 0 far out is so for infinite x too.
template <class V>
CBK_INLINE V gelu(V x, V& derivative) {
  using T = Scalar<V>;
  V density;
  const V cdf = normal_cdf(x, density), low = max(splat<V>(T(-56)), x);
  derivative = mad(min(splat<V>(T(56)), low), density, cdf);
  return low * cdf;
}
template <class V>
CBK_INLINE V gelu(V x) {
  V derivative;
  return gelu(x, derivative);
}

// x h with h = 1 / (1 + e), e = exp(-x), and h (1 + x e h); what is 0 far out is so for infinite x too.
template <class V>
CBK_INLINE V silu(V x, V& derivative) {
  using T = Scalar<V>;
  constexpr bool single = sizeof(T) == 4;
  constexpr T far = single ? T(104) : T(725);
  const V low = max(splat<V>(-far), x);
  // x h is a normal number where h is none: there h(x) = h(x + 16) exp(-16) to all digits
  const auto tiny = low < (single ? T(-70) : T(-600));
  V e;
  const V near = sigmoid(tiny ? low + T(16) : low, e), h = tiny ? near * T(1.12535174719259114514e-7) : near;
  derivative = h * mad(min(splat<V>(far), low), e * near, splat<V>(1));
  return low * h;
}
template <class V>
CBK_INLINE V silu(V x) {
  V derivative;
  return silu(x, derivative);
}

// erf(x), and 2 exp(-x^2) / sqrt(pi).
template <class V>
CBK_INLINE V error_function(V x, V& derivative) {
  using T = Scalar<V>;
  const V z = min(splat<V>(T(30)), abs(x)), square = z * z, rest = fma(z, z, -square);  // z^2 = square + rest
  const V e = exp(-square), exact = mad(e, -rest, e);
  derivative = exact * T(1.12837916709551257390);
  const V p = horner<tables::Table<T>::ERFC>(quotient(z - T(3.75), z + T(3.75)));
  const V above = T(1) - quotient(exact * p, mad(z, splat<V>(2), splat<V>(1)));
  const V near = mad(horner<tables::Table<T>::ERF>(square), z, z);
  return with_sign(z < T(1) ? near : above, x);
}
template <class V>
CBK_INLINE V error_function(V x) {
  V derivative;
  return error_function(x, derivative);
}

// The lanes that are farther out than `far`, by libm's reduction, which takes pi to as many digits as they need.
template <class V>
__attribute__((noinline)) void far_sines(V x, Scalar<V> far, V& sine, V& cosine) {
  constexpr int count = int(sizeof(V) / sizeof(Scalar<V>));
  Scalar<V> own[3][count];
  std::memcpy(own[0], &x, sizeof x), std::memcpy(own[1], &sine, sizeof x), std::memcpy(own[2], &cosine, sizeof x);
  for (int i = 0; i < count; ++i) {
    const double at = double(own[0][i]);
    if (__builtin_fabs(at) <= double(far)) continue;
    own[1][i] = Scalar<V>(__builtin_sin(at)), own[2][i] = Scalar<V>(__builtin_cos(at));
  }
  std::memcpy(&sine, own[1], sizeof x), std::memcpy(&cosine, own[2], sizeof x);
}

// sin x and cos x, for any x; NaN for infinite ones.  x = n pi/2 + r, with pi/2 in three parts: n times the first one
// is taken away without rounding.
template <class V>
CBK_INLINE V sine(V x, V& cosine) {
  using T = Scalar<V>;
  using I = Int<V>;
  constexpr bool single = sizeof(T) == 4;
#if defined(__CUDA_ARCH__)
  V sine;
  if constexpr (single)
    ::sincosf(x, &sine, &cosine);
  else
    ::sincos(x, &sine, &cosine);
  return sine;
#else
  constexpr T far = single ? T(1e5) : T(1e9);
  const auto near = abs(x) <= far;
  const V z = near ? x : V{}, n = round(z * T(0.63661977236758134308));
  V r = fma(n, splat<V>(single ? T(-0x1.921fb6p+0) : T(-0x1.921fb54442d18p+0)), z);
  r = fma(n, splat<V>(single ? T(0x1.777a5cp-25) : T(-0x1.1a62633145c07p-54)), r);
  r = fma(n, splat<V>(single ? T(0x1.ee59dap-50) : T(0x1.f1976b7ed8fbcp-110)), r);
  V s, c;
  sincos_core(r, s, c);
  const I turns = to_int(n), odd = turns & 1;
  constexpr int sign = int(sizeof(T)) * 8 - 2;  // from the bit of 2 to the sign's
  V sine = bits<V>(bits<I>(odd != 0 ? c : s) ^ ((turns & 2) << sign));
  cosine = bits<V>(bits<I>(odd != 0 ? s : c) ^ (((turns + 1) & 2) << sign));
  if (__builtin_expect(any(z != x), 0)) far_sines(x, far, sine, cosine);
  return sine;
#endif
}
template <class V>
CBK_INLINE V sine(V x) {
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(V) == 4)
    return ::sinf(x);
  else
    return ::sin(x);
#else
  V cosine;
  return sine(x, cosine);
#endif
}

}  // namespace cbk::CBK_ISA
