#include "../csrc/random/random.hpp"

#include "bench.hpp"

namespace {

// Normals of workload B's shape in memory: what an update needs, but for the ensemble.
template <class T>
void normals(benchmark::State& state) {
  const bench::Workload w = bench::workload('B');
  const int threads = int(state.range(0));
  std::vector<T> out(size_t(w.particles * w.net.size()));
  cbk::NoiseKey key{7, 0, 0, 0};
  for (auto _ : state) {
    ++key.step;
    cbk::standard_normal(out.data(), w.particles, w.net.size(), key, threads);
    benchmark::ClobberMemory();
  }
  const double count = double(out.size());
  bench::report_share(state, "of_copy_rate", count * sizeof(T) / (bench::copy_limit(threads) * 1e9));
  state.counters["ns_per_normal"] = benchmark::Counter(count * 1e-9 * double(state.iterations()),
                                                       benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

BENCHMARK(normals<float>)->Name("standard_normal/B_float32")->Apply(bench::one_and_all_threads);
BENCHMARK(normals<double>)->Name("standard_normal/B_float64")->Apply(bench::one_and_all_threads);

}  // namespace

BENCHMARK_MAIN();
