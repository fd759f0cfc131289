#include "hopping.hpp"

#include "../risk/risk_bind.hpp"
#if defined(CBK_CARD)
#include "hopping_cuda.hpp"
#include "low_rank_cuda.hpp"
#else
#include "low_rank.hpp"
#endif

namespace cbk {
namespace {

// The batch, with values [S, C] or labels [S], for an ensemble that is drawn.
template <class T>
RiskProblem<T> batch_of(const Network& net, const Draw<T>& draw, const Input<T>& x, const TargetInput& y, Loss loss) {
  RiskProblem<T> problem = problem_of(net, x);
  problem.particles = draw.particles, problem.draw = &draw;
  set_targets(problem, y, loss, false);
  return problem;
}

template <class T>
Draw<T> draw_of(const Input<T>& center, int64_t size, int64_t particles, double spread, bool mirrored, NoiseKey key) {
  check_shape("center", center, {size});
  if (particles < 1 || (mirrored && particles % 2)) throw py::value_error("particles must be even where mirrored");
  return {center.data(), T(spread), mirrored, particles, key};
}

void check_atoms(const std::optional<Input<int32_t>>& atom, int64_t size, int64_t atoms) {
  if (!atom) return;
  check_shape("atom", *atom, {size});
  check_indices("atom", atom->data(), size, atoms);
}

LowRank low_rank_of(int64_t rank, bool batch, bool atoms, const Network& net) {
  if (rank < 1 || rank > most_rank) throw py::value_error("rank must be in [1, 65536]");
  if (atoms && net.output_bias) throw py::value_error("atoms expect a network without output_bias");
  return {rank, batch};
}

template <class T>
void register_low_rank(py::module_& m) {
  m.def("low_rank_risks", [](const Network& net, const Input<T>& center, int64_t particles, double spread,
                             bool mirrored, NoiseKey key, const Input<T>& x, const TargetInput& y, Loss loss,
                             int64_t rank, bool batch, bool atoms, const Output<double>& out, const Execution& run) {
    const Draw<T> draw = draw_of(center, net.size(), particles, spread, mirrored, key);
    const RiskProblem<T> problem = batch_of(net, draw, x, y, loss);
    check_shape("out", out, {particles, atoms ? net.width : 1});
    const LowRank noise = low_rank_of(rank, batch, atoms, net);
    bool spanned = false;
    released(run, [&] { spanned = kernels::low_rank_risks(problem, noise, atoms, out.data(), run); });
    return spanned;
  });
  m.def("low_rank_drift", [](const Network& net, const Input<T>& x, const Input<double>& weights, NoiseKey key,
                             int64_t rank, bool batch, bool atoms, const Output<double>& out, const Execution& run) {
    const int64_t draws = rows_of("weights", weights);
    check_shape("weights", weights, {draws, atoms ? net.width : 1});
    check_shape("out", out, {net.size()});
    const Draw<T> draw{nullptr, T(1), false, draws, key};
    RiskProblem<T> problem = problem_of(net, x);
    problem.draw = &draw, problem.particles = draws;
    const LowRank noise = low_rank_of(rank, batch, atoms, net);
    released(run, [&] { kernels::low_rank_drift(problem, noise, atoms, weights.data(), out.data(), run); });
  });
#if !defined(CBK_CARD)
  m.def("low_rank_gradient",
        [](const Network& net, const Input<T>& center, int64_t particles, double spread, bool mirrored, NoiseKey key,
           const Input<T>& x, const TargetInput& y, Loss loss, int64_t rank, bool batch, bool atoms, double fraction,
           bool fit, const Output<T>& gradient, Execution run) {
    const Draw<T> draw = draw_of(center, net.size(), particles, spread, mirrored, key);
    const RiskProblem<T> problem = batch_of(net, draw, x, y, loss);
    check_shape("gradient", gradient, {net.size()});
    const LowRank noise = low_rank_of(rank, batch, atoms, net);
    HoppingStep step{};
    bool spanned = false;
    if (fit && !(atoms && mirrored)) throw py::value_error("a fit expects atoms and pairs");
    released(run,
             [&] { step = low_rank_gradient(problem, noise, fraction, fit, atoms, gradient.data(), spanned, run); });
    return py::make_tuple(step.ess, step.alpha, step.nonfinite, spanned);
  });
#endif
}

template <class T>
void register_typed_hopping(py::module_& m) {
  m.def("hopping_risk", [](const Network& net, const Input<T>& center, int64_t particles, double spread, bool mirrored,
                           NoiseKey key, const Input<T>& x, const TargetInput& y, Loss loss, bool atoms,
                           const Output<double>& out, const Execution& run) {
    const Draw<T> draw = draw_of(center, net.size(), particles, spread, mirrored, key);
    const RiskProblem<T> problem = batch_of(net, draw, x, y, loss);
    check_shape("out", out, {particles, atoms ? net.width : 1});
    released(run, [&] {
      if (atoms)
        kernels::atom_risks(problem, center.data(), out.data(), run);
      else
        kernels::risk(problem, out.data(), run);
    });
  });
  m.def("atom_risks", [](const Network& net, const Input<T>& center, const Input<T>& theta, const Input<T>& x,
                         const TargetInput& y, Loss loss, const Output<double>& out, const Execution& run) {
    check_shape("center", center, {net.size()});
    RiskProblem<T> problem = problem_of(net, x);
    set_particles(problem, theta);
    set_targets(problem, y, loss, false);
    check_shape("out", out, {problem.particles, net.width});
    released(run, [&] { kernels::atom_risks(problem, center.data(), out.data(), run); });
  });
#if !defined(CBK_CARD)
  // (ess, alpha, nonfinite) of a step.
  const auto told = [](Execution run, auto&& step) {
    HoppingStep result{};
    released(run, [&] { result = step(); });
    return py::make_tuple(result.ess, result.alpha, result.nonfinite);
  };
  m.def("hopping_gradient",
        [told](const Network& net, const Input<T>& center, int64_t particles, double spread, bool mirrored,
               NoiseKey key, const Input<T>& x, const TargetInput& y, Loss loss,
               const std::optional<Input<int32_t>>& atom, double fraction, const Output<T>& gradient, Execution run) {
    const Draw<T> draw = draw_of(center, net.size(), particles, spread, mirrored, key);
    const RiskProblem<T> problem = batch_of(net, draw, x, y, loss);
    check_shape("gradient", gradient, {net.size()});
    check_atoms(atom, net.size(), net.width);
    return told(run, [&] { return hopping_gradient(problem, fraction, data_or_null(atom), gradient.data(), run); });
  });
  m.def("hopping_gradient",
        [told](const Input<T>& center, double spread, bool mirrored, NoiseKey key, const Input<double>& risk,
               double fraction, const Output<T>& gradient, Execution run) {
    const int64_t size = center.size();
    const Draw<T> draw = draw_of(center, size, risk.size(), spread, mirrored, key);
    check_shape("risk", risk, {draw.particles});
    check_shape("gradient", gradient, {size});
    return told(run, [&] { return hopping_gradient(draw, size, risk.data(), fraction, gradient.data(), run); });
  });
  m.def("draw_ensemble",
        [](const Input<T>& center, double spread, bool mirrored, NoiseKey key, const Output<T>& out, Execution run) {
    const int64_t particles = rows_of("out", out), size = center.size();
    const Draw<T> draw = draw_of(center, size, particles, spread, mirrored, key);
    check_shape("out", out, {particles, size});
    released(run, [&] { draw_ensemble(draw, size, out.data(), run); });
  });
  m.def("round_rows", [](const Output<T>& theta, const Input<T>& scale, int64_t most, Execution run) {
    const int64_t rows = rows_of("theta", theta), size = scale.size();
    check_shape("scale", scale, {size});
    check_shape("theta", theta, {rows, size});
    released(run, [&] { round_rows(scale.data(), T(most), rows, size, theta.data(), run); });
  });
#endif
}

// float32 says whose normals they are: those of a float32 or of a float64 ensemble.
void drift(const Input<double>& weights, const std::optional<Input<int32_t>>& atom, NoiseKey key, bool float32,
           const Output<double>& out, const Execution& run) {
  const int64_t rows = rows_of("weights", weights), atoms = weights.shape(1), size = out.size();
  if (size < 1) throw py::value_error("out must not be empty");
  check_shape("weights", weights, {rows, atoms});
  check_atoms(atom, size, atoms);
  const int32_t* index = data_or_null(atom);
  released(run, [&] {
    if (float32)
      kernels::noise_drift<float>(weights.data(), rows, atoms, index, key, size, out.data(), run);
    else
      kernels::noise_drift<double>(weights.data(), rows, atoms, index, key, size, out.data(), run);
  });
}

#if !defined(CBK_CARD)
// The risks become the weights.
py::tuple weights(const Output<double>& risk, bool mirrored, double fraction, const Output<double>& ess,
                  Execution run) {
  const int64_t rows = rows_of("risk", risk), columns = risk.shape(1);
  check_shape("risk", risk, {rows, columns});
  check_shape("ess", ess, {columns});
  if (rows < 2 || (mirrored && rows % 2)) throw py::value_error("risk must have two rows or more, even if mirrored");
  Weighed result{};
  released([&] { result = hopping_weights(risk.data(), rows, columns, mirrored, fraction, ess.data(), run); });
  return py::make_tuple(result.alpha, result.nonfinite);
}

// Pairs' risks become, in the first half of the rows, the weights of their noise.
int64_t fit(const Network& net, int64_t rank, int64_t length, NoiseKey key, bool float32, const Output<double>& risk,
            const Output<double>& ess, Execution run) {
  const int64_t rows = rows_of("risk", risk);
  check_shape("risk", risk, {rows, net.width});
  check_shape("ess", ess, {net.width});
  if (rows < 2 || rows % 2) throw py::value_error("risk must have rows of pairs");
  if (length < 1) throw py::value_error("length must be at least 1");
  const LowRank noise = low_rank_of(rank, false, true, net);
  Weighed result{};
  released([&] {
    const auto weigh = float32 ? fit_weights<float> : fit_weights<double>;
    result = weigh(net, noise.rank, length, key, rows / 2, risk.data(), ess.data(), run);
  });
  return result.nonfinite;
}
#endif

}  // namespace

void register_hopping(py::module_& m) {
  register_low_rank<float>(m);
  register_low_rank<double>(m);
  register_typed_hopping<float>(m);
  register_typed_hopping<double>(m);
  m.def("noise_drift", &drift);
#if !defined(CBK_CARD)
  m.def("hopping_weights", &weights);
  m.def("fit_weights", &fit);
#endif
}

}  // namespace cbk
