#include "bench.hpp"

namespace {

void risk(benchmark::State& state, char name) {
  const bench::Workload w = bench::workload(name);
  const bench::Data data(w);
  const int threads = int(state.range(0));
  std::vector<double> out(size_t(w.particles));
  int turn = 0;
  for (auto _ : state) {
    cbk::risk(data.problem(w, turn++), out.data(), threads);
    benchmark::DoNotOptimize(out.data());
  }
  bench::report_share(state, "of_fma_rate", w.flops() / (bench::fma_limit(threads) * 1e9));
}

BENCHMARK_CAPTURE(risk, A, 'A')->Apply(bench::one_and_all_threads);
BENCHMARK_CAPTURE(risk, At, 't')->Apply(bench::one_and_all_threads);
BENCHMARK_CAPTURE(risk, B_dense, 'B')->Apply(bench::one_and_all_threads);
BENCHMARK_CAPTURE(risk, B_19_percent, 's')->Apply(bench::one_and_all_threads);
BENCHMARK_CAPTURE(risk, C, 'C')->Apply(bench::one_and_all_threads);

}  // namespace

BENCHMARK_MAIN();
