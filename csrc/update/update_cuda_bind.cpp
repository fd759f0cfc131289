#include "../cuda/bind.hpp"
#include "update_cuda.hpp"

namespace cbk::device {
namespace {

template <class T>
UpdateProblem<T> problem_of(Address theta, Address out, int64_t particles, int64_t size, Address point, Address task,
                            double drift, double diffusion, double dt, Noise noise, double floor, double radius,
                            NoiseKey key) {
  UpdateProblem<T> problem{};
  problem.theta = at<const T>(theta), problem.out = at<T>(out);
  problem.particles = particles, problem.size = size;
  problem.point = at<const T>(point), problem.task = at<const int32_t>(task);
  problem.drift = drift, problem.diffusion = diffusion, problem.dt = dt;
  problem.noise = noise, problem.floor = floor, problem.radius = radius;
  problem.key = key;
  return problem;
}

}  // namespace

void register_update(py::module_& m) {
  m.def(
      "cbo_update",
      [](std::pair<int, Address> on, bool float64, Address theta, Address out, int64_t particles, int64_t size,
         Address point, Address task, int64_t tasks, double drift, double diffusion, double dt,
         const std::string& noise, double floor, double radius, uint64_t seed, uint32_t step, uint32_t first_particle) {
        const Where where(on);
        const Noise law = named<Noise>(noise);
        on_type(where, float64, [&](auto type) {
          using T = decltype(type);
          cbo_update(problem_of<T>(theta, out, particles, size, point, task, drift, diffusion, dt, law, floor, radius,
                                   {seed, 0, step, first_particle}),
                     tasks, where.stream);
        });
      },
      py::arg("on"), py::arg("float64"), py::arg("theta"), py::arg("out"), py::arg("particles"), py::arg("size"),
      py::arg("point"), py::arg("task"), py::arg("tasks"), py::arg("drift"), py::arg("diffusion"), py::arg("dt"),
      py::arg("noise"), py::arg("floor"), py::arg("radius"), py::arg("seed"), py::arg("step"),
      py::arg("first_particle"));
  m.def(
      "adam_update",
      [](std::pair<int, Address> on, bool float64, Address theta, Address out, int64_t particles, int64_t size,
         Address gradient, Address first, Address second, uint32_t step, double lr, double beta1, double beta2,
         double delta) {
        const Where where(on);
        on_type(where, float64, [&](auto type) {
          using T = decltype(type);
          adam_update(at<const T>(theta), at<T>(out), particles, size,
                      AdamState<T>{at<const T>(gradient), at<T>(first), at<T>(second), lr, beta1, beta2, delta, step},
                      where.stream);
        });
      },
      py::arg("on"), py::arg("float64"), py::arg("theta"), py::arg("out"), py::arg("particles"), py::arg("size"),
      py::arg("gradient"), py::arg("first"), py::arg("second"), py::arg("step"), py::arg("lr"), py::arg("beta1"),
      py::arg("beta2"), py::arg("delta"));
  m.def(
      "hybrid_update",
      [](std::pair<int, Address> on, bool float64, Address theta, Address out, int64_t particles, int64_t size,
         Address point, Address task, int64_t tasks, Address gradient, Address first, Address second, double mix,
         double drift, double diffusion, double dt, const std::string& noise, double radius, uint64_t seed,
         uint32_t step, double beta1, double beta2, double delta, uint32_t first_particle) {
        const Where where(on);
        const Noise law = named<Noise>(noise);
        on_type(where, float64, [&](auto type) {
          using T = decltype(type);
          hybrid_update(
              problem_of<T>(theta, out, particles, size, point, task, (1 - mix) * drift, (1 - mix) * diffusion, dt,
                            law, 0, radius, {seed, 0, step, first_particle}),
              tasks, AdamState<T>{at<const T>(gradient), at<T>(first), at<T>(second), mix * dt, beta1, beta2, delta, step},
              where.stream);
        });
      },
      py::arg("on"), py::arg("float64"), py::arg("theta"), py::arg("out"), py::arg("particles"), py::arg("size"),
      py::arg("point"), py::arg("task"), py::arg("tasks"), py::arg("gradient"), py::arg("first"), py::arg("second"),
      py::arg("mix"), py::arg("drift"), py::arg("diffusion"), py::arg("dt"), py::arg("noise"), py::arg("radius"),
      py::arg("seed"), py::arg("step"), py::arg("beta1"), py::arg("beta2"), py::arg("delta"),
      py::arg("first_particle"));
}

}  // namespace cbk::device
