#include "hopping.hpp"

#include "../risk/risk_bind.hpp"

namespace cbk {
namespace {

// The batch, with values [S, C] or labels [S], for an ensemble that is drawn.
template <class T>
RiskProblem<T> batch_of(const Network& net, int64_t particles, const Array<T>& x, const py::array& y,
                        const std::string& loss) {
  RiskProblem<T> problem = data_of(net, x);
  problem.particles = particles;
  set_targets(problem, y, loss);
  return problem;
}

template <class T>
Draw<T> draw_of(const Array<T>& center, int64_t size, int64_t particles, double spread, bool mirrored, uint64_t seed,
                uint32_t step) {
  check_shape("center", center, {size});
  if (particles < 1 || (mirrored && particles % 2)) throw py::value_error("particles must be even where mirrored");
  return {center.data(), T(spread), mirrored, particles, {seed, 0, step, 0}};
}

void check_atoms(const Array<int32_t>& atom, int64_t size, int64_t atoms) {
  check_shape("atom", atom, {size});
  if (std::any_of(atom.data(), atom.data() + size, [=](int32_t i) { return i < 0 || i >= atoms; }))
    throw py::value_error("atom holds an index out of range");
}

// (ess, alpha, nonfinite) of a step, which runs without the GIL.
template <class Step>
py::tuple told(Step step) {
  HoppingStep result;
  released([&] { result = step(); });
  return py::make_tuple(result.ess, result.alpha, result.nonfinite);
}

template <class T>
void register_typed(py::module_& m) {
  m.def(
      "hopping_risk",
      [](const Network& net, const Array<T>& center, int64_t particles, double spread, bool mirrored, uint64_t seed,
         uint32_t step, const Array<T>& x, const py::array& y, const std::string& loss, bool atoms, Array<double> out, int num_threads) {
        const Draw<T> draw = draw_of(center, net.size(), particles, spread, mirrored, seed, step);
        RiskProblem<T> problem = batch_of(net, particles, x, y, loss);
        check_shape("out", out, {particles, atoms ? net.width : 1});
        problem.draw = &draw;
        double* p = out.mutable_data();
        released([&] {
          if (atoms)
            atom_risks(problem, center.data(), p, num_threads);
          else
            risk(problem, p, num_threads);
        });
      },
      py::arg("net"), py::arg("center").noconvert(), py::arg("particles"), py::arg("spread"), py::arg("mirrored"),
      py::arg("seed"), py::arg("step"), py::arg("x").noconvert(), py::arg("y"), py::arg("loss"), py::arg("atoms"),
      py::arg("out").noconvert(), py::arg("num_threads"));
  m.def(
      "hopping_gradient",
      [](const Network& net, const Array<T>& center, int64_t particles, double spread, bool mirrored, uint64_t seed,
         uint32_t step, const Array<T>& x, const py::array& y, const std::string& loss,
         const std::optional<Array<int32_t>>& atom,
         double fraction, Array<T> gradient, int num_threads) {
        const Draw<T> draw = draw_of(center, net.size(), particles, spread, mirrored, seed, step);
        RiskProblem<T> problem = batch_of(net, particles, x, y, loss);
        problem.draw = &draw;
        check_shape("gradient", gradient, {net.size()});
        if (atom) check_atoms(*atom, net.size(), net.width);
        const int32_t* index = atom ? atom->data() : nullptr;
        T* p = gradient.mutable_data();
        return told([&] { return hopping_gradient(problem, fraction, index, p, num_threads); });
      },
      py::arg("net"), py::arg("center").noconvert(), py::arg("particles"), py::arg("spread"), py::arg("mirrored"),
      py::arg("seed"), py::arg("step"), py::arg("x").noconvert(), py::arg("y"), py::arg("loss"), py::arg("atom").noconvert(),
      py::arg("fraction"), py::arg("gradient").noconvert(), py::arg("num_threads"));
  m.def(
      "hopping_gradient",
      [](const Array<T>& center, double spread, bool mirrored, uint64_t seed, uint32_t step, const Array<double>& risk,
         double fraction, Array<T> gradient, int num_threads) {
        const Draw<T> draw = draw_of(center, center.size(), risk.size(), spread, mirrored, seed, step);
        check_shape("risk", risk, {draw.particles});
        check_shape("gradient", gradient, {center.size()});
        const double* r = risk.data();
        T* p = gradient.mutable_data();
        return told([&] { return hopping_gradient(draw, center.size(), r, fraction, p, num_threads); });
      },
      py::arg("center").noconvert(), py::arg("spread"), py::arg("mirrored"), py::arg("seed"), py::arg("step"),
      py::arg("risk").noconvert(), py::arg("fraction"), py::arg("gradient").noconvert(), py::arg("num_threads"));
  m.def(
      "draw_ensemble",
      [](const Array<T>& center, double spread, bool mirrored, uint64_t seed, uint32_t step, Array<T> out,
         int num_threads) {
        const int64_t particles = rows_of("out", out), size = center.size();
        const Draw<T> draw = draw_of(center, size, particles, spread, mirrored, seed, step);
        check_shape("out", out, {particles, size});
        T* p = out.mutable_data();
        released([&] { draw_ensemble(draw, size, p, num_threads); });
      },
      py::arg("center").noconvert(), py::arg("spread"), py::arg("mirrored"), py::arg("seed"), py::arg("step"),
      py::arg("out").noconvert(), py::arg("num_threads"));
  m.def(
      "atom_risks",
      [](const Network& net, const Array<T>& center, const Array<T>& theta, const Array<T>& x, const py::array& y,
         const std::string& loss, Array<double> out, int num_threads) {
        const int64_t particles = rows_of("theta", theta);
        check_shape("center", center, {net.size()});
        check_shape("theta", theta, {particles, net.size()});
        RiskProblem<T> problem = batch_of(net, particles, x, y, loss);
        problem.theta = theta.data();
        check_shape("out", out, {particles, net.width});
        double* p = out.mutable_data();
        released([&] { atom_risks(problem, center.data(), p, num_threads); });
      },
      py::arg("net"), py::arg("center").noconvert(), py::arg("theta").noconvert(), py::arg("x").noconvert(),
      py::arg("y"), py::arg("loss"), py::arg("out").noconvert(), py::arg("num_threads"));
}

// float32 says whose normals they are: those of a float32 or of a float64 ensemble.
void drift(const Array<double>& weights, const std::optional<Array<int32_t>>& atom, uint64_t seed, uint32_t step,
           bool float32, Array<double> out, int num_threads) {
  const int64_t rows = rows_of("weights", weights), atoms = weights.shape(1), size = out.size();
  check_shape("weights", weights, {rows, atoms});
  if (atom) check_atoms(*atom, size, atoms);
  double* p = out.mutable_data();
  const int32_t* index = atom ? atom->data() : nullptr;
  released([&] {
    if (float32)
      noise_drift<float>(weights.data(), rows, atoms, index, {seed, 0, step, 0}, size, p, num_threads);
    else
      noise_drift<double>(weights.data(), rows, atoms, index, {seed, 0, step, 0}, size, p, num_threads);
  });
}

}  // namespace

void register_hopping(py::module_& m) {
  register_typed<float>(m);
  register_typed<double>(m);
  m.def(
      "hopping_weights",
      [](Array<double> risk, bool mirrored, double fraction, Array<double> ess, int num_threads) {
        const int64_t rows = rows_of("risk", risk), columns = risk.shape(1);
        check_shape("risk", risk, {rows, columns});
        check_shape("ess", ess, {columns});
        if (rows < 2 || (mirrored && rows % 2)) throw py::value_error("risk must have two rows or more, even if mirrored");
        double *p = risk.mutable_data(), *e = ess.mutable_data();
        Weighed result;
        released([&] { result = hopping_weights(p, rows, columns, mirrored, fraction, e, num_threads); });
        return py::make_tuple(result.alpha, result.nonfinite);
      },
      py::arg("risk").noconvert(), py::arg("mirrored"), py::arg("fraction"), py::arg("ess").noconvert(), py::arg("num_threads"));
  m.def("noise_drift", &drift, py::arg("weights").noconvert(), py::arg("atom").noconvert(), py::arg("seed"),
        py::arg("step"), py::arg("float32"), py::arg("out").noconvert(), py::arg("num_threads"));
}

}  // namespace cbk
