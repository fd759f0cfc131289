// The names of simd.hpp on plain numbers: a CUDA thread is a register of one lane, and one source serves both.
//
// Included by simd.hpp where CBK_ONE_LANE is defined (cuda/gpu.hpp).  fma rounds once and nothing else is contracted
// (nvcc -fmad=false, g++ -ffp-contract=off), so that normals and updates have the CPU's bits.
#pragma once

namespace cbk::CBK_ISA {

template <class T>
using Vector = T;

using F32 = float;
using F64 = double;
using I32 = int32_t;
using U32 = uint32_t;
using I64 = int64_t;
using U64 = uint64_t;

template <class T>
constexpr int lanes = 1;

template <class V>
using Scalar = V;

template <class V>
struct Traits;
template <>
struct Traits<float> {
  using Int = int32_t;
  using Word = uint32_t;
};
template <>
struct Traits<double> {
  using Int = int64_t;
  using Word = uint64_t;
};
template <class V>
using Int = typename Traits<V>::Int;
template <class V>
using Word = typename Traits<V>::Word;

template <class T>
CBK_INLINE T load(const T* p) {
  return *p;
}
template <class T>
CBK_INLINE void store(T* p, T v) {
  *p = v;
}
template <class V>
CBK_INLINE V splat(V x) {
  return x;
}
template <class To, class From>
CBK_INLINE To bits(From v) {
  static_assert(sizeof(To) == sizeof(From));
  To r;
  memcpy(&r, &v, sizeof r);
  return r;
}

#if defined(__CUDA_ARCH__)
CBK_INLINE float fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
CBK_INLINE double fma(double a, double b, double c) { return __fma_rn(a, b, c); }
CBK_INLINE float sqrt(float a) { return __fsqrt_rn(a); }
CBK_INLINE double sqrt(double a) { return __dsqrt_rn(a); }
#else
CBK_INLINE float fma(float a, float b, float c) { return std::fma(a, b, c); }
CBK_INLINE double fma(double a, double b, double c) { return std::fma(a, b, c); }
CBK_INLINE float sqrt(float a) { return std::sqrt(a); }
CBK_INLINE double sqrt(double a) { return std::sqrt(a); }
#endif

// sqrt(square), correctly rounded, from an approximate 1 / sqrt(square); the number is neither tiny nor huge.
CBK_INLINE float corrected_root(float square, float inverse) {
  const float root = square * inverse;
  return fma(fma(-root, root, square), 0.5f * inverse, root);
}

template <class V>
CBK_INLINE V mad(V a, V b, V c) {
  return fma(a, b, c);
}
template <class V>
CBK_INLINE V max(V a, V b) {  // NaN where b is; the card's instruction also where a is, and of two zeros it takes +0
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  if constexpr (sizeof(V) == sizeof(float)) {
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(b) : "f"(a), "f"(b));
    return b;
  }
#endif
  return a > b ? a : b;
}
template <class V>
CBK_INLINE V min(V a, V b) {
  return a < b ? a : b;
}
// a / b where two units in the last place do not matter, nor a 1 / b below 2^-126: a third of the instructions.
template <class V>
CBK_INLINE V quotient(V a, V b) {
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(V) == sizeof(float)) {
    asm("rcp.approx.ftz.f32 %0, %0;" : "+f"(b));
    return a * b;
  }
#endif
  return a / b;
}
// a / b to one unit in the last place, where neither 1 / b nor the remainder is below 2^-126.
template <class V>
CBK_INLINE V near_quotient(V a, V b) {
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(V) == sizeof(float)) {
    const V inverse = quotient(V(1), b), q = a * inverse;
    return fma(fma(-q, b, a), inverse, q);
  }
#endif
  return a / b;
}
// 2^t for t in [-126, 0], or NaN, to two units in the last place: one instruction.
CBK_INLINE float exp2_near(float t) {
#if defined(__CUDA_ARCH__)
  asm("ex2.approx.ftz.f32 %0, %0;" : "+f"(t));
  return t;
#else
  return std::exp2(t);
#endif
}
template <class V>
CBK_INLINE V abs(V a) {
  return bits<V>(bits<Int<V>>(a) & ~(Int<V>(1) << (sizeof(V) * 8 - 1)));
}
template <class V>
CBK_INLINE V copysign(V a, V b) {
  const Int<V> sign = Int<V>(1) << (sizeof(V) * 8 - 1);
  return bits<V>((bits<Int<V>>(a) & ~sign) | (bits<Int<V>>(b) & sign));
}
CBK_INLINE bool any(bool holds) { return holds; }
template <class V>
CBK_INLINE V round(V a) {
  const V shift = sizeof(V) == 4 ? V(12582912.0) : V(6755399441055744.0);
  return (a + shift) - shift;
}
template <class V>
CBK_INLINE Int<V> to_int(V a) {  // by the shift's mantissa: defined for NaN too, where a conversion is not
  const V shift = sizeof(V) == 4 ? V(12582912.0) : V(6755399441055744.0);
  return bits<Int<V>>(a + shift) - bits<Int<V>>(shift);
}
CBK_INLINE float to_float(int32_t a) { return float(a); }
CBK_INLINE double to_float(int64_t a) { return double(a); }

template <class V>
CBK_INLINE V exp2_integer(V n) {
  constexpr int mantissa = sizeof(V) == 4 ? 23 : 52, bias = sizeof(V) == 4 ? 127 : 1023;
  return bits<V>(bits<Word<V>>(to_int(n) + bias) << mantissa);
}

CBK_INLINE uint64_t multiply_low(uint64_t a, uint64_t b) { return uint64_t(uint32_t(a)) * uint32_t(b); }

template <class V>
CBK_INLINE double add_square(double total, V a) {
  return fma(double(a), double(a), total);
}
template <class V>
CBK_INLINE double add(double total, V a) {
  return total + double(a);
}

template <class V>
CBK_INLINE V keep_lanes(V v, int64_t count) {
  return count > 0 ? v : V(0);
}

}  // namespace cbk::CBK_ISA
