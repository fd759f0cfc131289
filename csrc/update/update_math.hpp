// One coordinate's step of update.hpp, on a vector or on one number.
#pragma once

#include "../common/math.hpp"
#include "update.hpp"

namespace cbk::CBK_ISA {

// sqrt(a^2 + floor^2), also where the squares are no normal numbers.  Both are scaled by a power of two that brings the
// floor near 1: this rounds nothing, and a square that then underflows is too small to count.  Where one overflows, a
// is so large that the floor does not count beside it.
//
// near: the floor is one for which nothing needs to be scaled (has_near_floor); the bits are the same.
template <bool near, class V>
CBK_INLINE V with_floor(V a, V floor) {
  if constexpr (near) return min(abs(a) + floor, sqrt(fma(a, a, floor * floor)));
  using T = Scalar<V>;
  using W = Word<V>;
  constexpr bool single = sizeof(T) == 4;
  constexpr int mantissa = single ? 23 : 52, top = single ? 255 : 2047;
  // from the floor alone, so outside of loops; the exponent is made even, so that for infinity `down` is above 0
  const V size = max(splat<V>(single ? T(0x1p-125) : T(0x1p-1021)), floor);
  const W exponent = bits<W>(size) >> (mantissa + 1) << (mantissa + 1), one = (W{} + 1) << mantissa;
  const V down = bits<V>(one * top - exponent), up = bits<V>(exponent - one);
  const V scaled = a * down, unit = floor * down;
  return min(abs(a) + floor, sqrt(fma(scaled, scaled, unit * unit)) * up);
}

// Its square is far from underflow, and any a whose square overflows is far larger.
template <class T>
CBK_INLINE bool has_near_floor(T floor) {
  return floor >= T(0x1p-50) && floor <= T(0x1p30);
}

// delta = theta - v.  quiet: no noise; still: no drift either, Adam alone.
template <UpdateForm form, bool near = false, class V>
CBK_INLINE V moved(V theta, V delta, V z, V a, V b, V floor) {
  if constexpr (form == UpdateForm::multiplied) {
    return fma(fma(b, z, a), delta, theta);
  } else if constexpr (form == UpdateForm::floored) {
    return fma(with_floor<near>(b * delta, floor), z, fma(a, delta, theta));
  } else if constexpr (form == UpdateForm::added) {
    return fma(b, z, fma(a, delta, theta));
  } else if constexpr (form == UpdateForm::quiet) {
    return fma(a, delta, theta);
  } else {
    static_assert(form == UpdateForm::still);
    return theta;
  }
}

// theta after Adam's part; the moments change.
template <class V>
CBK_INLINE V descended(V theta, V d, V& first, V& second, const AdamCoefficients<Scalar<V>>& k) {
  first = fma(splat<V>(k.rest1), d, first * k.beta1);
  second = fma(d * k.rest2, d, second * k.beta2);
  return fma(first * -k.rate, splat<V>(1) / (sqrt(second * k.correction) + k.delta), theta);
}

}  // namespace cbk::CBK_ISA
