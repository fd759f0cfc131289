#include <algorithm>

#include "../common/bind.hpp"
#include "risk.hpp"

namespace cbk {
namespace {

template <class T>
RiskProblem<T> problem_of(const Network& net, const Array<T>& theta, const Array<T>& x) {
  const int64_t particles = rows_of("theta", theta), samples = rows_of("x", x);
  check_shape("theta", theta, {particles, net.size()});
  check_shape("x", x, {samples, net.inputs});
  return {net, Loss::none, theta.data(), particles, x.data(), samples, nullptr, nullptr, 1};
}

template <class T>
void run(const RiskProblem<T>& problem, Array<double>& out, int num_threads) {
  check_shape("out", out, {problem.particles, problem.tasks});
  double* p = out.mutable_data();
  py::gil_scoped_release release;
  risk(problem, p, num_threads);
}

template <class T>
void run_gradient(const RiskProblem<T>& problem, Array<double>& out, Array<T>& gradient, int num_threads) {
  check_shape("out", out, {problem.particles});
  check_shape("gradient", gradient, {problem.particles, problem.net.size()});
  double* p = out.mutable_data();
  T* g = gradient.mutable_data();
  py::gil_scoped_release release;
  risk_gradient(problem, p, g, num_threads);
}

template <class T>
void register_typed(py::module_& m) {
  m.def(
      "forward",
      [](const Network& net, const Array<T>& theta, const Array<T>& x, Array<T> out, int num_threads) {
        const RiskProblem<T> problem = problem_of(net, theta, x);
        check_shape("out", out, {problem.particles, problem.samples, net.outputs});
        T* p = out.mutable_data();
        py::gil_scoped_release release;
        forward(problem, p, num_threads);
      },
      py::arg("net"), py::arg("theta").noconvert(), py::arg("x").noconvert(), py::arg("out").noconvert(),
      py::arg("num_threads"));
  m.def(
      "risk",
      [](const Network& net, const Array<T>& theta, const Array<T>& x, const Array<T>& y, Array<double> out,
         int num_threads) {
        RiskProblem<T> problem = problem_of(net, theta, x);
        problem.tasks = rows_of("y", y);
        check_shape("y", y, {problem.tasks, problem.samples, net.outputs});
        problem.loss = Loss::mse;
        problem.y = y.data();
        run(problem, out, num_threads);
      },
      py::arg("net"), py::arg("theta").noconvert(), py::arg("x").noconvert(), py::arg("y").noconvert(),
      py::arg("out").noconvert(), py::arg("num_threads"));
  m.def(
      "risk",
      [](const Network& net, const Array<T>& theta, const Array<T>& x, const Array<int32_t>& labels,
         Array<double> out, int num_threads) {
        RiskProblem<T> problem = problem_of(net, theta, x);
        problem.tasks = rows_of("y", labels);
        check_shape("y", labels, {problem.tasks, problem.samples});
        problem.loss = Loss::cross_entropy;
        problem.labels = labels.data();
        run(problem, out, num_threads);
      },
      py::arg("net"), py::arg("theta").noconvert(), py::arg("x").noconvert(), py::arg("y").noconvert(),
      py::arg("out").noconvert(), py::arg("num_threads"));
  m.def(
      "risk_gradient",
      [](const Network& net, const Array<T>& theta, const Array<T>& x, const Array<T>& y, Array<double> out,
         Array<T> gradient, int num_threads) {
        RiskProblem<T> problem = problem_of(net, theta, x);
        check_shape("y", y, {problem.samples, net.outputs});
        problem.loss = Loss::mse;
        problem.y = y.data();
        run_gradient(problem, out, gradient, num_threads);
      },
      py::arg("net"), py::arg("theta").noconvert(), py::arg("x").noconvert(), py::arg("y").noconvert(),
      py::arg("out").noconvert(), py::arg("gradient").noconvert(), py::arg("num_threads"));
  m.def(
      "risk_gradient",
      [](const Network& net, const Array<T>& theta, const Array<T>& x, const Array<int32_t>& labels,
         Array<double> out, Array<T> gradient, int num_threads) {
        RiskProblem<T> problem = problem_of(net, theta, x);
        check_shape("y", labels, {problem.samples});
        problem.loss = Loss::cross_entropy;
        problem.labels = labels.data();
        run_gradient(problem, out, gradient, num_threads);
      },
      py::arg("net"), py::arg("theta").noconvert(), py::arg("x").noconvert(), py::arg("y").noconvert(),
      py::arg("out").noconvert(), py::arg("gradient").noconvert(), py::arg("num_threads"));
}

}  // namespace

void register_risk(py::module_& m) {
  register_typed<float>(m);
  register_typed<double>(m);
}

}  // namespace cbk
