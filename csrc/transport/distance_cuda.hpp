// |scale (x - y)|^2 in float64.
#pragma once

#include "../cuda/gpu.hpp"

#include "../common/simd.hpp"

namespace cbk::device {

template <class T>
__device__ __forceinline__ double squared_distance(const T* x, const T* y, int64_t size, double scale = 1) {
  double total = 0;
  for (int64_t k = 0; k < size; ++k) {
    const double difference = (double(x[k]) - double(y[k])) * scale;
    total = fma(difference, difference, total);
  }
  return total;
}

// The power of two that brings magnitudes up to `largest` to 1 at most.
__device__ __forceinline__ double unit_scale(double largest) {
  int exponent = 0;
  ::frexp(largest, &exponent);
  return ::ldexp(1.0, exponent > -1000 ? -exponent : 1000);
}

}  // namespace cbk::device
