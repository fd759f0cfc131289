// risk.hpp on the GPU.  All arrays of a problem are device memory; a drawn ensemble's centre too.  Losses are summed
// over samples in float64; shapes, the precision and the tensor cores that the card has (none, or of sm_80, or of sm_90
// with warp_groups) alone decide the order of all sums.  A label outside [0, outputs) makes the risk NaN.
#pragma once

#include <cstdlib>
#include <string_view>

#include "../../cuda/stream.hpp"
#include "../../hopping/hopping.hpp"
#include "../risk.hpp"

namespace cbk::device {

// Of float's matrix products: float32 is as accurate as sums in float are, tf32 rounds their factors to 11 bits, bf16
// to 8. Where tensor cores would not pay (few inputs) or are missing, and for double, the arithmetic is the particles'
// own.
enum class Precision { float32, tf32, bf16 };

// Whether float's products are warp groups' (wgmma) where the card is of sm_90; CBOKERNELS_WGMMA=0 says no.
inline bool warp_groups = [] {
  const char* wanted = std::getenv("CBOKERNELS_WGMMA");
  return !wanted || std::string_view(wanted) != "0";
}();
bool can_use_warp_groups();  // on the current device, by this build

template <class T>
void forward(const RiskProblem<T>& problem, T* out, CudaStream stream, Precision precision = Precision::float32);
// Entry i of [particles, tasks] to out[i * stride].
template <class T>
void risk(const RiskProblem<T>& problem, double* out, CudaStream stream, int64_t stride = 1,
          Precision precision = Precision::float32);
// Outputs whose losses no block sums (losses_cuda.hpp) take so much memory at most.
inline int64_t output_bytes = int64_t(64) << 20;
// Pre-activations take so much at most: particles and samples are taken in as many passes as that needs.
inline int64_t gradient_bytes = int64_t(64) << 20;
template <class T>
void risk_gradient(const RiskProblem<T>& problem, double* out, T* gradient, CudaStream stream,
                   Precision precision = Precision::float32);

}  // namespace cbk::device
