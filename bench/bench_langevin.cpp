#include "../csrc/langevin/langevin.hpp"

#include "bench.hpp"

namespace {

// B A O A and B of as many networks as the workload has particles; the gradient between them is bench_gradient's.
void passes(benchmark::State& state, char name, double temperature) {
  const bench::Workload w = bench::workload(name);
  bench::Data data(w);
  const int threads = int(state.range(0));
  const int64_t size = w.net.size();
  std::vector<float> velocity(size_t(w.particles * size)), gradient(size_t(w.particles * size), 1e-3f);
  cbk::NoiseKey key{7, 0, 0, 0};
  for (auto _ : state) {
    ++key.step;
    cbk::langevin_drift(data.theta.data(), velocity.data(), gradient.data(), w.particles, size, 1.0, 1.0, temperature,
                        0.1, key, threads);
    cbk::langevin_kick(velocity.data(), gradient.data(), w.particles, size, 1.0, 0.1, threads);
    benchmark::ClobberMemory();
  }
  // read and written: theta and velocity, velocity once more; the gradient read twice
  const double bytes = 4.0 * double(w.particles * size) * 8;
  bench::report_share(state, "of_copy_rate", bytes / (bench::copy_limit(threads) * 1e9));
}

BENCHMARK_CAPTURE(passes, A_cold, 'A', 0.0)->Apply(bench::one_and_all_threads);
BENCHMARK_CAPTURE(passes, A_warm, 'A', 0.01)->Apply(bench::one_and_all_threads);
BENCHMARK_CAPTURE(passes, B_cold, 'B', 0.0)->Apply(bench::one_and_all_threads);
BENCHMARK_CAPTURE(passes, B_warm, 'B', 0.01)->Apply(bench::one_and_all_threads);

}  // namespace

BENCHMARK_MAIN();
