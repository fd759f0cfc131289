#include "bench.hpp"

namespace {

// alpha = 0 reads every particle; at 1e5 all weights but a few are exactly zero.
void consensus(benchmark::State& state, char name, double alpha) {
  const bench::Workload w = bench::workload(name);
  const bench::Data data(w);
  const int threads = int(state.range(0));
  std::vector<double> risk(size_t(w.particles)), weights(size_t(w.particles));
  for (size_t n = 0; n < risk.size(); ++n) risk[n] = double(data.theta[n]);
  std::vector<float> point(size_t(w.net.size()));
  for (auto _ : state) {
    benchmark::DoNotOptimize(cbk::gibbs_weights(risk.data(), w.particles, 1, alpha, weights.data()));
    cbk::weighted_means(data.theta.data(), w.particles, w.net.size(), weights.data(), 1, point.data(), threads);
    benchmark::ClobberMemory();
  }
  if (alpha == 0)
    bench::report_share(state, "of_copy_rate",
                        4.0 * double(w.particles * w.net.size()) / (bench::copy_limit(threads) * 1e9));
}

BENCHMARK_CAPTURE(consensus, A_alpha_1e5, 'A', 1e5)->Apply(bench::one_and_all_threads);
BENCHMARK_CAPTURE(consensus, B_alpha_1e5, 'B', 1e5)->Apply(bench::one_and_all_threads);
BENCHMARK_CAPTURE(consensus, B_full_read, 'B', 0.0)->Apply(bench::one_and_all_threads);

}  // namespace

BENCHMARK_MAIN();
