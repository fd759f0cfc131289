// How the compiled modules' functions take a risk problem; the arrays must outlive it.
#pragma once

#include "../common/bind.hpp"
#include "risk.hpp"

namespace cbk {

template <class T>
RiskProblem<T> problem_of(const Network& net, const Input<T>& x) {
  const int64_t samples = rows_of("x", x);
  check_shape("x", x, {samples, net.inputs});
  return {net, LossKind::mse, nullptr, 0, x.data(), samples, nullptr, nullptr, 0};  // outputs alone, so far
}

template <class T>
void set_particles(RiskProblem<T>& problem, const Input<T>& theta) {
  problem.particles = rows_of("theta", theta);
  check_shape("theta", theta, {problem.particles, problem.net.size()});
  problem.theta = theta.data();
}

// y: values [tasks, S, C] of the particles' type, or for a loss of labels [tasks, S] int32; without the axis of tasks
// where it is one's.  Values of one output may lack the last axis.  Weights [S] of the particles' type.
template <class T>
void set_targets(RiskProblem<T>& problem, const TargetInput& targets, Loss loss, bool has_tasks) {
  const Array& y = targets.y;
  if (!suits(loss.kind, problem.net.outputs)) throw py::value_error("the loss is of networks with one output");
  if (loss.function && loss.item != int64_t(sizeof(T)))
    throw py::type_error("the function of a loss must take numbers of the particles' type");
  problem.loss = loss;
  problem.tasks = !has_tasks ? 1 : y.ndim() > 0 ? y.shape(0) : 0;
  if (problem.tasks < 1) throw py::value_error("y must have at least one task");
  const auto check = [&](auto... shape) {
    has_tasks ? check_shape("y", y, {problem.tasks, shape...}) : check_shape("y", y, {shape...});
  };
  if (!takes_labels(loss.kind) && y.holds<T>()) {
    if (problem.net.outputs == 1 && y.ndim() == (has_tasks ? 2 : 1))
      check(problem.samples);
    else
      check(problem.samples, problem.net.outputs);
    problem.y = y.entries<T>();
  } else if (takes_labels(loss.kind) && y.holds<int32_t>()) {
    check(problem.samples);
    problem.labels = y.entries<int32_t>();
  } else {
    throw py::type_error("y must be a contiguous array of the particles' type, or of int32 for a loss of labels");
  }
  if (!targets.weights) return;
  if (!targets.weights->holds<T>()) throw py::type_error("weights must be of the particles' type");
  check_shape("weights", *targets.weights, {problem.samples});
  problem.weights = targets.weights->entries<T>();
}

template <class T>
void check_slopes(const RiskProblem<T>& problem) {
  if (!has_slope(problem.net.activation)) throw py::value_error("the activation has no gradient");
  if (!has_slope(problem.loss.kind)) throw py::value_error("the loss has no gradient");
}

// Of tasks that share x [S, d], or have inputs of their own, x [tasks, S, d].
template <class T>
RiskProblem<T> tasks_of(const Network& net, const Input<T>& x, const TargetInput& y, Loss loss) {
  const bool own = x.ndim() == 3;
  const int64_t samples = x.ndim() > 1 ? x.shape(own ? 1 : 0) : 0;
  if (samples < 1) throw py::value_error("x must have at least one sample");
  RiskProblem<T> problem{net, loss, nullptr, 0, x.data(), samples, nullptr, nullptr, 0};
  set_targets(problem, y, loss, true);
  own ? check_shape("x", x, {problem.tasks, samples, net.inputs}) : check_shape("x", x, {samples, net.inputs});
  return problem;
}

// Each of several tasks that have inputs of their own, x [tasks, S, d], as a problem of its own: f(problem, task).
template <class T, class F>
void for_each_task(RiskProblem<T> problem, F&& f) {
  const int64_t tasks = problem.tasks, values = problem.samples * problem.net.outputs;
  problem.tasks = 1;
  for (int64_t t = 0; t < tasks; ++t) {
    f(problem, t);
    problem.x += problem.samples * problem.net.inputs;
    if (problem.y) problem.y += values;
    if (problem.labels) problem.labels += problem.samples;
  }
}

}  // namespace cbk
