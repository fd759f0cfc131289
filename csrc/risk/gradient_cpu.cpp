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

// The samples wave by wave, each in chunks: these are packed, every group of particles is evaluated on each, and the
// sums are added up.
template <class T>
class Tasks {
 public:
  Tasks(const RiskProblem<T>& problem, const GradientPlan& plan, T* gradient, int num_threads)
      : problem_(problem),
        plan_(plan),
        gradient_(gradient),
        groups_(divide_up(problem.particles, plan.group)),
        threads_(thread_count(num_threads, groups_ * plan.chunks,
                              nanoseconds(0.02, problem.particles, problem.samples, problem.net.width,
                                          problem.net.inputs + problem.net.outputs + 4))),
        scratch_size_(round_up(kernels_.scratch_size(problem.net, plan), 64)),
        strips_size_(products_ ? plan.chunk * divide_up(problem.net.inputs, strip_) * strip_ : 0),
        batch_(problem, plan, plan.chunks),
        strips_(plan.chunks * strips_size_),
        scratch_(threads_ * scratch_size_),
        by_sample_(lists_ ? plan.chunk * divide_up(problem.net.inputs, range_) + 1 : 0, entries_),
        by_input_(lists_ ? divide_up(plan.chunk, plan.tile) * problem.net.inputs + 1 : 0, entries_),
        sums_(plan.chunks * problem.particles),
        partial_(plan.chunks > 1 ? plan.chunks * gradients_ : 0) {}

  // Turns to the wave whose first sample this is.
  void begin(int64_t wave) {
    wave_ = wave, chunks_ = batch_.count(wave);
    std::fill_n(sums_.data(), plan_.chunks * problem_.particles, 0.0);
  }
  int64_t next() const { return wave_ + batch_.wave_samples(); }
  int64_t chunks() const { return chunks_; }
  int64_t tasks() const { return groups_ * chunks_; }
  int threads() const { return threads_; }

  void pack(int64_t i) {
    const Chunk<T> chunk = batch_.at(wave_, i, i);
    const int64_t inputs = problem_.net.inputs;
    const T* x = problem_.x + chunk.first * inputs;
    batch_.pack_targets(chunk);
    if (lists_) {
      rows_ = pack_rows(x, chunk.samples, inputs, range_, by_sample_);
      columns_ = pack_columns(x, chunk.samples, inputs, plan_.tile, by_input_);
      return;
    }
    pack_inputs(problem_, plan_.panel, chunk);
    if (products_) pack_strips(x, chunk.samples, inputs, plan_.chunk, strip_, strips_.data() + i * strips_size_);
  }

  void evaluate(int64_t i) {
    const int64_t c = i / groups_, n = i % groups_ * plan_.group, size = problem_.net.size();
    const Chunk<T> chunk = batch_.at(wave_, c, c);
    T* into = plan_.chunks > 1 ? partial_.data() + c * gradients_ : gradient_;
    kernels_.evaluate({&problem_.net,
                       &plan_,
                       problem_.loss,
                       problem_.theta + n * size,
                       std::min(plan_.group, problem_.particles - n),
                       {chunk.samples, chunk.x, chunk.y, chunk.weights, rows_},
                       columns_,
                       strips_.data() + c * strips_size_,
                       T(1.0 / double(problem_.samples)),
                       scratch_.data() + omp_get_thread_num() * scratch_size_,
                       sums_.data() + c * problem_.particles + n,
                       into + n * size,
                       plan_.chunks == 1 && wave_ > 0});
  }

  // Added in the chunks' order, not in the order in which threads finish.
  void add_up(double* out) {
    for (int64_t c = 0; c < chunks_; ++c)
      for (int64_t n = 0; n < problem_.particles; ++n) out[n] += sums_.data()[c * problem_.particles + n];
    if (plan_.chunks == 1) return;
    constexpr int64_t piece = 8192;
    const int64_t pieces = divide_up(gradients_, piece);
    parallel_for(pieces, int(std::min<int64_t>(threads_, pieces)), [&](int64_t task) {
      const int64_t end = std::min((task + 1) * piece, gradients_);
      for (int64_t c = 0; c < chunks_; ++c) {
        const T* from = partial_.data() + c * gradients_;
        for (int64_t i = task * piece; i < end; ++i)
          gradient_[i] = wave_ == 0 && c == 0 ? from[i] : gradient_[i] + from[i];
      }
    });
  }

 private:
  const RiskProblem<T>& problem_;
  const GradientPlan& plan_;
  T* const gradient_;
  const GradientKernels<T>& kernels_ = isa_table().gradient<T>();
  const bool lists_ = plan_.path == Path::lists, products_ = plan_.path == Path::products;
  const int64_t strip_ = 2 * kernels_.lanes, groups_, gradients_ = problem_.particles * problem_.net.size();
  const int64_t range_ = std::max(list_range_bytes / int64_t(kernels_.list_block * sizeof(T)), int64_t(1));
  const int64_t entries_ = lists_ ? plan_.chunk * problem_.net.inputs : 0;

  const int threads_;
  const int64_t scratch_size_, strips_size_;
  Chunks<T> batch_;
  Buffer<T> strips_, scratch_;
  ListMemory<T> by_sample_, by_input_;
  InputLists<T> rows_{}, columns_{};
  Buffer<double> sums_;            // of losses
  Buffer<T> partial_;              // with several chunks at a time, each one's gradients
  int64_t wave_ = 0, chunks_ = 0;  // the first sample of this wave, and its number of chunks
};

// Sums of losses [N] and gradients.
template <class T>
void run(const RiskProblem<T>& problem, const GradientPlan& plan, double* out, T* gradient, int num_threads) {
  Tasks<T> tasks(problem, plan, gradient, num_threads);
  std::fill_n(out, problem.particles, 0.0);
  Failure failure;
  for (int64_t wave = 0; wave < problem.samples; wave = tasks.next()) {
    tasks.begin(wave);
#pragma omp parallel num_threads(tasks.threads())
    {
#pragma omp for schedule(dynamic, 1)
      for (int64_t i = 0; i < tasks.chunks(); ++i) failure.guard([&] { tasks.pack(i); });
#pragma omp for schedule(dynamic, 1)
      for (int64_t i = 0; i < tasks.tasks(); ++i) failure.guard([&] { tasks.evaluate(i); });
    }
    failure.rethrow();
    tasks.add_up(out);
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
