// Divides a gradient problem into tasks and runs them on all threads; the arithmetic stands in gradient_simd.cpp.
#include <omp.h>

#include <algorithm>

#include "../common/isa.hpp"
#include "../common/parallel.hpp"
#include "lists/list_packing.hpp"
#include "packing.hpp"
#include "plan.hpp"

namespace cbk {
namespace {

// Sums of losses [N] and gradients.
template <class T>
void run(const RiskProblem<T>& problem, const GradientPlan& plan, double* out, T* gradient, int num_threads) {
  const Network& net = problem.net;
  const GradientKernels<T>& kernels = isa_table().gradient<T>();
  const int64_t strip = 2 * kernels.lanes;
  const bool lists = plan.path == Path::lists, products = plan.path == Path::products;
  const int64_t strips = products ? divide_up(net.inputs, strip) : 0, size = net.size();

  const int64_t groups = divide_up(problem.particles, plan.group);
  const double work = nanoseconds(0.02, problem.particles, problem.samples, net.width, net.inputs + net.outputs + 4);
  const int threads = thread_count(num_threads, groups * plan.chunks, work);
  const int64_t scratch_size = round_up(kernels.scratch_size(net, plan), 64);
  const int64_t strips_size = plan.chunk * strips * strip;
  Chunks<T> batch(problem, plan);
  Buffer<T> columns(plan.chunks * strips_size), scratch(threads * scratch_size);
  const int64_t range = std::max(list_range_bytes / int64_t(kernels.list_block * sizeof(T)), int64_t(1));
  const int64_t entries = lists ? plan.chunk * net.inputs : 0;
  ListMemory<T> by_sample(lists ? plan.chunk * divide_up(net.inputs, range) + 1 : 0, entries);
  ListMemory<T> by_input(lists ? divide_up(plan.chunk, plan.tile) * net.inputs + 1 : 0, entries);
  InputLists<T> rows{}, inputs{};
  // with several chunks at a time each has its own sums, added in order afterwards
  const int64_t gradients = problem.particles * size;
  Buffer<double> sums(plan.chunks * problem.particles);
  Buffer<T> partial(plan.chunks > 1 ? plan.chunks * gradients : 0);

  std::fill_n(out, problem.particles, 0.0);
  Failure failure;
  for (int64_t wave = 0; wave < problem.samples; wave += batch.wave_samples()) {
    const int64_t chunks = batch.count(wave);
    std::fill_n(sums.data(), plan.chunks * problem.particles, 0.0);
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(dynamic, 1)
      for (int64_t i = 0; i < chunks; ++i)
        failure.guard([&] {
          const Chunk<T> chunk = batch.at(wave, i);
          const T* x = problem.x + chunk.first * net.inputs;
          batch.pack_targets(chunk);
          if (lists) {
            rows = pack_rows(x, chunk.samples, net.inputs, range, by_sample);
            inputs = pack_columns(x, chunk.samples, net.inputs, plan.tile, by_input);
            return;
          }
          pack_inputs(problem, plan.panel, chunk);
          if (products) pack_strips(x, chunk.samples, net.inputs, plan.chunk, strip, columns.data() + i * strips_size);
        });
#pragma omp for schedule(dynamic, 1)
      for (int64_t i = 0; i < groups * chunks; ++i)
        failure.guard([&] {
          const int64_t c = i / groups, n = i % groups * plan.group;
          const Chunk<T> chunk = batch.at(wave, c);
          T* into = plan.chunks > 1 ? partial.data() + c * gradients : gradient;
          kernels.evaluate({&net,
                            &plan,
                            problem.loss,
                            problem.theta + n * size,
                            std::min(plan.group, problem.particles - n),
                            {chunk.samples, chunk.x, chunk.y, chunk.weights, rows},
                            inputs,
                            columns.data() + c * strips_size,
                            T(1.0 / double(problem.samples)),
                            scratch.data() + omp_get_thread_num() * scratch_size,
                            sums.data() + c * problem.particles + n,
                            into + n * size,
                            plan.chunks == 1 && wave > 0});
        });
    }
    failure.rethrow();
    for (int64_t c = 0; c < chunks; ++c) {
      for (int64_t n = 0; n < problem.particles; ++n) out[n] += sums.data()[c * problem.particles + n];
      if (plan.chunks == 1) continue;
      const T* from = partial.data() + c * gradients;
      for (int64_t i = 0; i < gradients; ++i) gradient[i] = wave == 0 && c == 0 ? from[i] : gradient[i] + from[i];
    }
  }
}

}  // namespace

template <class T>
void risk_gradient(const RiskProblem<T>& problem, double* out, T* gradient, int num_threads) {
  const auto pass = [&](const RiskProblem<T>& left, int64_t first, const RiskShape& shape, Path path) {
    run<T>(left, plan_gradient(shape, path), out + first, gradient + first * problem.net.size(), num_threads);
  };
  on_path<T>(problem, shape_of(problem), Purpose::gradients, {out, gradient}, num_threads, pass);
  for (int64_t n = 0; n < problem.particles; ++n) out[n] /= double(problem.samples);
}

template void risk_gradient(const RiskProblem<float>&, double*, float*, int);
template void risk_gradient(const RiskProblem<double>&, double*, double*, int);

}  // namespace cbk
