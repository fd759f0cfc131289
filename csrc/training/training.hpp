// Whole epochs of training: minibatches in their order, one step of a method on each.
//
//   risks (and gradients) on the batch -> consensus points -> the update, in place
#pragma once

#include "../consensus/consensus.hpp"
#include "../hopping/low_rank.hpp"
#include "../risk/risk.hpp"
#include "../update/update.hpp"

namespace cbk {

template <class T>
struct Epoch {
  RiskProblem<T> data;   // all samples; its particles are not looked at
  const int64_t* order;  // [data.samples], or nullptr: the data as they stand are the only batch
  int64_t batch;         // samples in a batch; the last one may be smaller
  uint32_t first_step;
  double decay = 0;  // of the particles, in each step between the scores and the move; of Adam's rates, times these
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

// Consensus hopping: the ensemble of each step is drawn around `center` [D].
template <class T>
struct Hops {
  Draw<T> draw;         // center is what moves; key.step counts from 0
  const int32_t* atom;  // coordinate -> atom, or nullptr: the scope is the network
  LowRank noise;        // rank 0: full
  double fraction;
  bool fit;  // the differences of pairs' risks, of atoms with noise of low rank
  T *center, *gradient;
  AdamState<T> adam;
};

struct Hopped {
  HoppingStep last;       // its ess 0: no risk was finite, and the epoch ended there
  int64_t nonfinite = 0;  // over all steps
  bool spanned = true;    // whether all directions were in their batch's span, where they were to be
  uint32_t step = 0;      // of the step that failed
};

template <class T>
Hopped run_hopping_epoch(const Epoch<T>& epoch, Hops<T> hops, int num_threads);

}  // namespace cbk
