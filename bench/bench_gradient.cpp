#include "bench.hpp"

namespace {

// Risks and gradients: three times the products of the risk alone.
void risk_gradient(benchmark::State& state, char name) {
  const bench::Workload w = bench::workload(name);
  const bench::Data data(w);
  const int threads = int(state.range(0));
  std::vector<double> out(size_t(w.particles));
  std::vector<float> gradient(size_t(w.particles * w.net.size()));
  int turn = 0;
  for (auto _ : state) {
    cbk::risk_gradient(data.problem(w, turn++), out.data(), gradient.data(), threads);
    benchmark::ClobberMemory();
  }
  // the first layer's product needs no gradient of x
  const double products = 2.0 * w.flops() + 2.0 * double(w.particles * w.samples * w.net.width * w.net.outputs);
  bench::report_share(state, "of_fma_rate", products / (bench::fma_limit(threads) * 1e9));
}

BENCHMARK_CAPTURE(risk_gradient, A, 'A')->Apply(bench::one_and_all_threads);
BENCHMARK_CAPTURE(risk_gradient, At, 't')->Apply(bench::one_and_all_threads);
BENCHMARK_CAPTURE(risk_gradient, B_dense, 'B')->Apply(bench::one_and_all_threads);
BENCHMARK_CAPTURE(risk_gradient, B_19_percent, 's')->Apply(bench::one_and_all_threads);
BENCHMARK_CAPTURE(risk_gradient, C, 'C')->Apply(bench::one_and_all_threads);

}  // namespace

BENCHMARK_MAIN();
