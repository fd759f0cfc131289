// Exponentials of small numbers, as the cross entropies of atoms take them (entropies.hpp).
#pragma once

#include "../common/activation.hpp"

namespace cbk::CBK_ISA {

// e^d = `lead` times a polynomial of x = d / 4 for |d| up to `end`, rounding and all 9e-7 or less.  With coefficients
// adapted to the form [Knuth, TAOCP 2, 4.6.4] a degree of 2 n takes n products: sums cost nothing beside them.
// 1 at 0, fitted by linear programming.
template <int degree>
struct Power;
template <>
struct Power<4> {
  static constexpr float end = 0.25f;
  static constexpr double lead = 10.709469794;
  static CBK_INLINE F32 of(F32 x) {
    const F32 y = mad(x, x, splat<F32>(0.3734970391f));
    return mad(y + x, y, splat<F32>(-0.04612473398f));
  }
};
template <>
struct Power<6> {
  static constexpr float end = 0.75f;
  static constexpr double lead = 5.5957348316;
  static CBK_INLINE F32 of(F32 x) {
    const F32 y = mad(x + 0.3013015091f, x, splat<F32>(0.6310571432f));
    const F32 z = mad(x + -0.02194688469f, y, splat<F32>(0.6284711957f));
    return mad((y + -1.012113333f) + z, z, splat<F32>(0.03515331075f));
  }
};

// 2^r = 1 + r p(r) on [-1/2, 1/2], likewise, to 1e-7.
struct PowerOfTwo {
  static constexpr float P[5] = {0.001326472032f, 0.009671512991f, 0.05550733954f, 0.2402224243f, 0.6931470037f};
};

// e^(4 x), with a degree over Power's lead, and with degree 0 for every x for which it is a normal number.
template <int degree>
CBK_INLINE F32 power(F32 x) {
  if constexpr (degree > 0) return Power<degree>::of(x);
  const F32 y = x * 5.77078016f, shift = splat<F32>(12582912.0f), t = y + shift, r = y - (t - shift);
  const F32 p = mad(horner<PowerOfTwo::P>(r), r, splat<F32>(1));
  return bits<F32>(bits<I32>(p) + (bits<I32>(t) << 23));
}
template <int degree>
CBK_INLINE F64 power(F64 x) {
  return exp(4 * x);
}

}  // namespace cbk::CBK_ISA
