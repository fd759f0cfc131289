// Vector registers of one instruction set, and the few operations that the language does not give.
//
// A file that is compiled once per instruction set includes this header with CBK_ISA defined to the set's name; every
// name then stands in the namespace cbk::<set>, so that the linker can never pick AVX-512 code for everyone.
// Arithmetic, comparisons and `mask ? a : b` are the compiler's vector extensions; intrinsics stand here and nowhere
// else.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

// CBK_EMULATE_AVX512: the AVX-512 code on SIMDe's emulation, so that a machine with AVX2 can test it.
#if defined(CBK_EMULATE_AVX512)
#define SIMDE_ENABLE_NATIVE_ALIASES
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wall"
#include <simde/x86/avx512.h>
#include <simde/x86/fma.h>
#pragma GCC diagnostic pop
#elif defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__) || defined(CBK_EMULATE_AVX512)
#define CBK_AVX512 1
#elif defined(__AVX2__)
#define CBK_AVX2 1
#endif

#ifndef CBK_ISA
#define CBK_ISA host
#endif
#if defined(__CUDACC__)
#define CBK_INLINE __host__ __device__ __forceinline__
#else
#define CBK_INLINE inline __attribute__((always_inline))
#endif
// Before a loop of at most n turns: all of them at once.  CBK_UNROLL_BY, on a card: n at a time.
#define CBK_STRINGIZED(x) #x
#if defined(__CUDA_ARCH__)
#define CBK_UNROLL(n) _Pragma("unroll")
#define CBK_UNROLL_BY(n) _Pragma(CBK_STRINGIZED(unroll n))
#elif defined(__CUDACC__) || defined(CBK_ONE_LANE)  // nvcc's pass over the host's code; the emulation
#define CBK_UNROLL(n)
#define CBK_UNROLL_BY(n)
#else
#define CBK_UNROLL(n) _Pragma(CBK_STRINGIZED(GCC unroll n))
#define CBK_UNROLL_BY(n)
#endif

#if defined(CBK_ONE_LANE)
#include "one_lane.hpp"
#else

namespace cbk::CBK_ISA {

#if defined(CBK_AVX512)
constexpr int register_bytes = 64;
constexpr int registers = 32;
#elif defined(CBK_AVX2)
constexpr int register_bytes = 32;
constexpr int registers = 16;
#else
constexpr int register_bytes = 16;
constexpr int registers = 16;
#endif

template <class T>
struct VectorOf {
  typedef T type __attribute__((vector_size(register_bytes)));
};
template <class T>
using Vector = typename VectorOf<T>::type;

using F32 = Vector<float>;
using F64 = Vector<double>;
using I32 = Vector<int32_t>;
using U32 = Vector<uint32_t>;
using I64 = Vector<int64_t>;
using U64 = Vector<uint64_t>;

template <class T>
constexpr int lanes = register_bytes / int(sizeof(T));

// The scalar type of a vector, and the integers of the same width: signed (the type of its comparisons) and unsigned.
template <class V>
struct Traits;
template <>
struct Traits<F32> {
  using Scalar = float;
  using Int = I32;
  using Word = U32;
};
template <>
struct Traits<F64> {
  using Scalar = double;
  using Int = I64;
  using Word = U64;
};
template <class V>
using Scalar = typename Traits<V>::Scalar;
template <class V>
using Int = typename Traits<V>::Int;
template <class V>
using Word = typename Traits<V>::Word;

template <class T>
CBK_INLINE Vector<T> load(const T* p) {
  Vector<T> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

template <class T>
CBK_INLINE void store(T* p, Vector<T> v) {
  std::memcpy(p, &v, sizeof v);
}

// A whole register, or as much of it as there is: zeros behind the first `count`.
CBK_INLINE F32 load_first(const float* p, int64_t count) {
  if (count >= lanes<float>) return load(p);
#if defined(__AVX512F__)
  return _mm512_maskz_loadu_ps(__mmask16((1u << count) - 1), p);
#else
  F32 v{};
  for (int i = 0; i < lanes<float>; ++i) v[i] = i < count ? p[i] : 0;
  return v;
#endif
}
CBK_INLINE void store_first(float* p, F32 v, int64_t count) {
  if (count >= lanes<float>) return store(p, v);
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, __mmask16((1u << count) - 1), v);
#else
  for (int i = 0; i < lanes<float>; ++i) {
    if (i < count) p[i] = v[i];
  }
#endif
}

template <class V>
CBK_INLINE V splat(Scalar<V> x) {
  return x - V{};  // x - 0 keeps the sign of a zero, 0 + x would not
}

template <class To, class From>
CBK_INLINE To bits(From v) {
  static_assert(sizeof(To) == sizeof(From));
  return reinterpret_cast<To>(v);
}

// fma: one rounding everywhere (what users' bits depend on; SIMDe's own may round twice).  mad: one where the hardware
// has it, else two.
CBK_INLINE F32 fma(F32 a, F32 b, F32 c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(CBK_AVX2)
  return _mm256_fmadd_ps(a, b, c);
#else
  F32 r;
  for (int i = 0; i < lanes<float>; ++i) r[i] = std::fma(a[i], b[i], c[i]);
  return r;
#endif
}

CBK_INLINE F64 fma(F64 a, F64 b, F64 c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_pd(a, b, c);
#elif defined(CBK_AVX2)
  return _mm256_fmadd_pd(a, b, c);
#else
  F64 r;
  for (int i = 0; i < lanes<double>; ++i) r[i] = std::fma(a[i], b[i], c[i]);
  return r;
#endif
}

template <class V>
CBK_INLINE V mad(V a, V b, V c) {
#if defined(CBK_AVX512) || defined(CBK_AVX2) || defined(__aarch64__)
  return fma(a, b, c);
#else
  return a * b + c;
#endif
}
CBK_INLINE double mad(double a, double b, double c) {  // as a lane of the vectors'
#if defined(CBK_AVX512) || defined(CBK_AVX2) || defined(__aarch64__)
  return std::fma(a, b, c);
#else
  return a * b + c;
#endif
}

// The second argument where either is NaN: clamps and activations pass the value second, so that no NaN is hidden.
template <class V>
CBK_INLINE V max(V a, V b) {
  return a > b ? a : b;
}
template <class V>
CBK_INLINE V min(V a, V b) {
  return a < b ? a : b;
}
#if defined(CBK_AVX2)  // the same in one instruction, which the compiler does not find where one side is a constant
CBK_INLINE F32 max(F32 a, F32 b) { return _mm256_max_ps(a, b); }
CBK_INLINE F64 max(F64 a, F64 b) { return _mm256_max_pd(a, b); }
CBK_INLINE F32 min(F32 a, F32 b) { return _mm256_min_ps(a, b); }
CBK_INLINE F64 min(F64 a, F64 b) { return _mm256_min_pd(a, b); }
#elif defined(__AVX512F__)
CBK_INLINE F32 max(F32 a, F32 b) { return _mm512_maskz_max_ps(__mmask16(-1), a, b); }
CBK_INLINE F64 max(F64 a, F64 b) { return _mm512_maskz_max_pd(__mmask8(-1), a, b); }
CBK_INLINE F32 min(F32 a, F32 b) { return _mm512_maskz_min_ps(__mmask16(-1), a, b); }
CBK_INLINE F64 min(F64 a, F64 b) { return _mm512_maskz_min_pd(__mmask8(-1), a, b); }
#endif

CBK_INLINE F32 sqrt(F32 a) {
#if defined(CBK_AVX512)
  return _mm512_sqrt_ps(a);
#elif defined(CBK_AVX2)
  return _mm256_sqrt_ps(a);
#else
  for (int i = 0; i < lanes<float>; ++i) a[i] = std::sqrt(a[i]);
  return a;
#endif
}

CBK_INLINE F64 sqrt(F64 a) {
#if defined(CBK_AVX512)
  return _mm512_sqrt_pd(a);
#elif defined(CBK_AVX2)
  return _mm256_sqrt_pd(a);
#else
  for (int i = 0; i < lanes<double>; ++i) a[i] = std::sqrt(a[i]);
  return a;
#endif
}

template <class V>
CBK_INLINE V quotient(V a, V b) {
  return a / b;
}
template <class V>
CBK_INLINE V near_quotient(V a, V b) {
  return a / b;
}
template <class V>
CBK_INLINE V abs(V a) {
  using I = Int<V>;
  constexpr int sign = sizeof(Scalar<V>) * 8 - 1;
  return bits<V>(bits<I>(a) & ~((I{} + 1) << sign));
}

// |a| with the sign of b.
template <class V>
CBK_INLINE V copysign(V a, V b) {
  using I = Int<V>;
  const I sign = (I{} + 1) << (sizeof(Scalar<V>) * 8 - 1);
  return bits<V>((bits<I>(a) & ~sign) | (bits<I>(b) & sign));
}

// Whether any comparison holds.
template <class I>
CBK_INLINE bool any(I mask) {
#if defined(__AVX512F__)
  return _mm512_test_epi64_mask(bits<__m512i>(mask), bits<__m512i>(mask)) != 0;
#elif defined(CBK_AVX2)
  return !_mm256_testz_si256(bits<__m256i>(mask), bits<__m256i>(mask));
#else
  const U64 words = bits<U64>(mask);
  uint64_t all = 0;
  for (int i = 0; i < lanes<double>; ++i) all |= words[i];
  return all != 0;
#endif
}

// To the nearest integer for |a| < 2^22 (float) or 2^51 (double), by the shift that every IEEE machine rounds alike.
template <class V>
CBK_INLINE V round(V a) {
  const V shift = splat<V>(sizeof(Scalar<V>) == 4 ? Scalar<V>(12582912.0) : Scalar<V>(6755399441055744.0));
  return (a + shift) - shift;
}

CBK_INLINE I32 to_int(F32 a) { return __builtin_convertvector(a, I32); }
CBK_INLINE I64 to_int(F64 a) {  // integral |a| < 2^51: no AVX2 instruction converts, the shift's mantissa does
  const F64 shift = splat<F64>(6755399441055744.0);
  return bits<I64>(a + shift) - bits<I64>(shift);
}
CBK_INLINE F32 to_float(I32 a) { return __builtin_convertvector(a, F32); }
CBK_INLINE F64 to_float(I64 a) {
  const F64 shift = splat<F64>(6755399441055744.0);
  return bits<F64>(a + bits<I64>(shift)) - shift;
}

// 2^n for integral n with a normal result.
template <class V>
CBK_INLINE V exp2_integer(V n) {
  constexpr int mantissa = sizeof(Scalar<V>) == 4 ? 23 : 52;
  constexpr int bias = sizeof(Scalar<V>) == 4 ? 127 : 1023;
  return bits<V>((to_int(n) + bias) << mantissa);
}

// The low halves' 32 x 32 -> 64 bit products; high halves of the inputs are ignored.
CBK_INLINE uint64_t multiply_low(uint64_t a, uint64_t b) { return (a & 0xffffffffu) * (b & 0xffffffffu); }
CBK_INLINE U64 multiply_low(U64 a, U64 b) {
#if defined(CBK_AVX512)
  return bits<U64>(_mm512_mul_epu32(bits<__m512i>(a), bits<__m512i>(b)));
#elif defined(CBK_AVX2)
  return bits<U64>(_mm256_mul_epu32(bits<__m256i>(a), bits<__m256i>(b)));
#else
  return (a & 0xffffffffu) * (b & 0xffffffffu);
#endif
}

// Lane sums in float64, in one fixed order.
CBK_INLINE double sum(F64 v) {
  double s = 0;
  for (int i = 0; i < lanes<double>; ++i) s += v[i];
  return s;
}

struct Pair64 {
  F64 low, high;
};
typedef float HalfF32 __attribute__((vector_size(register_bytes / 2)));

CBK_INLINE Pair64 widen(F32 v) {
  HalfF32 half[2];
  std::memcpy(half, &v, sizeof v);
#if defined(__AVX512F__)  // the compiler would convert by quarters
  return {_mm512_cvtps_pd(half[0]), _mm512_cvtps_pd(half[1])};
#else
  return {__builtin_convertvector(half[0], F64), __builtin_convertvector(half[1], F64)};
#endif
}

// The next numbers as float64, straight from memory: narrower loads need no halves to be cut.
CBK_INLINE F64 load_double(const double* p) { return load(p); }
CBK_INLINE F64 load_double(const float* p) {
  HalfF32 half;
  std::memcpy(&half, p, sizeof half);
#if defined(__AVX512F__)
  return _mm512_cvtps_pd(half);
#else
  return __builtin_convertvector(half, F64);
#endif
}

CBK_INLINE F32 narrow(Pair64 v) {
  const HalfF32 half[2] = {__builtin_convertvector(v.low, HalfF32), __builtin_convertvector(v.high, HalfF32)};
  F32 all;
  std::memcpy(&all, half, sizeof all);
  return all;
}
CBK_INLINE I64 load_int64(const int32_t* p) {
  typedef int32_t Half __attribute__((vector_size(register_bytes / 2)));
  Half half;
  std::memcpy(&half, p, sizeof half);
#if defined(__AVX512F__)
  return bits<I64>(_mm512_cvtepi32_epi64(bits<__m256i>(half)));
#else
  return __builtin_convertvector(half, I64);
#endif
}

// Squares summed in float64: total += a^2, lane by lane (float32 values are widened first).
CBK_INLINE F64 add_square(F64 total, F64 a) { return mad(a, a, total); }
CBK_INLINE F64 add_square(F64 total, F32 a) {
  const Pair64 w = widen(a);
  return mad(w.high, w.high, mad(w.low, w.low, total));
}
CBK_INLINE F64 add(F64 total, F64 a) { return total + a; }
CBK_INLINE F64 add(F64 total, F32 a) {
  const Pair64 w = widen(a);
  return (total + w.low) + w.high;
}

}  // namespace cbk::CBK_ISA
#endif  // CBK_ONE_LANE
