#include "update_bind.hpp"

namespace cbk {
namespace {

template <class T>
void bound_cbo_update(const Array<T>& theta, const Array<T>& point, const std::optional<Array<int32_t>>& task,
                      const std::optional<Array<int64_t>>& rows, double drift, double diffusion, double dt,
                      const std::string& noise, double floor, double radius, uint64_t seed, uint32_t step,
                      uint32_t first_particle, Array<T> out, int num_threads) {
  UpdateProblem<T> problem =
      update_of(theta, point, task, drift, diffusion, dt, noise, radius, seed, step, first_particle, out);
  problem.floor = floor;
  if (rows) {
    check_indices("rows", *rows, problem.particles);
    problem.rows = rows->data(), problem.row_count = rows->size();
  }
  released([&] { cbo_update(problem, num_threads); });
}

template <class T>
void bound_hybrid_update(const Array<T>& theta, const Array<T>& point, const std::optional<Array<int32_t>>& task,
                         const Array<T>& gradient, Array<T> first, Array<T> second, double mix, double drift,
                         double diffusion, double dt, const std::string& noise, double radius, uint64_t seed,
                         uint32_t step, double beta1, double beta2, double delta, uint32_t first_particle,
                         Array<T> out, int num_threads) {
  const UpdateProblem<T> problem = update_of(theta, point, task, (1 - mix) * drift, (1 - mix) * diffusion, dt, noise,
                                              radius, seed, step, first_particle, out);
  const AdamState<T> adam = adam_of(theta, gradient, first, second, mix * dt, beta1, beta2, delta, step);
  released([&] { hybrid_update(problem, adam, num_threads); });
}

template <class T>
void bound_adam_update(const Array<T>& theta, const Array<T>& gradient, Array<T> first, Array<T> second,
                       uint32_t step, double lr, double beta1, double beta2, double delta, Array<T> out,
                       int num_threads) {
  const AdamState<T> adam = adam_of(theta, gradient, first, second, lr, beta1, beta2, delta, step);
  check_shape("out", out, {theta.shape(0), theta.shape(1)});
  T* to = out.mutable_data();
  released([&] { adam_update(theta.data(), to, theta.shape(0), theta.shape(1), adam, num_threads); });
}

template <class T>
void register_typed(py::module_& m) {
  m.def("cbo_update", &bound_cbo_update<T>, py::arg("theta").noconvert(), py::arg("point").noconvert(),
        py::arg("task").noconvert(), py::arg("rows").noconvert(), py::arg("drift"), py::arg("diffusion"),
        py::arg("dt"), py::arg("noise"), py::arg("floor"), py::arg("radius"), py::arg("seed"), py::arg("step"),
        py::arg("first_particle"), py::arg("out").noconvert(), py::arg("num_threads"));
  m.def("hybrid_update", &bound_hybrid_update<T>, py::arg("theta").noconvert(), py::arg("point").noconvert(),
        py::arg("task").noconvert(), py::arg("gradient").noconvert(), py::arg("first").noconvert(),
        py::arg("second").noconvert(), py::arg("mix"), py::arg("drift"), py::arg("diffusion"), py::arg("dt"),
        py::arg("noise"), py::arg("radius"), py::arg("seed"), py::arg("step"), py::arg("beta1"), py::arg("beta2"),
        py::arg("delta"), py::arg("first_particle"), py::arg("out").noconvert(), py::arg("num_threads"));
  m.def("adam_update", &bound_adam_update<T>, py::arg("theta").noconvert(), py::arg("gradient").noconvert(),
        py::arg("first").noconvert(), py::arg("second").noconvert(), py::arg("step"), py::arg("lr"),
        py::arg("beta1"), py::arg("beta2"), py::arg("delta"), py::arg("out").noconvert(), py::arg("num_threads"));
}

}  // namespace

void register_update(py::module_& m) {
  register_typed<float>(m);
  register_typed<double>(m);
}

}  // namespace cbk
