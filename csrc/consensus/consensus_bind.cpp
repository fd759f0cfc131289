#include "../common/bind.hpp"
#include "consensus.hpp"

namespace cbk {

void raise_no_finite_risk(int64_t task, int64_t tasks, int64_t particles, const std::string& where) {
  const py::object type = py::module_::import("cbokernels.errors").attr("ConsensusError");
  std::string message = where + "no particle has a finite risk";
  if (tasks > 1) message += " in task " + std::to_string(task);
  message += " (" + std::to_string(particles) + " particles): there is no consensus point";
  PyErr_SetString(type.ptr(), message.c_str());
  throw py::error_already_set();
}

namespace {

// consensus, or consensus_at_ess where alphas are solved for
template <class T>
int64_t gather(const Array<T>& theta, const Array<double>& risk, double alpha_or_target, Array<double>* alphas,
               Array<T>& point, Array<double>& weights, Array<double>& ess, int num_threads) {
  const int64_t particles = rows_of("theta", theta), size = theta.shape(1);
  const bool single = risk.ndim() == 1;  // one task, and no axis of tasks
  const int64_t tasks = single ? 1 : risk.ndim() == 2 ? risk.shape(1) : 0;
  if (single) {
    check_shape("risk", risk, {particles});
    check_shape("point", point, {size});
    check_shape("weights", weights, {particles});
    check_shape("ess", ess, {});
  } else {
    check_shape("risk", risk, {particles, tasks});
    check_shape("point", point, {tasks, size});
    check_shape("weights", weights, {particles, tasks});
    check_shape("ess", ess, {tasks});
  }
  if (alphas) check_shape("alphas", *alphas, {tasks});
  const double* r = risk.data();
  double *w = weights.mutable_data(), *e = ess.mutable_data(), *a = alphas ? alphas->mutable_data() : nullptr;
  const T* t = theta.data();
  T* p = point.mutable_data();
  RiskCheck check;
  released([&] {
    check = a ? consensus_at_ess(t, particles, size, r, tasks, alpha_or_target, a, p, w, e, num_threads)
              : consensus(t, particles, size, r, tasks, alpha_or_target, p, w, e, num_threads);
  });
  if (check.failed >= 0) raise_no_finite_risk(check.failed, tasks, particles);
  return check.not_finite;
}

template <class T>
int64_t bound_consensus(const Array<T>& theta, const Array<double>& risk, double alpha, Array<T> point,
                        Array<double> weights, Array<double> ess, int num_threads) {
  return gather(theta, risk, alpha, nullptr, point, weights, ess, num_threads);
}

template <class T>
int64_t bound_consensus_at_ess(const Array<T>& theta, const Array<double>& risk, double target, Array<double> alphas,
                               Array<T> point, Array<double> weights, Array<double> ess, int num_threads) {
  return gather(theta, risk, target, &alphas, point, weights, ess, num_threads);
}

template <class T>
void bound_weighted_mean(const Array<T>& theta, const Array<double>& weights, Array<T> point, int num_threads) {
  const int64_t particles = rows_of("theta", theta), size = theta.shape(1);
  check_shape("weights", weights, {particles});
  check_shape("point", point, {size});
  T* p = point.mutable_data();
  released([&] { weighted_means(theta.data(), particles, size, weights.data(), 1, p, num_threads); });
}

template <class T>
void register_typed(py::module_& m) {
  m.def("consensus", &bound_consensus<T>, py::arg("theta").noconvert(), py::arg("risk").noconvert(), py::arg("alpha"),
        py::arg("point").noconvert(), py::arg("weights").noconvert(), py::arg("ess").noconvert(),
        py::arg("num_threads"));
  m.def("consensus_at_ess", &bound_consensus_at_ess<T>, py::arg("theta").noconvert(), py::arg("risk").noconvert(),
        py::arg("target"), py::arg("alphas").noconvert(), py::arg("point").noconvert(),
        py::arg("weights").noconvert(), py::arg("ess").noconvert(), py::arg("num_threads"));
  m.def("weighted_mean", &bound_weighted_mean<T>, py::arg("theta").noconvert(), py::arg("weights").noconvert(),
        py::arg("point").noconvert(), py::arg("num_threads"));
  m.def(
      "variance",
      [](const Array<T>& theta, int num_threads) {
        const int64_t particles = rows_of("theta", theta), size = theta.shape(1);
        const T* t = theta.data();
        double variance = 0;
        released([&] { variance = ensemble_variance(t, particles, size, num_threads); });
        return variance;
      },
      py::arg("theta").noconvert(), py::arg("num_threads"));
}

}  // namespace

void register_consensus(py::module_& m) {
  register_typed<float>(m);
  register_typed<double>(m);
  m.def(
      "alpha_for_ess",
      [](const Array<double>& risk, double ess) {
        double alpha = 0;
        released([&] { alpha = alpha_for_ess(risk.data(), risk.size(), 1, ess); });
        return alpha;
      },
      py::arg("risk").noconvert(), py::arg("ess"));
}

}  // namespace cbk
