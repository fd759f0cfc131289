// Divides a risk problem into tasks and runs them on all threads; the arithmetic stands in risk_simd.cpp.
#include <omp.h>

#include <algorithm>

#include "../common/isa.hpp"
#include "../common/parallel.hpp"
#include "lists/list_packing.hpp"
#include "packing.hpp"
#include "plan.hpp"

namespace cbk {
namespace {

// Sums of losses [N][tasks] and outputs [N][S][C]; either may be null.
template <class T>
void run(const RiskProblem<T>& problem, const RiskPlan& plan, double* sums, T* outputs, int num_threads) {
  const Network& net = problem.net;
  const RiskKernels<T>& kernels = isa_table().risk<T>();
  const int64_t tasks = problem.tasks;
  const bool lists = plan.path == Path::lists;

  const int64_t groups = divide_up(problem.particles, plan.group);
  const double work = nanoseconds(0.01, problem.particles, problem.samples, net.width, net.inputs + net.outputs + 4);
  const int threads = thread_count(num_threads, groups * plan.chunks, work);
  const int64_t work_size = round_up(kernels.scratch_size(net, plan), 64);
  const int64_t scratch_size = work_size + (problem.draw ? round_up(plan.group * net.size(), 64) : 0);
  const bool packs_own = groups == 1 && plan.chunks > 1;  // a thread reads what it packed, from its own cache
  Chunks<T> batch(problem, plan, packs_own ? threads : plan.chunks);
  Buffer<T> scratch(threads * scratch_size);
  InputLists<T> rows{};
  const int64_t range = std::max(list_range_bytes / int64_t(kernels.list_block * sizeof(T)), int64_t(1));
  ListMemory<T> memory(lists ? plan.chunk * divide_up(net.inputs, range) + 1 : 0, lists ? plan.chunk * net.inputs : 0);
  // with several chunks at a time each has its own sums, added in order afterwards
  const int64_t results = problem.particles * tasks;
  Buffer<double> partial(plan.chunks > 1 ? plan.chunks * results : 0);

  Failure failure;
  if (sums) std::fill_n(sums, results, 0.0);
  for (int64_t wave = 0; wave < problem.samples; wave += batch.wave_samples()) {
    const int64_t chunks = batch.count(wave);
    if (plan.chunks > 1) std::fill_n(partial.data(), plan.chunks * results, 0.0);
    const auto evaluate = [&](const Chunk<T>& chunk, int64_t i, int64_t group) {
      const int64_t first = group * plan.group, count = std::min(plan.group, problem.particles - first);
      T* own = scratch.data() + omp_get_thread_num() * scratch_size;
      const T* theta = problem.draw ? own + work_size : problem.theta + first * net.size();
      if (problem.draw) draw_rows(*problem.draw, first, count, net.size(), own + work_size);
      double* into = plan.chunks > 1 ? partial.data() + i * results : sums;
      kernels.evaluate({&net,
                        &plan,
                        problem.loss,
                        tasks,
                        theta,
                        count,
                        {chunk.samples, chunk.x, chunk.y, chunk.weights, rows},
                        own,
                        into + first * tasks,
                        outputs ? outputs + (first * problem.samples + chunk.first) * net.outputs : nullptr,
                        problem.samples * net.outputs});
    };
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(dynamic, 1)
      for (int64_t i = 0; i < chunks; ++i)
        failure.guard([&] {
          const Chunk<T> chunk = batch.at(wave, i, packs_own ? omp_get_thread_num() : i);
          batch.pack_targets(chunk);
          if (lists)
            rows = pack_rows(problem.x + chunk.first * net.inputs, chunk.samples, net.inputs, range, memory);
          else
            pack_inputs(problem, plan.panel, chunk);
          if (packs_own) evaluate(chunk, i, 0);
        });
#pragma omp for schedule(dynamic, 1)
      for (int64_t i = 0; i < (packs_own ? 0 : groups * chunks); ++i)
        failure.guard([&] { evaluate(batch.at(wave, i / groups, i / groups), i / groups, i % groups); });
    }
    failure.rethrow();
    if (plan.chunks > 1)
      for (int64_t i = 0; i < chunks; ++i)
        for (int64_t j = 0; j < results; ++j) sums[j] += partial.data()[i * results + j];
  }
}

// The one particle and task n of a problem with its own task for each.
template <class T>
RiskProblem<T> pair_at(const RiskProblem<T>& problem, int64_t x_stride, int64_t n) {
  RiskProblem<T> own = problem;
  own.particles = own.tasks = 1;
  own.theta += n * problem.net.size();
  own.x += n * x_stride;
  if (own.y) own.y += n * problem.samples * problem.net.outputs;
  if (own.labels) own.labels += n * problem.samples;
  return own;
}

}  // namespace

template <class T>
void forward(const RiskProblem<T>& problem, T* out, int num_threads) {
  const RiskShape shape = shape_of(problem);
  run(problem, plan_risk(shape, choose_path(shape, Purpose::outputs)), nullptr, out, num_threads);
}

template <class T>
void risk(const RiskProblem<T>& problem, double* out, int num_threads) {
  const auto pass = [&](const RiskProblem<T>& left, int64_t first, const RiskShape& shape, Path path) {
    run<T>(left, plan_risk(shape, path), out + first * problem.tasks, nullptr, num_threads);
  };
  on_path<T>(problem, shape_of(problem), Purpose::risks, {out}, num_threads, pass);
  for (int64_t i = 0; i < problem.particles * problem.tasks; ++i) out[i] /= double(problem.samples);
}

template <class T>
void own_risks(const RiskProblem<T>& problem, int64_t x_stride, double* out, int num_threads) {
  const auto pass = [&](const RiskProblem<T>& left, int64_t first, RiskShape shape, Path path) {
    shape.particles = shape.tasks = 1;
    for (int64_t n = first; n < first + left.particles; ++n)
      run<T>(pair_at(problem, x_stride, n), plan_risk(shape, path), out + n, nullptr, num_threads);
  };
  // lists, and knots unless the batch is shared, would serve one particle each: they do not pay
  const RiskShape shape =
      shape_of<T>(problem.net, problem.loss, problem.particles, problem.samples, problem.particles, 1.0);
  on_path<T>(problem, shape, x_stride == 0 ? Purpose::risks : Purpose::outputs, {out, nullptr, true}, num_threads,
             pass);
  for (int64_t n = 0; n < problem.particles; ++n) out[n] /= double(problem.samples);
}

template void forward(const RiskProblem<float>&, float*, int);
template void forward(const RiskProblem<double>&, double*, int);
template void risk(const RiskProblem<float>&, double*, int);
template void risk(const RiskProblem<double>&, double*, int);
template void own_risks(const RiskProblem<float>&, int64_t, double*, int);
template void own_risks(const RiskProblem<double>&, int64_t, double*, int);

}  // namespace cbk
