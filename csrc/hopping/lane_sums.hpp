// Sums of a vector's lanes, and which lanes count.
#pragma once

#include "../common/simd.hpp"

namespace cbk::CBK_ISA {

// Bit i says whether lane i of v is above the limit, or NaN.
template <class V>
CBK_INLINE uint32_t lanes_above(V v, Scalar<V> limit) {
#if defined(CBK_AVX512)
  if constexpr (sizeof(limit) == 4)
    return _mm512_cmp_ps_mask(v, splat<V>(limit), _CMP_NLE_UQ);
  else
    return _mm512_cmp_pd_mask(v, splat<V>(limit), _CMP_NLE_UQ);
#elif defined(CBK_AVX2)
  if constexpr (sizeof(limit) == 4)
    return uint32_t(_mm256_movemask_ps(_mm256_cmp_ps(v, splat<V>(limit), _CMP_NLE_UQ)));
  else
    return uint32_t(_mm256_movemask_pd(_mm256_cmp_pd(v, splat<V>(limit), _CMP_NLE_UQ)));
#else
  const Int<V> within = v <= limit;
  uint32_t bits = 0;
  for (int i = 0; i < lanes<Scalar<V>>; ++i) bits |= uint32_t(within[i] == 0) << i;
  return bits;
#endif
}

// v in lanes whose bit is set, 0 in others.
template <class V>
CBK_INLINE V kept(V v, uint32_t which) {
  Word<V> bit;
  for (int i = 0; i < lanes<Scalar<V>>; ++i) bit[i] = 1 << i;
  return bits<V>(bits<Word<V>>(v) & Word<V>((bit & which) != 0));
}

// Numbers of a vector's lanes, summed in float64.
template <class T>
struct LaneSums {
  F64 part[lanes<T> / lanes<double>] = {};

  CBK_INLINE void add(F32 v) {
    const Pair64 wide = widen(v);
    part[0] = part[0] + wide.low, part[1] = part[1] + wide.high;
  }
  CBK_INLINE void add(F64 v) { part[0] = part[0] + v; }
  CBK_INLINE void add(F32 v, double weight) {
    const Pair64 wide = widen(v);
    part[0] = mad(wide.low, splat<F64>(weight), part[0]), part[1] = mad(wide.high, splat<F64>(weight), part[1]);
  }
  CBK_INLINE void add(F64 v, double weight) { part[0] = mad(v, splat<F64>(weight), part[0]); }
  CBK_INLINE void add_products(F32 v, F32 w) {
    const Pair64 a = widen(v), b = widen(w);
    part[0] = mad(a.low, b.low, part[0]), part[1] = mad(a.high, b.high, part[1]);
  }
  CBK_INLINE void add_products(F64 v, F64 w) { part[0] = mad(v, w, part[0]); }
};

}  // namespace cbk::CBK_ISA
