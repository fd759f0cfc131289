// How the compiled module's functions take a risk problem; the arrays must outlive it.
#pragma once

#include <vector>

#include "../common/bind.hpp"
#include "risk.hpp"

namespace cbk {

template <class T>
RiskProblem<T> data_of(const Network& net, const Array<T>& x) {
  const int64_t samples = rows_of("x", x);
  check_shape("x", x, {samples, net.inputs});
  return {net, Loss::mse, nullptr, 0, x.data(), samples, nullptr, nullptr, 0};  // outputs alone, so far
}

template <class T>
RiskProblem<T> problem_of(const Network& net, const Array<T>& theta, const Array<T>& x) {
  RiskProblem<T> problem = data_of(net, x);
  problem.particles = rows_of("theta", theta);
  check_shape("theta", theta, {problem.particles, net.size()});
  problem.theta = theta.data();
  return problem;
}

// y: [tasks, S, C] of the particles' type, or for a loss of labels [tasks, S] int32.
template <class T>
void set_task_targets(RiskProblem<T>& problem, const py::array& y, const std::string& loss) {
  problem.loss = named<Loss>(loss);
  problem.tasks = y.ndim() > 0 ? y.shape(0) : 0;
  if (problem.tasks < 1) throw py::value_error("y must have at least one task");
  if (targets_of(problem.loss) == Targets::values && py::isinstance<Array<T>>(y)) {
    check_shape("y", y, {problem.tasks, problem.samples, problem.net.outputs});
    problem.y = static_cast<const T*>(y.data());
  } else if (targets_of(problem.loss) == Targets::labels && py::isinstance<Array<int32_t>>(y)) {
    check_shape("y", y, {problem.tasks, problem.samples});
    problem.labels = static_cast<const int32_t*>(y.data());
  } else {
    throw py::type_error("y must be a contiguous array of the particles' type, or of int32 for a loss of labels");
  }
}

// The same for one task, without its axis.
template <class T>
void set_targets(RiskProblem<T>& problem, py::array y, const std::string& loss) {
  std::vector<py::ssize_t> shape{1};
  shape.insert(shape.end(), y.shape(), y.shape() + y.ndim());
  set_task_targets(problem, y.reshape(shape), loss);  // a view
}

}  // namespace cbk
