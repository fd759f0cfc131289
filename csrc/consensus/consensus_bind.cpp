#include "consensus.hpp"

#include "../common/bind.hpp"
#if defined(CBK_CARD)
#include "consensus_cuda.hpp"

namespace cbk::device {

// Risks that are not finite are not counted: to read the count the host would have to wait for the card.
template <class T>
RiskCheck consensus(const T* theta, int64_t particles, int64_t size, const double* risk, int64_t tasks, double alpha,
                    T* points, double* weights, double* ess, const Execution& run) {
  consensus(theta, risk, particles, size, tasks, Alphas{alpha}, points, weights, ess, run.stream);
  return {0, -1};
}

}  // namespace cbk::device
#endif

namespace cbk {

#if !defined(CBK_CARD)
void raise_no_finite_risk(int64_t task, int64_t tasks, int64_t particles, const std::string& where) {
  const py::object type = py::module_::import("cbokernels.errors").attr("ConsensusError");
  std::string message = where + "no particle has a finite risk";
  if (task < 0) message += " at one of the neurons";
  if (tasks > 1) message += " in task " + std::to_string(task);
  message += " (" + std::to_string(particles) + " particles): there is no consensus point";
  PyErr_SetString(type.ptr(), message.c_str());
  throw py::error_already_set();
}
#endif

namespace {

// gather(particles, size, tasks) forms the points; without tasks there is one, and no axis for it.
template <class T, class F>
int64_t checked(const Input<T>& theta, const Array& risk, const Array& point, const Array& weights, const Array& ess,
                const Execution& run, F&& gather) {
  const int64_t particles = rows_of("theta", theta), size = theta.shape(1);
  const bool single = risk.ndim() == 1;
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
  RiskCheck check{0, -1};
  released(run, [&] { check = gather(particles, size, tasks); });
#if !defined(CBK_CARD)
  if (check.failed >= 0) raise_no_finite_risk(check.failed, tasks, particles);
#endif
  return check.not_finite;
}

template <class T>
void register_typed_consensus(py::module_& m) {
  m.def("consensus", [](const Input<T>& theta, const Input<double>& risk, double alpha, const Output<T>& point,
                        const Output<double>& weights, const Output<double>& ess, const Execution& run) {
    return checked(theta, risk, point, weights, ess, run, [&](int64_t particles, int64_t size, int64_t tasks) {
      return kernels::consensus(theta.data(), particles, size, risk.data(), tasks, alpha, point.data(), weights.data(),
                                ess.data(), run);
    });
  });
#if !defined(CBK_CARD)
  m.def("consensus_at_ess",
        [](const Input<T>& theta, const Input<double>& risk, double target, const Output<double>& alphas,
           const Output<T>& point, const Output<double>& weights, const Output<double>& ess, Execution run) {
    check_shape("alphas", alphas, {risk.ndim() == 1 ? 1 : risk.shape(1)});
    return checked(theta, risk, point, weights, ess, run, [&](int64_t particles, int64_t size, int64_t tasks) {
      return consensus_at_ess(theta.data(), particles, size, risk.data(), tasks, target, alphas.data(), point.data(),
                              weights.data(), ess.data(), run);
    });
  });
  m.def("weighted_mean",
        [](const Input<T>& theta, const Input<double>& weights, const Output<T>& point, Execution run) {
    const int64_t particles = rows_of("theta", theta), size = theta.shape(1);
    check_shape("weights", weights, {particles});
    check_shape("point", point, {size});
    released(run, [&] { weighted_means(theta.data(), particles, size, weights.data(), 1, point.data(), run); });
  });
  m.def("weighted_sums",
        [](const Input<T>& theta, const Input<double>& weights, const Output<double>& sums, Execution run) {
    const int64_t particles = rows_of("theta", theta), size = theta.shape(1), tasks = weights.shape(1);
    check_shape("weights", weights, {particles, tasks});
    check_shape("sums", sums, {tasks, size});
    released(run, [&] { weighted_means(theta.data(), particles, size, weights.data(), tasks, sums.data(), run); });
  });
  m.def("variance", [](const Input<T>& theta, Execution run) {
    const int64_t particles = rows_of("theta", theta), size = theta.shape(1);
    double variance = 0;
    released(run, [&] { variance = ensemble_variance(theta.data(), particles, size, run); });
    return variance;
  });
#endif
}

}  // namespace

void register_consensus(py::module_& m) {
  register_typed_consensus<float>(m);
  register_typed_consensus<double>(m);
#if !defined(CBK_CARD)
  m.def("alpha_for_ess", [](const Input<double>& risk, double ess) {
    double alpha = 0;
    released([&] { alpha = alpha_for_ess(risk.data(), risk.size(), 1, ess); });
    return alpha;
  });
#endif
}

}  // namespace cbk
