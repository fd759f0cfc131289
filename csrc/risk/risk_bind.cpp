#include "risk_bind.hpp"

#if defined(CBK_CARD)
namespace cbk::device {

template <class T>
void forward(const RiskProblem<T>& problem, T* out, const Execution& run) {
  forward(problem, out, run.stream, run.precision);
}
template <class T>
void risk(const RiskProblem<T>& problem, double* out, const Execution& run) {
  risk(problem, out, run.stream, 1, run.precision);
}
template <class T>
void risk_gradient(const RiskProblem<T>& problem, double* out, T* gradient, const Execution& run) {
  risk_gradient(problem, out, gradient, run.stream, run.precision);
}
// out [particles, stride]: its first column.
template <class T>
void risk_column(const RiskProblem<T>& problem, double* out, int64_t stride, const Execution& run) {
  risk(problem, out, run.stream, stride, run.precision);
}

}  // namespace cbk::device
#else
#include <vector>

#include "plan.hpp"

namespace cbk {

template <class T>
void risk_column(const RiskProblem<T>& problem, double* out, int64_t stride, Execution run) {
  std::vector<double> column(size_t(problem.particles));
  risk(problem, column.data(), run);
  for (size_t n = 0; n < column.size(); ++n) out[int64_t(n) * stride] = column[n];
}

}  // namespace cbk
#endif

namespace cbk {
namespace {

template <class T>
void register_typed_risk(py::module_& m) {
  m.def("forward",
        [](const Network& net, const Input<T>& theta, const Input<T>& x, const Output<T>& out, const Execution& run) {
    RiskProblem<T> problem = problem_of(net, x);
    set_particles(problem, theta);
    check_shape("out", out, {problem.particles, problem.samples, net.outputs});
    released(run, [&] { kernels::forward(problem, out.data(), run); });
  });
  m.def("risk", [](const Network& net, const Input<T>& theta, const Input<T>& x, const TargetInput& y, Loss loss,
                   const Output<double>& out, const Execution& run) {
    const bool single = out.ndim() == 1;  // one task, and no axis of tasks
    RiskProblem<T> problem = single ? problem_of(net, x) : tasks_of(net, x, y, loss);
    set_particles(problem, theta);
    if (single) set_targets(problem, y, loss, false);
    single ? check_shape("out", out, {problem.particles}) : check_shape("out", out, {problem.particles, problem.tasks});
    released(run, [&] {
      if (x.ndim() == 2) return kernels::risk(problem, out.data(), run);
      for_each_task(problem, [&](const RiskProblem<T>& one, int64_t t) {
        kernels::risk_column(one, out.data() + t, problem.tasks, run);
      });
    });
  });
  m.def("risk_gradient", [](const Network& net, const Input<T>& theta, const Input<T>& x, const TargetInput& y,
                            Loss loss, const Output<double>& out, const Output<T>& gradient, const Execution& run) {
    RiskProblem<T> problem = problem_of(net, x);
    set_particles(problem, theta);
    set_targets(problem, y, loss, false);
    check_slopes(problem);
    check_shape("out", out, {problem.particles});
    check_shape("gradient", gradient, {problem.particles, net.size()});
    released(run, [&] { kernels::risk_gradient(problem, out.data(), gradient.data(), run); });
  });
#if !defined(CBK_CARD)
  // theta [T, D]: each network on the task of its own alone.
  m.def("own_risks", [](const Network& net, const Input<T>& theta, const Input<T>& x, const TargetInput& y, Loss loss,
                        const Output<double>& out, Execution run) {
    RiskProblem<T> problem = tasks_of(net, x, y, loss);
    set_particles(problem, theta);
    if (problem.tasks != problem.particles) throw py::value_error("y must have a task for each row of theta");
    check_shape("out", out, {problem.tasks});
    const int64_t stride = x.ndim() == 3 ? problem.samples * net.inputs : 0;
    released(run, [&] { own_risks(problem, stride, out.data(), run); });
  });
#endif
}

#if !defined(CBK_CARD)
const char* name_of(Path path) {
  switch (path) {
    case Path::knots: return "knots";
    case Path::direct: return "direct";
    case Path::lists: return "lists";
    case Path::products: return "products";
  }
  throw std::logic_error("unknown path");
}

// (path, particles in a task, samples in a chunk, why) for risks of these shapes.
py::tuple plan(const Network& net, int64_t particles, int64_t samples, int64_t tasks, Loss loss, double density,
               bool single) {
  const Explanation all = explain(single ? shape_of<float>(net, loss, particles, samples, tasks, density)
                                         : shape_of<double>(net, loss, particles, samples, tasks, density));
  return py::make_tuple(name_of(all.path), all.particles, all.samples, all.reason);
}
#endif

}  // namespace

void register_risk(py::module_& m) {
  register_typed_risk<float>(m);
  register_typed_risk<double>(m);
#if !defined(CBK_CARD)
  m.def("plan", &plan);
#endif
}

}  // namespace cbk
