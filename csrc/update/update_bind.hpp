// How the compiled module's functions take an update; the arrays must outlive it.
#pragma once

#include <optional>

#include "../common/bind.hpp"
#include "update.hpp"

namespace cbk {

template <class I>
void check_indices(const char* name, const Array<I>& indices, int64_t bound) {
  for (py::ssize_t i = 0; i < indices.size(); ++i)
    if (indices.data()[i] < 0 || int64_t(indices.data()[i]) >= bound)
      throw py::value_error(std::string(name) + " holds " + std::to_string(indices.data()[i]) + ", expected [0, " +
                            std::to_string(bound) + ")");
}

// What cbo_update and hybrid_update have in common; the arrays must outlive the problem.
template <class T>
UpdateProblem<T> update_of(const Array<T>& theta, const Array<T>& point, const std::optional<Array<int32_t>>& task,
                           double drift, double diffusion, double dt, const std::string& noise, double radius,
                           uint64_t seed, uint32_t step, uint32_t first_particle, Array<T>& out) {
  const int64_t particles = rows_of("theta", theta), size = theta.shape(1), tasks = rows_of("point", point);
  check_shape("point", point, {tasks, size});
  check_shape("out", out, {particles, size});
  if (task) {
    check_shape("task", *task, {particles});
    check_indices("task", *task, tasks);
  }
  UpdateProblem<T> problem{};
  problem.theta = theta.data(), problem.out = out.mutable_data();
  problem.particles = particles, problem.size = size;
  problem.point = point.data();
  problem.task = task ? task->data() : nullptr;
  problem.drift = drift, problem.diffusion = diffusion, problem.dt = dt;
  problem.noise = named<Noise>(noise), problem.radius = radius;
  problem.key = {seed, 0, step, first_particle};
  return problem;
}

template <class T>
AdamState<T> adam_of(const Array<T>& theta, const Array<T>& gradient, Array<T>& first, Array<T>& second, double lr,
                      double beta1, double beta2, double delta, uint32_t step) {
  const int64_t particles = rows_of("theta", theta), size = theta.shape(1);
  check_shape("gradient", gradient, {particles, size});
  check_shape("first", first, {particles, size});
  check_shape("second", second, {particles, size});
  if (step < 1) throw py::value_error("step counts from 1");
  return {gradient.data(), first.mutable_data(), second.mutable_data(), lr, beta1, beta2, delta, step};
}

}  // namespace cbk
