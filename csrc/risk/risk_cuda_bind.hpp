// How networks and batches come from Python.
#pragma once

#include "../cuda/bind.hpp"
#include "cuda/risk_cuda.hpp"

namespace cbk::device {

// (inputs, width, outputs, activation, scale, output_bias)
using NetworkTuple = std::tuple<int64_t, int64_t, int64_t, std::string, double, bool>;

inline Network network_of(const NetworkTuple& t) {
  const auto& [inputs, width, outputs, activation, scale, output_bias] = t;
  return {inputs, width, outputs, named<Activation>(activation), scale, output_bias};
}

inline Precision precision_of(const std::string& name) {
  if (name == "float32") return Precision::float32;
  if (name == "tf32") return Precision::tf32;
  if (name == "bf16") return Precision::bf16;
  throw py::value_error("unknown precision '" + name + "'");
}

// theta 0: drawn.  y holds values or, where the loss compares with labels, int32 labels.
template <class T>
RiskProblem<T> problem_of(const Network& net, Address theta, int64_t particles, Address x, int64_t samples, Address y,
                          Loss loss, int64_t tasks) {
  RiskProblem<T> problem{net, loss, at<const T>(theta), particles, at<const T>(x), samples, nullptr, nullptr, tasks};
  if (targets_of(loss) == Targets::labels)
    problem.labels = at<const int32_t>(y);
  else
    problem.y = at<const T>(y);
  return problem;
}

}  // namespace cbk::device
