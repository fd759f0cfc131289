#include "../common/bind.hpp"
#include "update.hpp"

namespace cbk {
namespace {

Noise noise_named(const std::string& name) {
  if (name == "anisotropic") return Noise::anisotropic;
  if (name == "isotropic") return Noise::isotropic;
  if (name == "truncated") return Noise::truncated;
  if (name == "additive") return Noise::additive;
  if (name == "none") return Noise::none;
  throw py::value_error("unknown noise '" + name + "'");
}

template <class I>
void check_indices(const char* name, const Array<I>& indices, int64_t bound) {
  for (py::ssize_t i = 0; i < indices.size(); ++i)
    if (indices.data()[i] < 0 || int64_t(indices.data()[i]) >= bound)
      throw py::value_error(std::string(name) + " holds " + std::to_string(indices.data()[i]) + ", expected [0, " +
                            std::to_string(bound) + ")");
}

template <class T>
void update(const Array<T>& theta, const Array<T>& point, const std::optional<Array<int32_t>>& task,
            const std::optional<Array<int64_t>>& rows, double drift, double diffusion, double dt,
            const std::string& noise, double floor, double radius, uint64_t seed, uint32_t step,
            uint32_t first_particle, Array<T> out, int num_threads) {
  const int64_t particles = rows_of("theta", theta), size = theta.shape(1), tasks = rows_of("point", point);
  check_shape("point", point, {tasks, size});
  check_shape("out", out, {particles, size});
  if (task) {
    check_shape("task", *task, {particles});
    check_indices("task", *task, tasks);
  }
  if (rows) check_indices("rows", *rows, particles);
  const UpdateProblem<T> problem{theta.data(),
                                 out.mutable_data(),
                                 particles,
                                 size,
                                 point.data(),
                                 task ? task->data() : nullptr,
                                 rows ? rows->data() : nullptr,
                                 rows ? int64_t(rows->size()) : 0,
                                 drift,
                                 diffusion,
                                 dt,
                                 noise_named(noise),
                                 floor,
                                 radius,
                                 {seed, 0, step, first_particle}};
  py::gil_scoped_release release;
  cbo_update(problem, num_threads);
}

template <class T>
void register_typed(py::module_& m) {
  m.def("cbo_update", &update<T>, py::arg("theta").noconvert(), py::arg("point").noconvert(),
        py::arg("task").noconvert(), py::arg("rows").noconvert(), py::arg("drift"), py::arg("diffusion"),
        py::arg("dt"), py::arg("noise"), py::arg("floor"), py::arg("radius"), py::arg("seed"), py::arg("step"),
        py::arg("first_particle"), py::arg("out").noconvert(), py::arg("num_threads"));
}

}  // namespace

void register_update(py::module_& m) {
  register_typed<float>(m);
  register_typed<double>(m);
}

}  // namespace cbk
