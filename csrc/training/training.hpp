// Whole epochs of training: minibatches in their order, one step of a method on each.
//
//   risks (and gradients) on the batch -> consensus points -> the update, in place
#pragma once

#include "../consensus/consensus.hpp"
#include "../risk/risk.hpp"
#include "../update/update.hpp"

namespace cbk {

template <class T>
struct Epoch {
  RiskProblem<T> data;   // all samples; its particles are not looked at
  const int64_t* order;  // [data.samples], or nullptr: the data as they stand are the only batch
  int64_t batch;         // samples in a batch; the last one may be smaller
  uint32_t first_step;
};

// A method's arrays.  With a consensus, `update` moves the particles to `points`; with gradients, by Adam too.
template <class T>
struct Ensemble {
  UpdateProblem<T> update;  // out == theta; key.step is set by the epoch
  double* risk;             // [N, tasks]
  T* gradient;              // [N, D], or nullptr: Adam has no part
  AdamState<T> adam;        // step is set by the epoch
  T* points;                // [tasks, D], or nullptr: there is no consensus
  double *weights, *ess;    // [N, tasks], [tasks]
  double alpha;
  double target;   // NaN, or the effective sample size at which the alphas are solved for
  double* alphas;  // [tasks]
};

struct Outcome {
  int64_t not_finite = 0;  // over all steps: particles with a risk that is not finite
  int64_t failed = -1;     // a task on which no risk was finite; the epoch ended there
  uint32_t step = 0;       // of the step that failed
};

template <class T>
Outcome run_epoch(const Epoch<T>& epoch, Ensemble<T> ensemble, int num_threads);

}  // namespace cbk
