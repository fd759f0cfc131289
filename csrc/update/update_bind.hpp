// How the compiled modules' functions take an update; the arrays must outlive it.
#pragma once

#include "../common/bind.hpp"
#include "update.hpp"

namespace cbk {

// The numbers of a step: of its drift and noise, and of Adam.  Tuples in Python.
struct Law {
  double drift, diffusion, dt;
  Noise noise;
  double floor, radius;
};
struct Descent {
  double lr, beta1, beta2, delta;
  uint32_t step;
};

// Of points [T, D]; one point for all may be [D].
inline int64_t count_of(const Array& point) { return point.ndim() == 1 ? 1 : rows_of("point", point); }

template <class T>
UpdateProblem<T> update_of(const Array& theta, const Array& point, const std::optional<Input<int32_t>>& task,
                           const Law& law, NoiseKey key, const Output<T>& out) {
  const int64_t particles = rows_of("theta", theta), size = theta.shape(1);
  const int64_t tasks = count_of(point);
  point.ndim() == 1 ? check_shape("point", point, {size}) : check_shape("point", point, {tasks, size});
  check_shape("out", out, {particles, size});
  if (task) {
    check_shape("task", *task, {particles});
    check_indices("task", task->data(), particles, tasks);
  }
  UpdateProblem<T> problem{};
  problem.theta = theta.entries<T>(), problem.out = out.data();
  problem.particles = particles, problem.size = size;
  problem.point = point.entries<T>(), problem.task = data_or_null(task);
  problem.drift = law.drift, problem.diffusion = law.diffusion, problem.dt = law.dt;
  problem.noise = law.noise, problem.floor = law.floor, problem.radius = law.radius;
  problem.key = key;
  return problem;
}

template <class T>
AdamState<T> adam_of(const Array& theta, const Array& gradient, const Output<T>& first, const Output<T>& second,
                     const Descent& by) {
  const int64_t particles = rows_of("theta", theta), size = theta.shape(1);
  check_shape("gradient", gradient, {particles, size});
  check_shape("first", first, {particles, size});
  check_shape("second", second, {particles, size});
  if (by.step < 1) throw py::value_error("step counts from 1");
  return {gradient.entries<T>(), first.data(), second.data(), by.lr, by.beta1, by.beta2, by.delta, by.step};
}

// Learning rates [particles] in place of one, where there are any.
template <class T>
void set_rates(AdamState<T>& adam, const Array& theta, const std::optional<Input<double>>& rates) {
  if (rates) check_shape("rates", *rates, {theta.shape(0)});
  adam.rates = data_or_null(rates);
}

}  // namespace cbk

namespace pybind11::detail {

template <>
struct type_caster<cbk::Law> : cbk::TupleCaster<cbk::Law, double, double, double, cbk::Noise, double, double> {};
template <>
struct type_caster<cbk::Descent> : cbk::TupleCaster<cbk::Descent, double, double, double, double, uint32_t> {};

}  // namespace pybind11::detail
