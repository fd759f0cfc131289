// What a run asks other ranks, for kernels.cpp.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "../../csrc/training/training_cuda.hpp"

namespace cbk::device {

// Other ranks that have particles too, all of weight 0.  In every other step the card scales its means itself.
inline Exchange alone(const std::unique_ptr<Run>& run, int64_t tasks) {
  return [&run, tasks](const char* what, int64_t scored, uint32_t step) {
    std::vector<double> state(size_t(3 * tasks)), factors;
    if (what[0] == 'a') {
      std::vector<double> risk(size_t(scored * tasks)), alphas(size_t(tasks), 3.0);
      run->read("risk", risk.data());
      run->write("alphas", alphas.data());
    } else if (what[0] == 'w' && step % 2) {
      factors = {1.0, 0.0};
    } else if (what[0] == 's') {
      run->read("state", state.data());
      if (scored > 0 && !(state[size_t(tasks)] >= 1)) throw CudaError("the least risk has weight 1 at least");
      state.assign(size_t(3 * tasks), 1.0);
      run->write("state", state.data());
    }
    factors.resize(std::min(factors.size(), size_t(tasks)));
    return factors;
  };
}

}  // namespace cbk::device
