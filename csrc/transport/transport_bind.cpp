#include "transport.hpp"

#include <cmath>
#include <vector>

#include "../update/update_bind.hpp"
#include "sinkhorn.hpp"
#if defined(CBK_CARD)
#include "transport_cuda.hpp"

namespace cbk::device {

template <class T>
void assign(const AssignProblem<T>& p, const int64_t*, int64_t, const Execution& run) {
  Assigned to;
  to.match = p.match, to.guess = p.guess, to.duals = p.duals, to.cost = p.cost, to.gap = p.gap;
  assign(Measures<T>{p.atoms, p.support, p.particles, 1, p.count, p.size}, to, run.stream);
}
template <class T>
void wasserstein2(const T* a, int64_t rows, const T* b, int64_t columns, int64_t count, int64_t size, double,
                  double* out, const Execution& run) {
  Assigned to;
  to.cost = out;
  assign(Measures<T>{a, b, rows, columns, count, size}, to, run.stream);
}
template <class T>
int64_t barycenter(const BarycenterProblem<T>& p, bool start, double* objective, const Execution& run) {
  barycenter(BarycenterArrays<T>{p.atoms, p.particles, p.count, p.size, p.weights, start, p.support, p.iterations,
                                 p.match, p.history, objective},
             run.stream);
  return p.iterations;
}
template <class T>
void transport_update(const TransportUpdate<T>& u, const Execution& run) {
  if (u.task) throw py::value_error("task must be None on a card");
  transport_update(u.atoms, u.support, u.match, u.out, u.particles, u.count, u.size, u.count, u.drift, u.diffusion,
                   u.dt, u.key, run.stream);
}

}  // namespace cbk::device
#else

namespace cbk {

// The start is given, or is the heaviest particle, the first of equals.
template <class T>
int64_t barycenter(const BarycenterProblem<T>& p, bool start, double* objective, Execution run) {
  const int64_t heaviest = std::max_element(p.weights, p.weights + p.particles) - p.weights, values = p.count * p.size;
  if (!start) std::copy_n(p.atoms + heaviest * values, values, p.support);
  const int64_t done = barycenter(p, run);
  *objective = p.history[done - 1];
  return done;
}

}  // namespace cbk
#endif

namespace cbk {
namespace {

struct Sizes {
  int64_t particles, count, size;
};

Sizes sizes_of(const char* name, const Array& atoms) {
  if (atoms.ndim() != 3 || atoms.size() == 0)
    throw py::value_error(std::string(name) + " must have shape [N, M, K] with no size 0");
  return {atoms.shape(0), atoms.shape(1), atoms.shape(2)};
}

template <class T>
void bound_assign(const Input<T>& atoms, const Input<T>& support, double largest,
                  const std::optional<Output<double>>& duals, bool guess, const Output<int64_t>& match,
                  const Output<double>& cost, const std::optional<Output<double>>& gap, const Execution& run) {
  const Sizes s = sizes_of("atoms", atoms);
  check_shape("support", support, {s.count, s.size});
  check_shape("match", match, {s.particles, s.count});
  check_shape("cost", cost, {s.particles});
  if (gap) check_shape("gap", *gap, {s.particles});
  if (duals) check_shape("duals", *duals, {s.particles, s.count});
  if (guess) check_indices("match", match.data(), match.size(), s.count);
  const AssignProblem<T> problem{atoms.data(),        s.particles, s.count,      s.size,      support.data(),   largest,
                                 data_or_null(duals), guess,       match.data(), cost.data(), data_or_null(gap)};
  released(run, [&] { kernels::assign(problem, nullptr, s.particles, run); });
}

template <class T>
int64_t bound_barycenter(const Input<T>& atoms, const Input<double>& weights, double largest, bool start,
                         const Output<T>& support, const Output<int64_t>& match, const Output<double>& history,
                         const Output<double>& objective, const Execution& run) {
  const Sizes s = sizes_of("atoms", atoms);
  check_shape("weights", weights, {s.particles});
  check_shape("support", support, {s.count, s.size});
  check_shape("match", match, {s.particles, s.count});
  check_shape("objective", objective, {});
  if (history.size() < 1) throw py::value_error("history must have an iteration");
  const BarycenterProblem<T> problem{atoms.data(),   s.particles,    s.count,        s.size,       largest,
                                     weights.data(), support.data(), history.size(), match.data(), history.data()};
  int64_t done = 0;
  released(run, [&] { done = kernels::barycenter(problem, start, objective.data(), run); });
  return done;
}

template <class T>
void bound_update(const Input<T>& atoms, const Input<T>& support, const std::optional<Input<int32_t>>& task,
                  const Input<int32_t>& match, const Law& law, NoiseKey key, const Output<T>& out,
                  const Execution& run) {
  const Sizes s = sizes_of("atoms", atoms);
  if (task) {
    const int64_t tasks = rows_of("support", support);
    check_shape("support", support, {tasks, s.count, s.size});
    check_shape("task", *task, {s.particles});
    check_indices("task", task->data(), s.particles, tasks);
  } else {
    check_shape("support", support, {s.count, s.size});
  }
  check_shape("match", match, {s.particles, s.count});
  check_shape("out", out, {s.particles, s.count, s.size});
  check_indices("match", match.data(), match.size(), s.count);
  const TransportUpdate<T> update{atoms.data(),       out.data(),   s.particles, s.count,       s.size, support.data(),
                                  data_or_null(task), match.data(), law.drift,   law.diffusion, law.dt, key};
  released(run, [&] { kernels::transport_update(update, run); });
}

template <class T>
void bound_sinkhorn(const Input<T>& atoms, const Input<T>& support, double epsilon, double tolerance,
                    int64_t iterations, const Output<double>& cost, const Output<double>& error,
                    const Output<T>& projection, const Execution& run) {
  const Sizes s = sizes_of("atoms", atoms);
  const int64_t points = rows_of("support", support);
  check_shape("support", support, {points, s.size});
  check_shape("cost", cost, {s.particles});
  check_shape("error", error, {s.particles});
  check_shape("projection", projection, {s.particles, s.count, s.size});
  const SinkhornProblem<T> problem{atoms.data(),   s.particles, s.count,      s.size,
                                   support.data(), points,      epsilon,      tolerance,
                                   iterations,     cost.data(), error.data(), projection.data()};
  released(run, [&] { kernels::sinkhorn(problem, run); });
}

#if !defined(CBK_CARD)
// The problems `rows` of several tasks: row t * N + n is particle n to the support of task t.
template <class T>
void bound_assign_rows(const Input<T>& atoms, const Input<T>& support, double largest, const Output<double>& duals,
                       const Output<int64_t>& match, const Output<double>& cost, const Input<int64_t>& rows,
                       Execution run) {
  const Sizes s = sizes_of("atoms", atoms);
  const int64_t tasks = rows_of("support", support), problems = rows.size();
  check_shape("support", support, {tasks, s.count, s.size});
  check_shape("duals", duals, {tasks, s.particles, s.count});
  check_shape("match", match, {tasks, s.particles, s.count});
  check_shape("cost", cost, {tasks, s.particles});
  check_shape("rows", rows, {problems});
  check_indices("rows", rows.data(), problems, tasks * s.particles);
  check_indices("match", match.data(), match.size(), s.count);
  const AssignProblem<T> problem{atoms.data(), s.particles, s.count,      s.size,      support.data(), largest,
                                 duals.data(), true,        match.data(), cost.data(), nullptr};
  released(run, [&] { assign(problem, rows.data(), problems, run); });
}

// The first row that is no permutation, or -1.
int64_t wrong_permutation(const Input<int32_t>& match) {
  const int64_t rows = rows_of("match", match), count = match.shape(1);
  check_indices("match", match.data(), match.size(), count);
  int64_t wrong = -1;
  released([&] {
    std::vector<int64_t> seen(size_t(count), -1);
    Paced paced;
    for (int64_t n = 0; n < rows && wrong < 0; ++n) {
      paced(10 * count);
      for (int64_t i = 0; i < count; ++i) {
        int64_t& last = seen[size_t(match.data()[n * count + i])];
        if (last == n) wrong = n;
        last = n;
      }
    }
  });
  return wrong;
}

void bound_assign_matrix(const Input<double>& costs, const Output<int32_t>& match) {
  const int64_t count = rows_of("costs", costs);
  check_shape("costs", costs, {count, count});
  check_shape("match", match, {count});
  if (!std::all_of(costs.data(), costs.data() + costs.size(), [](double cost) { return std::isfinite(cost); }))
    throw py::value_error("costs must be finite");
  released([&] { assign_matrix(costs.data(), count, match.data()); });
}
#endif

template <class T>
void register_typed_transport(py::module_& m) {
  m.def("assign", &bound_assign<T>);
  m.def("barycenter", &bound_barycenter<T>);
  m.def("wasserstein2",
        [](const Input<T>& a, const Input<T>& b, double largest, const Output<double>& out, const Execution& run) {
    const Sizes s = sizes_of("atoms_a", a), t = sizes_of("atoms_b", b);
    check_shape("atoms_b", b, {t.particles, s.count, s.size});
    check_shape("out", out, {s.particles, t.particles});
    released(run, [&] {
      kernels::wasserstein2(a.data(), s.particles, b.data(), t.particles, s.count, s.size, largest, out.data(), run);
    });
  });
  m.def("sinkhorn", &bound_sinkhorn<T>);
  m.def("transport_update", &bound_update<T>);
#if !defined(CBK_CARD)
  m.def("assign_rows", &bound_assign_rows<T>);
  m.def("largest", [](const Input<T>& a) {
    double most = 0;
    released([&] { most = largest(a.data(), a.size()); });
    return most;
  });
#endif
}

}  // namespace

void register_transport(py::module_& m) {
  register_typed_transport<float>(m);
  register_typed_transport<double>(m);
#if !defined(CBK_CARD)
  m.def("wrong_permutation", &wrong_permutation);
  m.def("assign_matrix", &bound_assign_matrix);
#endif
}

}  // namespace cbk
