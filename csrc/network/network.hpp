// The two-layer network g(x; theta) = s sum_m c_m sigma(w_m . x + b_m) (+ a) as one flat vector theta:
// W [M, d] row-major, b [M], c [C, M] row-major, a [C] where there is an output bias.
#pragma once

#include <cstdint>

namespace cbk {

enum class Activation { relu, tanh, sigmoid, gelu, softplus, identity };

// Always inlined: no copy compiled for one instruction set may become everybody's.
#if defined(__CUDACC__)
#define CBK_OFFSET __host__ __device__ __forceinline__ int64_t
#else
#define CBK_OFFSET __attribute__((always_inline)) int64_t
#endif

struct Network {
  int64_t inputs, width, outputs;
  Activation activation;
  double scale;
  bool output_bias;

  CBK_OFFSET biases() const { return width * inputs; }
  CBK_OFFSET output_weights() const { return width * (inputs + 1); }
  CBK_OFFSET output_biases() const { return width * (inputs + 1 + outputs); }
  CBK_OFFSET size() const { return output_biases() + (output_bias ? outputs : 0); }
};

#undef CBK_OFFSET

}  // namespace cbk
