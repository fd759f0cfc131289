// How networks and batches come from Python.
#pragma once

#include "../cuda/bind.hpp"
#include "risk_cuda.hpp"

namespace cbk::device {

// (inputs, width, outputs, activation, scale, output_bias)
using NetworkTuple = std::tuple<int64_t, int64_t, int64_t, std::string, double, bool>;

inline Network network_of(const NetworkTuple& t) {
  const auto& [inputs, width, outputs, activation, scale, output_bias] = t;
  constexpr const char* names[] = {"relu", "tanh", "sigmoid", "gelu", "softplus", "identity"};
  for (int i = 0; i < 6; ++i)
    if (activation == names[i]) return {inputs, width, outputs, Activation(i), scale, output_bias};
  throw py::value_error("unknown activation '" + activation + "'");
}

inline Precision precision_of(const std::string& name) {
  if (name == "float32") return Precision::float32;
  if (name == "tf32") return Precision::tf32;
  if (name == "bf16") return Precision::bf16;
  throw py::value_error("unknown precision '" + name + "'");
}

// theta 0: drawn.  y holds values or, with `labels`, int32 labels.
template <class T>
RiskProblem<T> problem_of(const Network& net, Address theta, int64_t particles, Address x, int64_t samples, Address y,
                          bool labels, int64_t tasks) {
  RiskProblem<T> problem{net, labels ? Loss::cross_entropy : Loss::mse, at<const T>(theta), particles,
                         at<const T>(x), samples, nullptr, nullptr, tasks};
  if (labels)
    problem.labels = at<const int32_t>(y);
  else
    problem.y = at<const T>(y);
  return problem;
}

}  // namespace cbk::device
