#include "training.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "../common/parallel.hpp"

namespace cbk {
namespace {

// Memory for one minibatch, filled anew for each.
template <class T>
class Minibatch {
 public:
  Minibatch(const Epoch<T>& epoch, int num_threads)
      : epoch_(epoch),
        threads_(num_threads),
        x_(epoch.order ? epoch.batch * epoch.data.net.inputs : 0),
        y_(epoch.order && epoch.data.y ? epoch.batch * epoch.data.tasks * epoch.data.net.outputs : 0),
        labels_(epoch.order && epoch.data.labels ? epoch.batch * epoch.data.tasks : 0) {}

  // The problem of the samples from position `first` of the order on.
  RiskProblem<T> gather(int64_t first) {
    RiskProblem<T> problem = epoch_.data;
    if (!epoch_.order) return problem;
    const RiskProblem<T>& data = epoch_.data;
    const int64_t* rows = epoch_.order + first;
    problem.samples = std::min(epoch_.batch, data.samples - first);
    problem.x = take(data.x, data.net.inputs, 1, rows, problem.samples, x_.data());
    if (data.y) problem.y = take(data.y, data.net.outputs, data.tasks, rows, problem.samples, y_.data());
    if (data.labels) problem.labels = take(data.labels, 1, data.tasks, rows, problem.samples, labels_.data());
    return problem;
  }

 private:
  // from [tasks, samples, columns] -> to [tasks, count, columns]
  template <class U>
  const U* take(const U* from, int64_t columns, int64_t tasks, const int64_t* rows, int64_t count, U* to) const {
    constexpr int64_t worth_threads = 32768;
    const int threads = tasks > 1 && tasks * count > worth_threads ? thread_count(threads_, tasks) : 1;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t t = 0; t < tasks; ++t) {
      const U* source = from + t * epoch_.data.samples * columns;
      U* target = to + t * count * columns;
      if (columns == 1)
        for (int64_t i = 0; i < count; ++i) target[i] = source[rows[i]];
      else
        for (int64_t i = 0; i < count; ++i)
          std::memcpy(target + i * columns, source + rows[i] * columns, size_t(columns) * sizeof(U));
    }
    return to;
  }

  const Epoch<T>& epoch_;
  int threads_;
  Buffer<T> x_, y_;
  Buffer<int32_t> labels_;
};

}  // namespace

template <class T>
Outcome run_epoch(const Epoch<T>& epoch, Ensemble<T> ensemble, int num_threads) {
  UpdateProblem<T>& update = ensemble.update;
  const int64_t particles = update.particles, size = update.size, tasks = epoch.data.tasks;
  Minibatch<T> minibatch(epoch, num_threads);
  Outcome outcome;
  outcome.step = epoch.first_step;
  for (int64_t first = 0; first < epoch.data.samples; first += epoch.batch, ++outcome.step) {
    RiskProblem<T> problem = minibatch.gather(first);
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

    if (!ensemble.gradient)
      cbo_update(update, num_threads);
    else if (ensemble.points)
      hybrid_update(update, ensemble.adam, num_threads);
    else
      adam_update(update.theta, update.out, particles, size, ensemble.adam, num_threads);
    epoch.after_step();
  }
  return outcome;
}

template Outcome run_epoch(const Epoch<float>&, Ensemble<float>, int);
template Outcome run_epoch(const Epoch<double>&, Ensemble<double>, int);

}  // namespace cbk
