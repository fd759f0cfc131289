#include "training.hpp"

#include <limits>

#include "../risk/risk_bind.hpp"
#include "../update/update_bind.hpp"

namespace cbk {

// What a consensus weighs with, and where it puts what it finds.
template <class T>
struct Consensus {
  double alpha;
  std::optional<double> target;
  Output<double> alphas;
  Output<T> points;
  Output<double> weights, ess;
};

// How a step of hopping draws and weighs; rank 0: full.
struct HopsOf {
  int64_t particles;
  double spread;
  bool mirrored;
  int64_t rank;
  bool batch;
  double fraction;
  bool fit;
};

}  // namespace cbk

namespace pybind11::detail {

template <class T>
struct type_caster<cbk::Consensus<T>>
    : cbk::TupleCaster<cbk::Consensus<T>, double, std::optional<double>, cbk::Output<double>, cbk::Output<T>,
                       cbk::Output<double>, cbk::Output<double>> {};
template <>
struct type_caster<cbk::HopsOf> : cbk::TupleCaster<cbk::HopsOf, int64_t, double, bool, int64_t, bool, double, bool> {};

}  // namespace pybind11::detail

namespace cbk {
namespace {

template <class T>
Epoch<T> epoch_of(const Network& net, const Input<T>& x, const TargetInput& y, Loss loss,
                  const std::optional<Input<int64_t>>& order, int64_t batch, uint32_t step, double decay) {
  check_shape("x", x, {rows_of("x", x), net.inputs});
  Epoch<T> epoch{tasks_of(net, x, y, loss), data_or_null(order), batch, step, decay};
  const int64_t samples = epoch.data.samples;
  if (order) {
    check_shape("order", *order, {samples});
    check_indices("order", order->data(), samples, samples);
  }
  epoch.batch = order ? std::min(batch, samples) : samples;
  if (epoch.batch < 1) throw py::value_error("a batch must hold a sample");
  return epoch;
}

template <class T>
void set_consensus(Ensemble<T>& ensemble, int64_t tasks, const Consensus<T>& to) {
  check_shape("points", to.points, {tasks, ensemble.update.size});
  check_shape("weights", to.weights, {ensemble.update.particles, tasks});
  check_shape("ess", to.ess, {tasks});
  check_shape("alphas", to.alphas, {tasks});
  ensemble.points = to.points.data();
  ensemble.weights = to.weights.data(), ensemble.ess = to.ess.data();
  ensemble.alpha = to.alpha, ensemble.alphas = to.alphas.data();
  ensemble.target = to.target.value_or(std::numeric_limits<double>::quiet_NaN());
}

template <class T>
int64_t run_all(const Epoch<T>& epoch, const Ensemble<T>& ensemble, Execution run) {
  if (ensemble.update.size != epoch.data.net.size()) throw py::value_error("theta is not of the network's size");
  if (ensemble.gradient && epoch.data.tasks != 1) throw py::value_error("y must have one task");
  if (ensemble.gradient) check_slopes(epoch.data);
  Outcome outcome;
  released(run, [&] { outcome = run_epoch(epoch, ensemble, run); });
  if (outcome.failed >= 0)
    raise_no_finite_risk(outcome.failed, epoch.data.tasks, ensemble.update.particles,
                         "step " + std::to_string(outcome.step) + ": ");
  return outcome.not_finite;
}

template <class T>
void register_hopping_epoch(py::module_& m) {
  m.def("hopping_epoch",
        [](const Network& net, const Input<T>& x, const TargetInput& y, Loss loss,
           const std::optional<Input<int64_t>>& order, int64_t batch, const Output<T>& theta, const Output<T>& gradient,
           const Output<T>& first, const Output<T>& second, const Descent& by, NoiseKey key, const HopsOf& how,
           const std::optional<Input<int32_t>>& atom, double decay, Execution run) {
    const Epoch<T> epoch = epoch_of(net, x, y, loss, order, batch, key.step, decay);
    const int64_t size = net.size();
    check_shape("theta", theta, {1, size});
    if (epoch.data.tasks != 1) throw py::value_error("y must have one task");
    if (how.particles < 1 || (how.mirrored && how.particles % 2)) throw py::value_error("particles must be pairs");
    if (how.rank < 0 || how.rank > most_rank || (how.rank > 0 && atom && net.output_bias))
      throw py::value_error("rank is out of range, or atoms have an output bias");
    if (how.fit && !(atom && how.mirrored && how.rank > 0))
      throw py::value_error("a fit expects atoms, pairs and noise of low rank");
    if (atom) {
      check_shape("atom", *atom, {size});
      check_indices("atom", atom->data(), size, net.width);
    }
    Hops<T> hops{{theta.data(), T(how.spread), how.mirrored, how.particles, key},
                 data_or_null(atom),
                 {how.rank, how.batch},
                 how.fraction,
                 how.fit,
                 theta.data(),
                 gradient.data(),
                 adam_of(theta, gradient, first, second, by)};
    Hopped hopped;
    released(run, [&] { hopped = run_hopping_epoch(epoch, hops, run); });
    if (hopped.last.ess == 0)
      raise_no_finite_risk(atom ? -1 : 0, 1, how.particles, "step " + std::to_string(hopped.step) + ": ");
    return py::make_tuple(hopped.last.ess, hopped.last.alpha, hopped.nonfinite, hopped.spanned);
  });
}

template <class T>
void register_typed_training(py::module_& m) {
  m.def("cbo_epoch", [](const Network& net, const Input<T>& x, const TargetInput& y, Loss loss,
                        const std::optional<Input<int64_t>>& order, int64_t batch, const Output<T>& theta,
                        const std::optional<Input<int32_t>>& task, const Law& law, NoiseKey key,
                        const Output<double>& risk, const Consensus<T>& to, double decay, Execution run) {
    const Epoch<T> epoch = epoch_of(net, x, y, loss, order, batch, key.step, decay);
    Ensemble<T> ensemble{};
    ensemble.update = update_of(theta, to.points, task, law, key, theta);
    check_shape("risk", risk, {ensemble.update.particles, epoch.data.tasks});
    ensemble.risk = risk.data();
    set_consensus(ensemble, epoch.data.tasks, to);
    return run_all(epoch, ensemble, run);
  });
  m.def("hybrid_epoch",
        [](const Network& net, const Input<T>& x, const TargetInput& y, Loss loss,
           const std::optional<Input<int64_t>>& order, int64_t batch, const Output<T>& theta, const Output<T>& gradient,
           const Output<T>& first, const Output<T>& second, const Law& law, const Descent& by, NoiseKey key,
           const Output<double>& risk, const Consensus<T>& to, double decay, Execution run) {
    const Epoch<T> epoch = epoch_of(net, x, y, loss, order, batch, key.step, decay);
    Ensemble<T> ensemble{};
    ensemble.update = update_of(theta, to.points, std::nullopt, law, key, theta);
    check_shape("risk", risk, {ensemble.update.particles, 1});
    ensemble.risk = risk.data();
    ensemble.gradient = gradient.data();
    ensemble.adam = adam_of(theta, gradient, first, second, by);
    set_consensus(ensemble, 1, to);
    return run_all(epoch, ensemble, run);
  });
  m.def("adam_epoch",
        [](const Network& net, const Input<T>& x, const TargetInput& y, Loss loss,
           const std::optional<Input<int64_t>>& order, int64_t batch, const Output<T>& theta, const Output<T>& gradient,
           const Output<T>& first, const Output<T>& second, const Descent& by,
           const std::optional<Input<double>>& rates, const Output<double>& risk, double decay, Execution run) {
    const Epoch<T> epoch = epoch_of(net, x, y, loss, order, batch, by.step, decay);
    Ensemble<T> ensemble{};
    ensemble.adam = adam_of(theta, gradient, first, second, by);
    set_rates(ensemble.adam, theta, rates);
    ensemble.update.theta = ensemble.update.out = theta.data();
    ensemble.update.particles = theta.shape(0), ensemble.update.size = theta.shape(1);
    check_shape("risk", risk, {ensemble.update.particles});
    ensemble.risk = risk.data();
    ensemble.gradient = gradient.data();
    return run_all(epoch, ensemble, run);
  });
}

}  // namespace

void register_training(py::module_& m) {
  register_hopping_epoch<float>(m);
  register_hopping_epoch<double>(m);
  register_typed_training<float>(m);
  register_typed_training<double>(m);
}

}  // namespace cbk
