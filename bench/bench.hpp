// Workloads and reporting that the microbenchmarks share.  Names as in the README's table:
//   A   N=200,  M=100,  d=1,   C=1,  S=800,  ReLU, mse        At  the same with tanh
//   B   N=1000, M=20,   d=784, C=10, S=1000, ReLU, cross entropy, dense or with 19 % of the pixels non-zero
//   C   N=64,   M=4096, d=16,  C=1,  S=1024, tanh, mse
#pragma once

#include <benchmark/benchmark.h>

#include <cmath>
#include <random>
#include <vector>

#include "../csrc/common/isa.hpp"
#include "limits.hpp"

namespace bench {

struct Workload {
  cbk::Network net;
  cbk::Loss loss;
  int64_t particles, samples;
  double density = 1;

  double flops() const {  // of the two products
    return 2.0 * double(particles) * double(samples) * double(net.width) * double(net.inputs + net.outputs);
  }
};

inline Workload workload(char name) {
  using enum cbk::Activation;
  switch (name) {
    case 'A': return {{1, 100, 1, relu, 1.0 / 100, false}, cbk::LossKind::mse, 200, 800};
    case 't': return {{1, 100, 1, tanh, 1.0 / 100, false}, cbk::LossKind::mse, 200, 800};
    case 'B': return {{784, 20, 10, relu, 1.0 / 20, false}, cbk::LossKind::cross_entropy, 1000, 1000};
    case 's': return {{784, 20, 10, relu, 1.0 / 20, false}, cbk::LossKind::cross_entropy, 1000, 1000, 0.19};
    default: return {{16, 4096, 1, tanh, 1.0 / 4096, false}, cbk::LossKind::mse, 64, 1024};
  }
}

// Data of a workload; several ensembles, because on one repeated ensemble the branch predictor learns the particles.
struct Data {
  static constexpr int ensembles = 3;
  std::vector<float> theta, x, y;
  std::vector<int32_t> labels;

  explicit Data(const Workload& w) {
    std::mt19937 generator(5);
    std::normal_distribution<float> normal;
    std::uniform_real_distribution<float> unit(0, 1);
    theta.resize(size_t(ensembles * w.particles * w.net.size()));
    for (float& v : theta) v = normal(generator);
    x.resize(size_t(w.samples * w.net.inputs));
    for (float& v : x) v = double(unit(generator)) < w.density ? unit(generator) : 0;
    y.resize(size_t(w.samples * w.net.outputs));
    for (float& v : y) v = normal(generator);
    for (int64_t s = 0; s < w.samples; ++s) labels.push_back(int32_t(int64_t(generator()) % w.net.outputs));
  }

  cbk::RiskProblem<float> problem(const Workload& w, int turn) const {
    const float* ensemble = theta.data() + turn % ensembles * w.particles * w.net.size();
    return {w.net, w.loss, ensemble, w.particles, x.data(), w.samples, y.data(), labels.data(), 1};
  }
};

inline double& fma_limit(int threads) {
  static double rate[2] = {fma_rate(1), fma_rate(omp_get_max_threads())};
  return rate[threads > 1];
}
inline double& copy_limit(int threads) {
  static double rate[2] = {copy_rate(1), copy_rate(omp_get_max_threads())};
  return rate[threads > 1];
}

// `perfect` seconds is what the limit allows; the counter is perfect / measured.
inline void report_share(benchmark::State& state, const char* name, double perfect) {
  state.counters[name] = benchmark::Counter(perfect * double(state.iterations()), benchmark::Counter::kIsRate);
}

inline void one_and_all_threads(benchmark::internal::Benchmark* b) {
  b->Arg(1)->UseRealTime()->Unit(benchmark::kMillisecond);
  if (omp_get_max_threads() > 1) b->Arg(omp_get_max_threads());
}

}  // namespace bench
