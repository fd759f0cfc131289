#include "../common/isa.hpp"
#include "plan.hpp"
#include "risk_bind.hpp"

namespace cbk {
namespace {

template <class T>
void bound_forward(const Network& net, const Array<T>& theta, const Array<T>& x, Array<T> out, int num_threads) {
  const RiskProblem<T> problem = problem_of(net, theta, x);
  check_shape("out", out, {problem.particles, problem.samples, net.outputs});
  T* p = out.mutable_data();
  released([&] { forward(problem, p, num_threads); });
}

template <class T>
void bound_risk(const Network& net, const Array<T>& theta, const Array<T>& x, const py::array& y,
                const std::string& loss, Array<double> out, int num_threads) {
  RiskProblem<T> problem = problem_of(net, theta, x);
  set_task_targets(problem, y, loss);
  check_shape("out", out, {problem.particles, problem.tasks});
  double* p = out.mutable_data();
  released([&] { risk(problem, p, num_threads); });
}

// x [S, d] or [T, S, d]; theta [T, D], y of T tasks: each network on its own.
template <class T>
void bound_own_risks(const Network& net, const Array<T>& theta, const Array<T>& x, const py::array& y,
                     const std::string& loss, Array<double> out, int num_threads) {
  const int64_t tasks = rows_of("theta", theta), samples = x.ndim() > 1 ? x.shape(x.ndim() - 2) : 0;
  check_shape("theta", theta, {tasks, net.size()});
  RiskProblem<T> problem{net, Loss::mse, theta.data(), tasks, x.data(), samples, nullptr, nullptr, 0};
  if (x.ndim() == 3)
    check_shape("x", x, {tasks, samples, net.inputs});
  else
    check_shape("x", x, {samples, net.inputs});
  set_task_targets(problem, y, loss);
  if (problem.tasks != tasks) throw py::value_error("y must have a task for each row of theta");
  check_shape("out", out, {tasks});
  double* p = out.mutable_data();
  released([&] { own_risks(problem, x.ndim() == 3 ? samples * net.inputs : 0, p, num_threads); });
}

template <class T>
void bound_risk_gradient(const Network& net, const Array<T>& theta, const Array<T>& x, const py::array& y,
                         const std::string& loss, Array<double> out, Array<T> gradient, int num_threads) {
  RiskProblem<T> problem = problem_of(net, theta, x);
  set_targets(problem, y, loss);
  check_shape("out", out, {problem.particles});
  check_shape("gradient", gradient, {problem.particles, net.size()});
  double* p = out.mutable_data();
  T* g = gradient.mutable_data();
  released([&] { risk_gradient(problem, p, g, num_threads); });
}

template <class T>
void register_typed(py::module_& m) {
  m.def("forward", &bound_forward<T>, py::arg("net"), py::arg("theta").noconvert(), py::arg("x").noconvert(),
        py::arg("out").noconvert(), py::arg("num_threads"));
  m.def("risk", &bound_risk<T>, py::arg("net"), py::arg("theta").noconvert(), py::arg("x").noconvert(),
        py::arg("y").noconvert(), py::arg("loss"), py::arg("out").noconvert(), py::arg("num_threads"));
  m.def("own_risks", &bound_own_risks<T>, py::arg("net"), py::arg("theta").noconvert(), py::arg("x").noconvert(),
        py::arg("y").noconvert(), py::arg("loss"), py::arg("out").noconvert(), py::arg("num_threads"));
  m.def("risk_gradient", &bound_risk_gradient<T>, py::arg("net"), py::arg("theta").noconvert(),
        py::arg("x").noconvert(), py::arg("y").noconvert(), py::arg("loss"), py::arg("out").noconvert(),
        py::arg("gradient").noconvert(), py::arg("num_threads"));
}

const char* name_of(Path path) {
  switch (path) {
    case Path::knots: return "knots";
    case Path::direct: return "direct";
    case Path::lists: return "lists";
    case Path::products: return "products";
  }
  throw std::logic_error("unknown path");
}

// (path, particles in a task, samples in a chunk) for risks of these shapes.
py::tuple plan(const Network& net, int64_t particles, int64_t samples, int64_t tasks, const std::string& loss, double density,
               bool single) {
  const RiskShape shape{net,
                        named<Loss>(loss),
                        particles,
                        samples,
                        tasks,
                        single ? 4 : 8,
                        single ? isa_table().risk<float>().lanes : isa_table().risk<double>().lanes,
                        single ? isa_table().risk<float>().sparse_block : isa_table().risk<double>().sparse_block,
                        density};
  const Path path = choose_path(shape);
  if (path == Path::knots) return py::make_tuple(name_of(path), 1, samples);
  const RiskPlan plan = plan_risk(shape);
  return py::make_tuple(name_of(path), plan.group, std::min(plan.chunk, samples));
}

}  // namespace

void register_risk(py::module_& m) {
  m.def("plan", &plan, py::arg("net"), py::arg("particles"), py::arg("samples"), py::arg("tasks"), py::arg("loss"),
        py::arg("density"), py::arg("single"));
  register_typed<float>(m);
  register_typed<double>(m);
}

}  // namespace cbk
