#include "bench.hpp"

namespace {

// Workload D: N=100 measures of M atoms in R^3 (N=8 for M=1000) against one support, uniform on [-1, 1]^3 or within
// 0.01 of the support.
struct Measures {
  static constexpr int64_t size = 3;
  static constexpr int ensembles = 3;
  int64_t particles, count;
  std::vector<float> atoms, support;

  Measures(int64_t count, bool near) : particles(count < 1000 ? 100 : 8), count(count) {
    std::mt19937 generator(5);
    std::uniform_real_distribution<float> uniform(-1, 1);
    std::normal_distribution<float> normal(0, 0.01f);
    support.resize(size_t(count * size));
    for (float& v : support) v = uniform(generator);
    atoms.resize(size_t(ensembles * particles * count * size));
    for (size_t i = 0; i < atoms.size(); ++i)
      atoms[i] = near ? support[i % support.size()] + normal(generator) : uniform(generator);
  }
  const float* ensemble(int turn) const { return atoms.data() + turn % ensembles * particles * count * size; }
};

void assign(benchmark::State& state, bool near) {
  const int threads = int(state.range(0));
  const Measures d(state.range(1), near);
  std::vector<int64_t> match(size_t(d.particles * d.count));
  std::vector<double> cost(size_t(d.particles));
  int turn = 0;
  for (auto _ : state) {
    cbk::assign<float>({d.ensemble(turn++), d.particles, d.count, d.size, d.support.data(), 1.1, nullptr, false,
                        match.data(), cost.data(), nullptr},
                       nullptr, d.particles, threads);
    benchmark::ClobberMemory();
  }
  state.counters["us_per_problem"] = benchmark::Counter(double(d.particles) * 1e-6 * double(state.iterations()),
                                                        benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

void update(benchmark::State& state) {
  const int threads = int(state.range(0));
  const Measures d(state.range(1), false);
  std::vector<float> out(size_t(d.particles * d.count * d.size));
  std::vector<int32_t> match(size_t(d.particles * d.count));
  for (size_t i = 0; i < match.size(); ++i) match[i] = int32_t(int64_t(i) % d.count);
  uint32_t step = 0;
  for (auto _ : state) {
    cbk::transport_update<float>({d.ensemble(0),
                                  out.data(),
                                  d.particles,
                                  d.count,
                                  d.size,
                                  d.support.data(),
                                  nullptr,
                                  match.data(),
                                  1.0,
                                  1.0,
                                  0.1,
                                  {7, 0, step++, 0}},
                                 threads);
    benchmark::ClobberMemory();
  }
  state.counters["ns_per_normal"] = benchmark::Counter(double(out.size()) * 1e-9 * double(state.iterations()),
                                                       benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

void threads_and_atoms(benchmark::internal::Benchmark* b) {
  b->ArgNames({"threads", "M"})->UseRealTime()->Unit(benchmark::kMillisecond);
  for (const int64_t count : {10, 50, 100, 200, 1000}) {
    b->Args({1, count});
    if (omp_get_max_threads() > 1) b->Args({omp_get_max_threads(), count});
  }
}

BENCHMARK_CAPTURE(assign, D_random, false)->Apply(threads_and_atoms);
BENCHMARK_CAPTURE(assign, D_near, true)->Apply(threads_and_atoms);
BENCHMARK(update)->Name("transport_update/D")->Apply(threads_and_atoms);

}  // namespace

BENCHMARK_MAIN();
