#include "bench.hpp"

namespace {

void cbo_update(benchmark::State& state, char name) {
  const bench::Workload w = bench::workload(name);
  bench::Data data(w);
  const int threads = int(state.range(0));
  const std::vector<float> point(size_t(w.net.size()));
  uint32_t step = 0;
  for (auto _ : state) {
    cbk::cbo_update<float>({data.theta.data(),
                            data.theta.data(),
                            w.particles,
                            w.net.size(),
                            point.data(),
                            nullptr,
                            nullptr,
                            0,
                            1.0,
                            1.2,
                            0.1,
                            cbk::Noise::anisotropic,
                            0.0,
                            0.0,
                            {7, 0, step++, 0}},
                           threads);
    benchmark::ClobberMemory();
  }
  const double bytes = 8.0 * double(w.particles * w.net.size());
  bench::report_share(state, "of_copy_rate", bytes / (bench::copy_limit(threads) * 1e9));
  state.counters["ns_per_normal"] = benchmark::Counter(bytes / 8e9 * double(state.iterations()),
                                                       benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

BENCHMARK_CAPTURE(cbo_update, A, 'A')->Apply(bench::one_and_all_threads);
BENCHMARK_CAPTURE(cbo_update, B, 'B')->Apply(bench::one_and_all_threads);
BENCHMARK_CAPTURE(cbo_update, C, 'C')->Apply(bench::one_and_all_threads);

}  // namespace

BENCHMARK_MAIN();
