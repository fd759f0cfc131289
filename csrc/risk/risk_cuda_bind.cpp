#include "../cuda/bind.hpp"
#include "risk_cuda.hpp"

namespace cbk::device {
namespace {

// (inputs, width, outputs, activation, scale, output_bias)
using NetworkTuple = std::tuple<int64_t, int64_t, int64_t, std::string, double, bool>;

Network network_of(const NetworkTuple& t) {
  const auto& [inputs, width, outputs, activation, scale, output_bias] = t;
  constexpr const char* names[] = {"relu", "tanh", "sigmoid", "gelu", "softplus", "identity"};
  for (int i = 0; i < 6; ++i)
    if (activation == names[i]) return {inputs, width, outputs, Activation(i), scale, output_bias};
  throw py::value_error("unknown activation '" + activation + "'");
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

}  // namespace

void register_risk(py::module_& m) {
  m.def(
      "forward",
      [](std::pair<int, Address> on, bool float64, const NetworkTuple& net, Address theta, int64_t particles, Address x,
         int64_t samples, Address out) {
        const Where where(on);
        const Network network = network_of(net);
        on_type(where, float64, [&](auto type) {
          using T = decltype(type);
          RiskProblem<T> problem = problem_of<T>(network, theta, particles, x, samples, 0, false, 1);
          problem.loss = Loss::none;
          forward(problem, at<T>(out), where.stream);
        });
      },
      py::arg("on"), py::arg("float64"), py::arg("net"), py::arg("theta"), py::arg("particles"), py::arg("x"),
      py::arg("samples"), py::arg("out"));
  m.def(
      "risk",
      [](std::pair<int, Address> on, bool float64, const NetworkTuple& net, Address theta, int64_t particles, Address x,
         int64_t samples, Address y, bool labels, int64_t tasks, Address out) {
        const Where where(on);
        const Network network = network_of(net);
        on_type(where, float64, [&](auto type) {
          using T = decltype(type);
          risk(problem_of<T>(network, theta, particles, x, samples, y, labels, tasks), at<double>(out), where.stream);
        });
      },
      py::arg("on"), py::arg("float64"), py::arg("net"), py::arg("theta"), py::arg("particles"), py::arg("x"),
      py::arg("samples"), py::arg("y"), py::arg("labels"), py::arg("tasks"), py::arg("out"));
  m.def(
      "hopping_risk",
      [](std::pair<int, Address> on, bool float64, const NetworkTuple& net, Address center, int64_t particles,
         double spread, bool mirrored, uint64_t seed, uint32_t step, Address x, int64_t samples, Address y, bool labels,
         Address out) {
        const Where where(on);
        const Network network = network_of(net);
        on_type(where, float64, [&](auto type) {
          using T = decltype(type);
          const Draw<T> draw{at<const T>(center), T(spread), mirrored, particles, {seed, 0, step, 0}};
          RiskProblem<T> problem = problem_of<T>(network, 0, particles, x, samples, y, labels, 1);
          problem.draw = &draw;
          risk(problem, at<double>(out), where.stream);
        });
      },
      py::arg("on"), py::arg("float64"), py::arg("net"), py::arg("center"), py::arg("particles"), py::arg("spread"),
      py::arg("mirrored"), py::arg("seed"), py::arg("step"), py::arg("x"), py::arg("samples"), py::arg("y"),
      py::arg("labels"), py::arg("out"));
  m.def(
      "risk_gradient",
      [](std::pair<int, Address> on, bool float64, const NetworkTuple& net, Address theta, int64_t particles, Address x,
         int64_t samples, Address y, bool labels, Address out, Address gradient) {
        const Where where(on);
        const Network network = network_of(net);
        on_type(where, float64, [&](auto type) {
          using T = decltype(type);
          risk_gradient(problem_of<T>(network, theta, particles, x, samples, y, labels, 1), at<double>(out),
                        at<T>(gradient), where.stream);
        });
      },
      py::arg("on"), py::arg("float64"), py::arg("net"), py::arg("theta"), py::arg("particles"), py::arg("x"),
      py::arg("samples"), py::arg("y"), py::arg("labels"), py::arg("out"), py::arg("gradient"));
}

}  // namespace cbk::device
