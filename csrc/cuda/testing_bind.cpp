// The module's part `testing`: what tests and timings look at.  The library calls none of it.
#include "../consensus/consensus_cuda.hpp"
#include "../hopping/low_rank_cuda.hpp"
#include "../hopping/weights_cuda.hpp"
#include "../risk/risk_bind.hpp"
#include "bind.hpp"
#include "device.hpp"

namespace cbk {
namespace {

void alphas_for_ess(const Input<double>& risk, const Input<double>& target, const Output<double>& alphas,
                    const Execution& run) {
  const int64_t particles = rows_of("risk", risk), tasks = risk.shape(1);
  check_shape("risk", risk, {particles, tasks});
  check_shape("target", target, {1});
  check_shape("alphas", alphas, {tasks});
  released(run, [&] { device::solve_alphas(risk.data(), particles, tasks, target.data(), alphas.data(), run); });
}

// Of the draws, as the kernels of a run on a card weigh them.
void weights_by_rank(const Input<double>& risk, bool mirrored, const Output<double>& weights, const Output<double>& ess,
                     const Execution& run) {
  const int64_t rows = rows_of("risk", risk), columns = risk.shape(1);
  check_shape("risk", risk, {rows, columns});
  check_shape("weights", weights, {mirrored ? rows / 2 : rows, columns});
  check_shape("ess", ess, {columns});
  released(run, [&] {
    device::hopping_weights(risk.data(), rows, columns, mirrored, nullptr, weights.data(), ess.data(), nullptr, run);
  });
}

// Of pairs whose noise is that of low_rank_drift.
template <class T>
void weights_by_least_squares(const Network& net, const Input<T>& x, const Input<double>& risk, NoiseKey key,
                              int64_t rank, bool batch, const Output<double>& weights, const Output<double>& ess,
                              const Execution& run) {
  const int64_t particles = rows_of("risk", risk);
  check_shape("risk", risk, {particles, net.width});
  check_shape("weights", weights, {particles / 2, net.width});
  check_shape("ess", ess, {net.width});
  const Draw<T> draw{nullptr, T(1), true, particles, key};
  RiskProblem<T> problem = problem_of(net, x);
  problem.draw = &draw, problem.particles = particles;
  released(run, [&] { device::fit_weights(problem, {rank, batch}, risk.data(), weights.data(), ess.data(), run); });
}

// Returns whether the card and the build have them.
bool use_warp_groups(bool wanted) {
  device::warp_groups = wanted;
  return device::can_use_warp_groups();
}

}  // namespace

void register_testing(py::module_ m) {
  m.def("alphas_for_ess", &alphas_for_ess);
  m.def("weights_by_rank", &weights_by_rank);
  m.def("weights_by_least_squares", &weights_by_least_squares<float>);
  m.def("weights_by_least_squares", &weights_by_least_squares<double>);
  m.def("has_warp_groups", &device::has_warp_groups);
  m.def("use_warp_groups", &use_warp_groups, py::arg("wanted"));
  m.def("held_memory", &device::held_memory, py::arg("device"));
  m.def("trim_memory", [](int device) { released([&] { device::trim_memory(device); }); }, py::arg("device"));
}

}  // namespace cbk
