#include <cmath>
#include <vector>

#include "../common/bind.hpp"
#include "sinkhorn.hpp"
#include "transport.hpp"

namespace cbk {
namespace {

template <class I>
void check_matches(const Array<I>& match, int64_t count) {
  for (py::ssize_t i = 0; i < match.size(); ++i)
    if (match.data()[i] < 0 || int64_t(match.data()[i]) >= count)
      throw py::value_error("match holds " + std::to_string(match.data()[i]) + ", expected [0, " +
                            std::to_string(count) + ")");
}

struct Sizes {
  int64_t particles, count, size;
};

template <class T>
Sizes sizes_of(const char* name, const Array<T>& atoms) {
  if (atoms.ndim() != 3 || atoms.size() == 0)
    throw py::value_error(std::string(name) + " must have shape [N, M, K] with no size 0");
  return {atoms.shape(0), atoms.shape(1), atoms.shape(2)};
}

template <class T>
void bound_assign(const Array<T>& atoms, const Array<T>& support, double largest,
                  std::optional<Array<double>> duals, bool guess, Array<int64_t> match, Array<double> cost,
                  std::optional<Array<double>> gap, int num_threads) {
  const Sizes s = sizes_of("atoms", atoms);
  check_shape("support", support, {s.count, s.size});
  check_shape("match", match, {s.particles, s.count});
  check_shape("cost", cost, {s.particles});
  if (gap) check_shape("gap", *gap, {s.particles});
  if (duals) check_shape("duals", *duals, {s.particles, s.count});
  if (guess) check_matches(match, s.count);
  const AssignProblem<T> problem{atoms.data(),           s.particles, s.count,
                                 s.size,                 support.data(), largest,
                                 duals ? duals->mutable_data() : nullptr, guess, match.mutable_data(),
                                 cost.mutable_data(), gap ? gap->mutable_data() : nullptr};
  released([&] { assign(problem, nullptr, s.particles, num_threads); });
}

// The problems `rows` of several tasks: row t * N + n is particle n to the support of task t.
template <class T>
void bound_assign_rows(const Array<T>& atoms, const Array<T>& support, double largest, Array<double> duals,
                       Array<int64_t> match, Array<double> cost, const Array<int64_t>& rows, int num_threads) {
  const Sizes s = sizes_of("atoms", atoms);
  const int64_t tasks = rows_of("support", support), problems = rows.size();
  check_shape("support", support, {tasks, s.count, s.size});
  check_shape("duals", duals, {tasks, s.particles, s.count});
  check_shape("match", match, {tasks, s.particles, s.count});
  check_shape("cost", cost, {tasks, s.particles});
  check_shape("rows", rows, {problems});
  for (int64_t r = 0; r < problems; ++r)
    if (rows.data()[r] < 0 || rows.data()[r] >= tasks * s.particles) throw py::value_error("rows must be below T N");
  check_matches(match, s.count);
  const AssignProblem<T> problem{atoms.data(), s.particles,          s.count, s.size,
                                 support.data(), largest,            duals.mutable_data(), true,
                                 match.mutable_data(), cost.mutable_data(), nullptr};
  released([&] { assign(problem, rows.data(), problems, num_threads); });
}

template <class T>
int64_t bound_barycenter(const Array<T>& atoms, const Array<double>& weights, double largest, Array<T> support,
                         Array<int64_t> match, Array<double> history, int num_threads) {
  const Sizes s = sizes_of("atoms", atoms);
  check_shape("weights", weights, {s.particles});
  check_shape("support", support, {s.count, s.size});
  check_shape("match", match, {s.particles, s.count});
  const BarycenterProblem<T> problem{atoms.data(),           s.particles,     s.count,
                                     s.size,                 largest,         weights.data(),
                                     support.mutable_data(), history.size(), match.mutable_data(),
                                     history.mutable_data()};
  int64_t done = 0;
  released([&] { done = barycenter(problem, num_threads); });
  return done;
}

template <class T>
void bound_wasserstein2(const Array<T>& a, const Array<T>& b, double largest, Array<double> out, int num_threads) {
  const Sizes s = sizes_of("atoms_a", a), t = sizes_of("atoms_b", b);
  check_shape("atoms_b", b, {t.particles, s.count, s.size});
  check_shape("out", out, {s.particles, t.particles});
  double* p = out.mutable_data();
  released([&] {
    wasserstein2(a.data(), s.particles, b.data(), t.particles, s.count, s.size, largest, p, num_threads);
  });
}

template <class T>
void bound_update(const Array<T>& atoms, const Array<T>& support, std::optional<Array<int32_t>> task,
                  const Array<int32_t>& match, double drift, double diffusion, double dt, uint64_t seed, uint32_t step,
                  uint32_t first_particle, Array<T> out, int num_threads) {
  const Sizes s = sizes_of("atoms", atoms);
  if (task) {
    const int64_t tasks = rows_of("support", support);
    check_shape("support", support, {tasks, s.count, s.size});
    check_shape("task", *task, {s.particles});
    for (int64_t n = 0; n < s.particles; ++n)
      if (task->data()[n] < 0 || task->data()[n] >= tasks) throw py::value_error("task must be in [0, T)");
  } else {
    check_shape("support", support, {s.count, s.size});
  }
  check_shape("match", match, {s.particles, s.count});
  check_shape("out", out, {s.particles, s.count, s.size});
  check_matches(match, s.count);
  const TransportUpdate<T> update{atoms.data(),   out.mutable_data(),             s.particles,  s.count, s.size,
                                  support.data(), task ? task->data() : nullptr, match.data(), drift,   diffusion,
                                  dt,             {seed, 0, step, first_particle}};
  released([&] { transport_update(update, num_threads); });
}

template <class T>
void bound_sinkhorn(const Array<T>& atoms, const Array<T>& support, double, double epsilon, double tolerance,
                    int64_t iterations, Array<double> cost, Array<double> error, Array<T> projection,
                    int num_threads) {
  const Sizes s = sizes_of("atoms", atoms);
  const int64_t points = rows_of("support", support);
  check_shape("support", support, {points, s.size});
  check_shape("cost", cost, {s.particles});
  check_shape("error", error, {s.particles});
  check_shape("projection", projection, {s.particles, s.count, s.size});
  const SinkhornProblem<T> problem{atoms.data(), s.particles,         s.count,
                                   s.size,       support.data(),      points,
                                   epsilon,      tolerance,
                                   iterations,   cost.mutable_data(), error.mutable_data(),
                                   projection.mutable_data()};
  released([&] { sinkhorn(problem, num_threads); });
}

// The first row that is no permutation, or -1.
int64_t wrong_permutation(const Array<int32_t>& match) {
  const int64_t rows = rows_of("match", match), count = match.shape(1);
  check_matches(match, count);
  const int32_t* const p = match.data();
  int64_t wrong = -1;
  released([&] {
    std::vector<int64_t> seen(size_t(count), -1);
    Paced paced;
    for (int64_t n = 0; n < rows && wrong < 0; ++n) {
      paced(10 * count);
      for (int64_t i = 0; i < count; ++i) {
        int64_t& last = seen[size_t(p[n * count + i])];
        if (last == n) wrong = n;
        last = n;
      }
    }
  });
  return wrong;
}

template <class T>
void register_typed(py::module_& m) {
  m.def(
      "largest", [](const Array<T>& a) { return largest(a.data(), a.size()); }, py::arg("a").noconvert());
  m.def("assign", &bound_assign<T>, py::arg("atoms").noconvert(), py::arg("support").noconvert(), py::arg("largest"),
        py::arg("duals").noconvert(), py::arg("guess"), py::arg("match").noconvert(), py::arg("cost").noconvert(),
        py::arg("gap").noconvert(), py::arg("num_threads"));
  m.def("assign_rows", &bound_assign_rows<T>, py::arg("atoms").noconvert(), py::arg("support").noconvert(),
        py::arg("largest"), py::arg("duals").noconvert(), py::arg("match").noconvert(), py::arg("cost").noconvert(),
        py::arg("rows").noconvert(), py::arg("num_threads"));
  m.def("barycenter", &bound_barycenter<T>, py::arg("atoms").noconvert(), py::arg("weights").noconvert(),
        py::arg("largest"), py::arg("support").noconvert(), py::arg("match").noconvert(),
        py::arg("history").noconvert(), py::arg("num_threads"));
  m.def("wasserstein2", &bound_wasserstein2<T>, py::arg("atoms_a").noconvert(), py::arg("atoms_b").noconvert(),
        py::arg("largest"), py::arg("out").noconvert(), py::arg("num_threads"));
  m.def("sinkhorn", &bound_sinkhorn<T>, py::arg("atoms").noconvert(), py::arg("support").noconvert(),
        py::arg("largest"), py::arg("epsilon"), py::arg("tolerance"), py::arg("iterations"),
        py::arg("cost").noconvert(), py::arg("error").noconvert(), py::arg("projection").noconvert(),
        py::arg("num_threads"));
  m.def("transport_update", &bound_update<T>, py::arg("atoms").noconvert(), py::arg("support").noconvert(),
        py::arg("task").noconvert(), py::arg("match").noconvert(), py::arg("drift"), py::arg("diffusion"), py::arg("dt"), py::arg("seed"),
        py::arg("step"), py::arg("first_particle"), py::arg("out").noconvert(), py::arg("num_threads"));
}

}  // namespace

void register_transport(py::module_& m) {
  register_typed<float>(m);
  register_typed<double>(m);
  m.def("wrong_permutation", &wrong_permutation, py::arg("match").noconvert());
  m.def(
      "assign_matrix",
      [](const Array<double>& costs, Array<int32_t> match) {
        const int64_t count = rows_of("costs", costs);
        check_shape("costs", costs, {count, count});
        check_shape("match", match, {count});
        if (!std::all_of(costs.data(), costs.data() + costs.size(), [](double cost) { return std::isfinite(cost); }))
          throw py::value_error("costs must be finite");
        int32_t* p = match.mutable_data();
        released([&] { assign_matrix(costs.data(), count, p); });
      },
      py::arg("costs").noconvert(), py::arg("match").noconvert());
}

}  // namespace cbk
