// One coordinate of the passes of langevin.hpp, on a vector or on one number.
#pragma once

#include "../common/simd.hpp"
#include "langevin.hpp"

namespace cbk::CBK_ISA {

// B A O A.
template <class V>
CBK_INLINE void drifted(const LangevinCoefficients<Scalar<V>>& k, V& theta, V& velocity, V gradient, V z) {
  const V step = splat<V>(k.drift);
  V r = fma(splat<V>(k.kick), gradient, velocity);
  theta = fma(step, r, theta);
  r = fma(splat<V>(k.noise), z, splat<V>(k.decay) * r);
  theta = fma(step, r, theta);
  velocity = r;
}

}  // namespace cbk::CBK_ISA
