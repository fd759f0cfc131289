#include "../csrc/training/training.hpp"

#include <numeric>

#include "bench.hpp"

namespace {

// One step of CBO on a minibatch that is gathered first: risks, consensus point, update.  The ensemble keeps moving;
// the noise has a floor, or it would freeze.
void step(benchmark::State& state, char name) {
  const bench::Workload w = bench::workload(name);
  bench::Data data(w);
  const int threads = int(state.range(0));
  const int64_t size = w.net.size();
  std::vector<float> point(static_cast<size_t>(size));
  std::vector<double> risk(size_t(w.particles)), weights(size_t(w.particles));
  std::vector<int64_t> order(size_t(w.samples));
  std::iota(order.begin(), order.end(), int64_t(0));
  double ess = 0;
  uint32_t now = 0;
  for (auto _ : state) {
    const bool classes = w.loss.kind == cbk::LossKind::cross_entropy;
    cbk::Epoch<float> epoch{data.problem(w, 0), order.data(), w.samples, now++};
    if (classes)
      epoch.data.y = nullptr;
    else
      epoch.data.labels = nullptr;
    cbk::Ensemble<float> ensemble{};
    ensemble.update = {data.theta.data(),
                       data.theta.data(),
                       w.particles,
                       size,
                       point.data(),
                       nullptr,
                       nullptr,
                       0,
                       1.0,
                       1.2,
                       0.1,
                       cbk::Noise::anisotropic,
                       0.01,
                       0.0,
                       {7, 0, 0, 0}};
    ensemble.risk = risk.data(), ensemble.weights = weights.data(), ensemble.ess = &ess, ensemble.points = point.data();
    ensemble.alpha = 1e5, ensemble.target = std::nan("");
    cbk::run_epoch(epoch, ensemble, threads);
    benchmark::ClobberMemory();
  }
  const double products = w.flops() / (bench::fma_limit(threads) * 1e9);
  const double moved = 8.0 * double(w.particles * size) / (bench::copy_limit(threads) * 1e9);
  bench::report_share(state, "of_fma_and_copy", products + moved);
}

BENCHMARK_CAPTURE(step, A, 'A')->Apply(bench::one_and_all_threads);
BENCHMARK_CAPTURE(step, At, 't')->Apply(bench::one_and_all_threads);
BENCHMARK_CAPTURE(step, B_dense, 'B')->Apply(bench::one_and_all_threads);
BENCHMARK_CAPTURE(step, B_19_percent, 's')->Apply(bench::one_and_all_threads);
BENCHMARK_CAPTURE(step, C, 'C')->Apply(bench::one_and_all_threads);

}  // namespace

BENCHMARK_MAIN();
