#include <cmath>

#include "../common/bind.hpp"
#include "consensus.hpp"

namespace cbk {
namespace {

[[noreturn]] void raise_no_finite_risk(int64_t task, int64_t tasks, int64_t particles) {
  const py::object type = py::module_::import("cbokernels.errors").attr("ConsensusError");
  std::string message = "no particle has a finite risk";
  if (tasks > 1) message += " in task " + std::to_string(task);
  message += " (" + std::to_string(particles) + " particles): there is no consensus point";
  PyErr_SetString(type.ptr(), message.c_str());
  throw py::error_already_set();
}

template <class T>
int64_t consensus(const Array<T>& theta, const Array<double>& risk, double alpha, Array<T> point,
                  Array<double> weights, Array<double> ess, int num_threads) {
  const int64_t particles = rows_of("theta", theta), size = theta.shape(1);
  const int64_t tasks = risk.ndim() == 2 ? risk.shape(1) : 0;
  check_shape("risk", risk, {particles, tasks});
  check_shape("point", point, {tasks, size});
  check_shape("weights", weights, {particles, tasks});
  check_shape("ess", ess, {tasks});
  const double* r = risk.data();
  double *w = weights.mutable_data(), *e = ess.mutable_data();
  const T* t = theta.data();
  T* p = point.mutable_data();
  int64_t failed = -1, not_finite = 0;
  {
    py::gil_scoped_release release;
    for (int64_t n = 0; n < particles; ++n) {
      bool finite = true;
      for (int64_t k = 0; k < tasks; ++k) finite = finite && std::isfinite(r[n * tasks + k]);
      not_finite += !finite;
    }
    for (int64_t k = 0; k < tasks && failed < 0; ++k) {
      e[k] = gibbs_weights(r + k, particles, tasks, alpha, w + k);
      if (e[k] == 0) failed = k;
    }
    if (failed < 0) weighted_means(t, particles, size, w, tasks, p, num_threads);
  }
  if (failed >= 0) raise_no_finite_risk(failed, tasks, particles);
  return not_finite;
}

template <class T>
void register_typed(py::module_& m) {
  m.def("consensus", &consensus<T>, py::arg("theta").noconvert(), py::arg("risk").noconvert(), py::arg("alpha"),
        py::arg("point").noconvert(), py::arg("weights").noconvert(), py::arg("ess").noconvert(),
        py::arg("num_threads"));
  m.def(
      "variance",
      [](const Array<T>& theta, int num_threads) {
        const int64_t particles = rows_of("theta", theta), size = theta.shape(1);
        const T* t = theta.data();
        py::gil_scoped_release release;
        return ensemble_variance(t, particles, size, num_threads);
      },
      py::arg("theta").noconvert(), py::arg("num_threads"));
}

}  // namespace

void register_consensus(py::module_& m) {
  register_typed<float>(m);
  register_typed<double>(m);
  m.def(
      "alpha_for_ess",
      [](const Array<double>& risk, double ess) { return alpha_for_ess(risk.data(), risk.size(), ess); },
      py::arg("risk").noconvert(), py::arg("ess"));
}

}  // namespace cbk
