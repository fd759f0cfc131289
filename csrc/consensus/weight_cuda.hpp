// One particle's weight on the GPU.
#pragma once

#include "../cuda/gpu.hpp"
#include "consensus_cuda.hpp"

namespace cbk::device {

__device__ __forceinline__ bool is_finite(double r) { return r - r == 0; }

// exp(-alpha (risk - least)) with the limits of consensus.hpp.
__device__ __forceinline__ double unnormalised(double risk, double least, double alpha) {
  if (!is_finite(risk)) return 0;
  if (alpha == 0 || risk == least) return 1;
  const double exponent = alpha * (risk - least);
  return exponent < 745.2 ? ::exp(-exponent) : 0;  // of subnormal weights too
}

__device__ __forceinline__ double alpha_of(const Alphas& a, int64_t task) {
  return a.at ? a.at[task * a.stride] : a.value;
}

}  // namespace cbk::device
