// The two-layer network g(x; theta) = s sum_m c_m sigma(w_m . x + b_m) (+ a) as one flat vector theta:
// W [M, d] row-major, b [M], c [C, M] row-major, a [C] where there is an output bias.
#pragma once

#include <cstdint>

#include "../common/kinds.hpp"

namespace cbk {

struct Network {
  int64_t inputs, width, outputs;
  Activation activation;
  double scale;
  bool output_bias;
  int64_t ensemble = 0;  // particles of the ensemble that a call may have a part of: the plan is for so many

  CBK_EVERYWHERE int64_t biases() const { return width * inputs; }
  CBK_EVERYWHERE int64_t output_weights() const { return width * (inputs + 1); }
  CBK_EVERYWHERE int64_t output_biases() const { return width * (inputs + 1 + outputs); }
  CBK_EVERYWHERE int64_t size() const { return output_biases() + (output_bias ? outputs : 0); }
};

}  // namespace cbk
