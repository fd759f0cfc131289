#include <limits>

#include "../risk/risk_bind.hpp"
#include "../update/update_bind.hpp"
#include "training.hpp"

namespace cbk {
namespace {

template <class T>
Epoch<T> epoch_of(const Network& net, const Array<T>& x, const py::array& y, const std::string& loss,
                  const std::optional<Array<int64_t>>& order, int64_t batch, uint32_t step) {
  Epoch<T> epoch{data_of(net, x), nullptr, batch, step};
  set_task_targets(epoch.data, y, loss);
  if (order) {
    check_shape("order", *order, {epoch.data.samples});
    check_indices("order", *order, epoch.data.samples);
    epoch.order = order->data();
  } else {
    epoch.batch = epoch.data.samples;
  }
  epoch.batch = std::min(epoch.batch, epoch.data.samples);
  if (epoch.batch < 1) throw py::value_error("a batch must hold a sample");
  return epoch;
}

template <class T>
void set_consensus(Ensemble<T>& ensemble, int64_t tasks, double alpha, std::optional<double> target,
                   Array<double>& alphas, Array<T>& points, Array<double>& weights, Array<double>& ess) {
  check_shape("points", points, {tasks, ensemble.update.size});
  check_shape("weights", weights, {ensemble.update.particles, tasks});
  check_shape("ess", ess, {tasks});
  check_shape("alphas", alphas, {tasks});
  ensemble.points = points.mutable_data();
  ensemble.weights = weights.mutable_data(), ensemble.ess = ess.mutable_data();
  ensemble.alpha = alpha, ensemble.alphas = alphas.mutable_data();
  ensemble.target = target.value_or(std::numeric_limits<double>::quiet_NaN());
}

template <class T>
int64_t run(const Epoch<T>& epoch, const Ensemble<T>& ensemble, int num_threads) {
  if (ensemble.update.size != epoch.data.net.size()) throw py::value_error("theta is not of the network's size");
  Outcome outcome;
  released([&] { outcome = run_epoch(epoch, ensemble, num_threads); });
  if (outcome.failed >= 0)
    raise_no_finite_risk(outcome.failed, epoch.data.tasks, ensemble.update.particles,
                         "step " + std::to_string(outcome.step) + ": ");
  return outcome.not_finite;
}

template <class T>
int64_t cbo_epoch(const Network& net, const Array<T>& x, const py::array& y,
                  const std::string& loss, const std::optional<Array<int64_t>>& order, int64_t batch, Array<T> theta,
                  const std::optional<Array<int32_t>>& task, double alpha, std::optional<double> target, double drift,
                  double diffusion, double dt, const std::string& noise, double floor, double radius, uint64_t seed,
                  uint32_t step, Array<double> risk, Array<double> alphas, Array<T> points, Array<double> weights,
                  Array<double> ess, int num_threads) {
  const Epoch<T> epoch = epoch_of(net, x, y, loss, order, batch, step);
  Ensemble<T> ensemble{};
  ensemble.update = update_of(theta, points, task, drift, diffusion, dt, noise, radius, seed, step, 0, theta);
  ensemble.update.floor = floor;
  check_shape("risk", risk, {ensemble.update.particles, epoch.data.tasks});
  ensemble.risk = risk.mutable_data();
  set_consensus(ensemble, epoch.data.tasks, alpha, target, alphas, points, weights, ess);
  return run(epoch, ensemble, num_threads);
}

template <class T>
int64_t hybrid_epoch(const Network& net, const Array<T>& x, const py::array& y,
                     const std::string& loss, const std::optional<Array<int64_t>>& order, int64_t batch, Array<T> theta, Array<T> gradient,
                     Array<T> first, Array<T> second, double mix, double alpha, std::optional<double> target,
                     double drift, double diffusion, double dt, const std::string& noise, double radius, double beta1,
                     double beta2, double delta, uint64_t seed, uint32_t step, Array<double> risk,
                     Array<double> alphas, Array<T> points, Array<double> weights, Array<double> ess,
                     int num_threads) {
  const Epoch<T> epoch = epoch_of(net, x, y, loss, order, batch, step);
  Ensemble<T> ensemble{};
  ensemble.update = update_of(theta, points, std::optional<Array<int32_t>>(), (1 - mix) * drift,
                              (1 - mix) * diffusion, dt, noise, radius, seed, step, 0, theta);
  check_shape("risk", risk, {ensemble.update.particles, 1});
  ensemble.risk = risk.mutable_data();
  ensemble.gradient = gradient.mutable_data();
  ensemble.adam = adam_of(theta, gradient, first, second, mix * dt, beta1, beta2, delta, step);
  set_consensus(ensemble, 1, alpha, target, alphas, points, weights, ess);
  return run(epoch, ensemble, num_threads);
}

template <class T>
int64_t adam_epoch(const Network& net, const Array<T>& x, const py::array& y,
                   const std::string& loss, const std::optional<Array<int64_t>>& order, int64_t batch, Array<T> theta, Array<T> gradient,
                   Array<T> first, Array<T> second, double lr, double beta1, double beta2, double delta, uint32_t step,
                   Array<double> risk, int num_threads) {
  const Epoch<T> epoch = epoch_of(net, x, y, loss, order, batch, step);
  Ensemble<T> ensemble{};
  ensemble.adam = adam_of(theta, gradient, first, second, lr, beta1, beta2, delta, step);
  ensemble.update.theta = ensemble.update.out = theta.mutable_data();
  ensemble.update.particles = theta.shape(0), ensemble.update.size = theta.shape(1);
  check_shape("risk", risk, {ensemble.update.particles});
  ensemble.risk = risk.mutable_data();
  ensemble.gradient = gradient.mutable_data();
  return run(epoch, ensemble, num_threads);
}

template <class T>
void register_typed(py::module_& m) {
  using py::arg;
  m.def("cbo_epoch", &cbo_epoch<T>, arg("net"), arg("x").noconvert(), arg("y").noconvert(), arg("loss"), arg("order").noconvert(),
        arg("batch"), arg("theta").noconvert(), arg("task").noconvert(), arg("alpha"), arg("target"), arg("drift"),
        arg("diffusion"), arg("dt"), arg("noise"), arg("floor"), arg("radius"), arg("seed"), arg("step"),
        arg("risk").noconvert(), arg("alphas").noconvert(), arg("points").noconvert(), arg("weights").noconvert(),
        arg("ess").noconvert(), arg("num_threads"));
  m.def("hybrid_epoch", &hybrid_epoch<T>, arg("net"), arg("x").noconvert(), arg("y").noconvert(), arg("loss"),
        arg("order").noconvert(), arg("batch"), arg("theta").noconvert(), arg("gradient").noconvert(),
        arg("first").noconvert(), arg("second").noconvert(), arg("mix"), arg("alpha"), arg("target"), arg("drift"),
        arg("diffusion"), arg("dt"), arg("noise"), arg("radius"), arg("beta1"), arg("beta2"), arg("delta"),
        arg("seed"), arg("step"), arg("risk").noconvert(), arg("alphas").noconvert(), arg("points").noconvert(),
        arg("weights").noconvert(), arg("ess").noconvert(), arg("num_threads"));
  m.def("adam_epoch", &adam_epoch<T>, arg("net"), arg("x").noconvert(), arg("y").noconvert(), arg("loss"),
        arg("order").noconvert(), arg("batch"), arg("theta").noconvert(), arg("gradient").noconvert(),
        arg("first").noconvert(), arg("second").noconvert(), arg("lr"), arg("beta1"), arg("beta2"), arg("delta"),
        arg("step"), arg("risk").noconvert(), arg("num_threads"));
}

}  // namespace

void register_training(py::module_& m) {
  register_typed<float>(m);
  register_typed<double>(m);
}

}  // namespace cbk
