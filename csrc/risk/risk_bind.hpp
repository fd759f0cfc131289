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
  return {net, Loss::none, nullptr, 0, x.data(), samples, nullptr, nullptr, 1};
}

template <class T>
RiskProblem<T> problem_of(const Network& net, const Array<T>& theta, const Array<T>& x) {
  RiskProblem<T> problem = data_of(net, x);
  problem.particles = rows_of("theta", theta);
  check_shape("theta", theta, {problem.particles, net.size()});
  problem.theta = theta.data();
  return problem;
}

// y: [tasks, S, C] of the particles' type for squared errors, [tasks, S] int32 for cross entropy.
template <class T>
void set_task_targets(RiskProblem<T>& problem, const py::array& y) {
  problem.tasks = y.ndim() > 0 ? y.shape(0) : 0;
  if (problem.tasks < 1) throw py::value_error("y must have at least one task");
  if (py::isinstance<Array<T>>(y)) {
    check_shape("y", y, {problem.tasks, problem.samples, problem.net.outputs});
    problem.loss = Loss::mse;
    problem.y = static_cast<const T*>(y.data());
  } else if (py::isinstance<Array<int32_t>>(y)) {
    check_shape("y", y, {problem.tasks, problem.samples});
    problem.loss = Loss::cross_entropy;
    problem.labels = static_cast<const int32_t*>(y.data());
  } else {
    throw py::type_error("y must be a contiguous array of the particles' type or of int32");
  }
}

// The same for one task, without its axis.
template <class T>
void set_targets(RiskProblem<T>& problem, py::array y) {
  std::vector<py::ssize_t> shape{1};
  shape.insert(shape.end(), y.shape(), y.shape() + y.ndim());
  set_task_targets(problem, y.reshape(shape));  // a view
}

}  // namespace cbk
