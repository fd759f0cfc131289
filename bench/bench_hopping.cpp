#include "../csrc/hopping/hopping.hpp"

#include "bench.hpp"

namespace {

// One step's drift: risks of the drawn ensemble, weights, and the sum over its normals drawn once more.
void gradient(benchmark::State& state, char name, bool atoms, int64_t particles) {
  bench::Workload w = bench::workload(name);
  if (atoms) w.samples = 100;
  const bench::Data data(w);
  const int threads = int(state.range(0));
  const int64_t coordinates = w.net.inputs + 1 + w.net.outputs;
  std::vector<int32_t> atom(size_t(w.net.width * coordinates));
  for (size_t i = 0; i < atom.size(); ++i) atom[i] = int32_t(int64_t(i) % w.net.width);
  std::vector<float> gradient(size_t(w.net.size()));
  cbk::Draw<float> draw{data.theta.data(), 0.1f, true, particles, {7, 0, 0, 0}};
  for (auto _ : state) {
    ++draw.key.step;
    cbk::RiskProblem<float> problem = data.problem(w, 0);
    problem.particles = particles;
    problem.draw = &draw;
    benchmark::DoNotOptimize(
        cbk::hopping_gradient(problem, 0.0, atoms ? atom.data() : nullptr, gradient.data(), threads));
  }
  state.counters["particles_per_second"] =
      benchmark::Counter(double(particles * state.iterations()), benchmark::Counter::kIsRate);
}

// Weights by rank of N risks, and of N risks for each of 100 atoms.
void weights(benchmark::State& state, int64_t particles, int64_t atoms) {
  const int threads = int(state.range(0));
  std::mt19937 generator(5);
  std::uniform_real_distribution<double> unit(0, 1);
  std::vector<double> risk(static_cast<size_t>(particles * atoms)), ess(static_cast<size_t>(atoms)), work;
  for (double& r : risk) r = unit(generator);
  for (auto _ : state) {
    work = risk;
    benchmark::DoNotOptimize(cbk::hopping_weights(work.data(), particles, atoms, true, 0.0, ess.data(), threads));
  }
  state.counters["ns_per_risk"] = benchmark::Counter(double(particles * atoms * state.iterations()) / 1e9,
                                                     benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

BENCHMARK_CAPTURE(gradient, A, 'A', false, 200)->Apply(bench::one_and_all_threads);
BENCHMARK_CAPTURE(gradient, A_one_block, 'A', false, cbk::block_risks)->Apply(bench::one_and_all_threads);
BENCHMARK_CAPTURE(gradient, A_atoms, 'A', true, 200)->Apply(bench::one_and_all_threads);
BENCHMARK_CAPTURE(gradient, B_atoms, 'B', true, 200)->Apply(bench::one_and_all_threads);
BENCHMARK_CAPTURE(weights, A, 200, 1)->Apply(bench::one_and_all_threads);
BENCHMARK_CAPTURE(weights, A_one_block, cbk::block_risks, 1)->Apply(bench::one_and_all_threads);
BENCHMARK_CAPTURE(weights, A_atoms, 200, 100)->Apply(bench::one_and_all_threads);

}  // namespace

BENCHMARK_MAIN();
