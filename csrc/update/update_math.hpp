// One coordinate's step of update.hpp, on a vector or on one number.
#pragma once

#include "../common/math.hpp"
#include "update.hpp"

namespace cbk::CBK_ISA {

// delta = theta - v.  quiet: no noise; still: no drift either, Adam alone.
template <UpdateForm form, class V>
CBK_INLINE V moved(V theta, V delta, V z, V a, V b, V floor) {
  if constexpr (form == UpdateForm::multiplied) {
    return fma(fma(b, z, a), delta, theta);
  } else if constexpr (form == UpdateForm::floored) {
    return fma(hypotenuse(b * delta, floor), z, fma(a, delta, theta));
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
