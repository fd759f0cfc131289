#include "training.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "../common/parallel.hpp"

namespace cbk {
namespace {

constexpr int64_t gathered_rows = 32;
// Of several tasks; of one.
constexpr int64_t gathered_bytes(int64_t tasks) { return tasks > 1 ? 4 << 20 : 1 << 19; }

// An epoch's minibatches, gathered in order.  Of several tasks as many at once as fit a few MB: a task's targets are
// then read once for all of them.  Else as many as stay in the cache until they are used, at least one.
template <class T>
class Minibatches {
 public:
  // gathers: copies inputs; else a batch has the whole x, and its rows.
  Minibatches(const Epoch<T>& epoch, bool gathers, int num_threads)
      : epoch_(epoch),
        gathers_(gathers),
        threads_(num_threads),
        ahead_(std::clamp(gathered_bytes(epoch.data.tasks) / row_bytes(epoch) / epoch.batch, int64_t(1),
                          divide_up(epoch.data.samples, epoch.batch)) *
               epoch.batch),
        x_(epoch.order && gathers ? ahead_ * epoch.data.net.inputs : 0),
        y_(epoch.order && epoch.data.y ? ahead_ * epoch.data.tasks * epoch.data.net.outputs : 0),
        labels_(epoch.order && epoch.data.labels ? ahead_ * epoch.data.tasks : 0),
        weights_(epoch.order && epoch.data.weights ? ahead_ : 0) {}

  // The problem of the samples from position `first` of the order on; first = 0, batch, 2 batch, ...
  RiskProblem<T> at(int64_t first) {
    const RiskProblem<T>& data = epoch_.data;
    RiskProblem<T> problem = data;
    if (!epoch_.order) return problem;
    if (first % ahead_ == 0) gather(first, std::min(ahead_, data.samples - first));
    const int64_t start = first % ahead_;
    problem.samples = std::min(epoch_.batch, data.samples - first);
    if (gathers_)
      problem.x = x_.data() + start * data.net.inputs;
    else
      problem.rows = epoch_.order + first;
    if (data.y) problem.y = y_.data() + start * data.tasks * data.net.outputs;
    if (data.labels) problem.labels = labels_.data() + start * data.tasks;
    if (data.weights) problem.weights = weights_.data() + start;
    return problem;
  }

 private:
  static int64_t row_bytes(const Epoch<T>& epoch) {
    const RiskProblem<T>& data = epoch.data;
    return (data.net.inputs + (data.y ? data.tasks * data.net.outputs : 0)) * int64_t(sizeof(T)) +
           (data.labels ? data.tasks * int64_t(sizeof(int32_t)) : 0);
  }

  void gather(int64_t first, int64_t count) {
    const RiskProblem<T>& data = epoch_.data;
    if (gathers_) take(data.x, data.net.inputs, 1, first, count, x_.data());
    if (data.y) take(data.y, data.net.outputs, data.tasks, first, count, y_.data());
    if (data.labels) take(data.labels, 1, data.tasks, first, count, labels_.data());
    if (data.weights) take(data.weights, 1, 1, first, count, weights_.data());
  }

  // from [tasks, samples, columns] -> batch by batch [tasks, samples of the batch, columns]
  template <class U>
  void take(const U* from, int64_t columns, int64_t tasks, int64_t first, int64_t count, U* to) const {
    constexpr int64_t worth_threads = 32768;
    const int64_t batches = divide_up(count, epoch_.batch), parts = divide_up(epoch_.batch, gathered_rows);
    const double work = nanoseconds(1, tasks, count, columns);
    const int64_t all = tasks * batches * parts;
    const int threads = tasks * count * columns > worth_threads ? thread_count(threads_, all, work) : 1;
    parallel_for(all, threads, [&](int64_t i) {
      Paced paced;
      const int64_t t = i / parts / batches, start = i / parts % batches * epoch_.batch;
      const int64_t own = std::min(epoch_.batch, count - start), begin = std::min(i % parts * gathered_rows, own);
      const int64_t size = std::min(gathered_rows, own - begin);
      const U* source = from + t * epoch_.data.samples * columns;
      const int64_t* rows = epoch_.order + first + start + begin;
      paced(10 * size * columns);
      U* target = to + (start * tasks + t * own + begin) * columns;
      if (columns == 1)
        for (int64_t j = 0; j < size; ++j) target[j] = source[rows[j]];
      else
        for (int64_t j = 0; j < size; ++j)
          std::memcpy(target + j * columns, source + rows[j] * columns, size_t(columns) * sizeof(U));
    });
  }

  const Epoch<T>& epoch_;
  const bool gathers_;
  int threads_;
  int64_t ahead_;  // samples gathered at once: whole batches
  Buffer<T> x_, y_;
  Buffer<int32_t> labels_;
  Buffer<T> weights_;
};

// theta -= decay theta.
template <class T>
void shrink(T* theta, int64_t count, double decay, int num_threads) {
  constexpr int64_t block = 16384;
  const int64_t blocks = divide_up(count, block);
  parallel_for(blocks, thread_count(num_threads, blocks, nanoseconds(0.2, count)), [=](int64_t i) {
    const int64_t end = std::min((i + 1) * block, count);
    for (int64_t j = i * block; j < end; ++j) theta[j] -= T(decay) * theta[j];
  });
}

}  // namespace

template <class T>
Outcome run_epoch(const Epoch<T>& epoch, Ensemble<T> ensemble, int num_threads) {
  UpdateProblem<T>& update = ensemble.update;
  const int64_t particles = update.particles, size = update.size, tasks = epoch.data.tasks;
  Minibatches<T> minibatches(epoch, true, num_threads);
  if (!ensemble.points) ensemble.adam.decay = epoch.decay;
  Outcome outcome;
  outcome.step = epoch.first_step;
  for (int64_t first = 0; first < epoch.data.samples; first += epoch.batch, ++outcome.step) {
    RiskProblem<T> problem = minibatches.at(first);
    problem.theta = update.theta, problem.particles = particles;
    update.key.step = ensemble.adam.step = outcome.step;
    if (ensemble.gradient)
      risk_gradient(problem, ensemble.risk, ensemble.gradient, num_threads);
    else
      risk(problem, ensemble.risk, num_threads);

    if (ensemble.points) {
      const bool solve = !std::isnan(ensemble.target);
      const RiskCheck check =
          solve ? consensus_at_ess(update.theta, particles, size, ensemble.risk, tasks, ensemble.target,
                                   ensemble.alphas, ensemble.points, ensemble.weights, ensemble.ess, num_threads)
                : consensus(update.theta, particles, size, ensemble.risk, tasks, ensemble.alpha, ensemble.points,
                            ensemble.weights, ensemble.ess, num_threads);
      outcome.not_finite += check.not_finite;
      if ((outcome.failed = check.failed) >= 0) return outcome;
    } else {
      outcome.not_finite +=
          std::count_if(ensemble.risk, ensemble.risk + particles, [](double r) { return !std::isfinite(r); });
    }

    if (ensemble.points && epoch.decay > 0) shrink(update.out, particles * size, epoch.decay, num_threads);
    if (!ensemble.points)
      adam_update(update.theta, update.out, particles, size, ensemble.adam, num_threads);
    else if (ensemble.gradient)
      hybrid_update(update, ensemble.adam, num_threads);
    else
      cbo_update(update, num_threads);
    poll();
  }
  return outcome;
}

template <class T>
Hopped run_hopping_epoch(const Epoch<T>& epoch, Hops<T> hops, int num_threads) {
  const int64_t size = epoch.data.net.size();
  Minibatches<T> minibatches(epoch, hops.noise.rank == 0, num_threads);
  hops.adam.decay = epoch.decay;
  Hopped hopped;
  hopped.step = hops.draw.key.step = epoch.first_step;
  for (int64_t first = 0; first < epoch.data.samples; first += epoch.batch) {
    RiskProblem<T> problem = minibatches.at(first);
    problem.draw = &hops.draw, problem.particles = hops.draw.particles;
    bool spanned = false;
    hopped.last = hops.noise.rank == 0 ? hopping_gradient(problem, hops.fraction, hops.atom, hops.gradient, num_threads)
                                       : low_rank_gradient(problem, hops.noise, hops.fraction, hops.fit,
                                                           hops.atom != nullptr, hops.gradient, spanned, num_threads);
    hopped.nonfinite += hopped.last.nonfinite;
    hopped.spanned = hopped.spanned && (spanned || !hops.noise.batch);
    if (hopped.last.ess == 0) return hopped;
    adam_update(hops.center, hops.center, 1, size, hops.adam, num_threads);
    hopped.step = ++hops.draw.key.step, ++hops.adam.step;
    poll();
  }
  return hopped;
}

template Hopped run_hopping_epoch(const Epoch<float>&, Hops<float>, int);
template Hopped run_hopping_epoch(const Epoch<double>&, Hops<double>, int);
template Outcome run_epoch(const Epoch<float>&, Ensemble<float>, int);
template Outcome run_epoch(const Epoch<double>&, Ensemble<double>, int);

}  // namespace cbk
