// Runs on the GPU; the CPU's twin is training.hpp.
//
// A run owns its particles and all it needs on the device.  An epoch is submitted without waiting for it.  The host
// brings the order of samples and the parameters.  The device gathers the minibatches, steps, scores the result and
// writes one row of history.  From the second epoch on the steps are replayed as CUDA graphs.  What changes from step
// to step (the step's number, alpha, scheduled parameters) is read from device memory.  The first submission makes all
// graphs.  Later ones copy and launch, and take no memory.  Up to in_flight epochs may be pending.  The host waits
// where it wants a row or an array.
//
// Noise and roundings of the updates are the CPU's; risks are summed in another order.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "../risk/cuda/risk_cuda.hpp"
#include "../update/update.hpp"

namespace cbk::device {

// The methods that a card can run, and what each reads besides what all do: of an epoch's numbers (EpochNumbers), then
// of the numbers that only some methods have (RunShape).  make_<name>_steps makes a method's steps (steps_cuda.hpp).
#define CBK_CARD_METHODS(X) \
  X(cbo, "alpha drift diffusion dt floor radius friction", "subset subset_moves flies") \
  X(adam, "lr beta1 beta2 delta", "rated") \
  X(hybrid, "alpha drift diffusion dt radius lr beta1 beta2 delta", "") \
  X(hopping, "spread lr beta1 beta2 delta", "drawn mirrored atoms fraction rank in_span fit") \
  X(heavy_ball, "friction temperature dt", "") \
  X(gradient_flow, "drift diffusion dt", "") \
  X(transport, "alpha drift diffusion dt radius", "iterations exact")

#define CBK_METHOD_NAME(name, ...) name,
enum class Method { CBK_CARD_METHODS(CBK_METHOD_NAME) };
#undef CBK_METHOD_NAME

// What stays the same over a run.
struct RunShape {
  int device;
  Method method;
  Network net;
  Loss loss;
  int64_t samples, batch;  // batch 0: the data as they stand are each epoch's only batch
  int64_t tasks;
  bool own_inputs;    // x [tasks, samples, inputs], else [samples, inputs]
  int64_t particles;  // stored
  uint64_t seed;
  Noise noise;
  bool solve;  // alpha holds an effective sample size, and is solved for
  Precision precision;
  bool decays = false;        // weights do, in every step
  int64_t subset = 0;         // cbo: particles that a step scores, drawn anew for each; 0: all
  bool subset_moves = false;  // a step moves only those, else all
  bool flies = false;         // cbo: with friction
  int64_t drawn = 0;          // hopping: particles, and how they are drawn and weighed
  bool mirrored = false, atoms = false;
  double fraction = 0;
  int64_t rank = 0;        // of the first layer's noise; 0: full
  bool in_span = false;    // directions in the batch's span
  bool fit = false;        // the drift fits the differences of the pairs' risks
  int64_t iterations = 1;  // transport: of the barycenter in a step
  bool exact = false;      // and whether the row has the variance by distances solved anew
  bool rated = false;      // adam: each network has a learning rate of its own, the array "rates", which lr is not

  int64_t scored() const { return subset ? subset : particles; }
};
#define CBK_METHOD_NUMBERS(X) \
  X(decays) \
  X(subset) \
  X(subset_moves) \
  X(flies) X(drawn) X(mirrored) X(atoms) X(fraction) X(rank) X(in_span) X(fit) X(iterations) X(exact) X(rated)

// Where the data lie: float x and y, or int32 labels in y's place; float weights, or 0 for none.
struct RunData {
  uintptr_t x, y, weights;
  bool on_host;         // then they are copied
  CudaStream producer;  // else: the stream that wrote them
};

// An epoch's parameters; those that the method does not have are not looked at.  drift and diffusion come weighted by
// hybrid's mix, lr is its mix times dt.  decay is what a step takes off theta.  A coordinate whose standard deviation
// over the particles is at most `limit` is frozen.
#define CBK_EPOCH_NUMBERS(X) \
  X(alpha) \
  X(drift) \
  X(diffusion) \
  X(dt) X(floor) X(radius) X(lr) X(beta1) X(beta2) X(delta) X(friction) X(temperature) X(spread) X(limit) X(decay)
#define CBK_NUMBER(name) double name;
struct EpochNumbers {
  CBK_EPOCH_NUMBERS(CBK_NUMBER)
};
#undef CBK_NUMBER

// What a step asks of the other ranks, which have the rest of the particles, in its middle: the host answers.
//   "alphas"  from "risk" [scored, tasks] to "alphas" [tasks], where these are solved for
//   "weigh"   "exchange" has the "state" of gibbs_weights and then the "sums" [tasks, size], which are this rank's
//             means; the answer is what to multiply these by, or nothing
//   "sum"     the sums become all ranks' means, and the first [tasks] numbers of the state their ess
// scored: this rank's particles in the step.
using Exchange = std::function<std::vector<double>(const char* what, int64_t scored, uint32_t step)>;

class Run {
 public:
  static constexpr int in_flight = 8;  // epochs

  virtual ~Run() = default;

  // To be called before the first epoch where other ranks have particles too: number of this one's first, and how its
  // steps reach the others, which those do that have points.  There is then the array "mean" [size] of the particles
  // after an epoch, and where subsets have less than `subset` particles they end with -1.
  virtual void share(uint32_t first, Exchange exchange) = 0;

  // order [samples], a permutation; not looked at for batch 0.  subsets [steps, subset]: each step's particles.  Waits
  // where in_flight epochs are on their way.
  virtual void submit(const int64_t* order, const int64_t* subsets, uint32_t first_step,
                      const EpochNumbers& numbers) = 0;

  virtual int64_t submitted() const = 0;  // epochs
  // The row of an epoch, counted from 0 by submission, one of the last in_flight; waits for it:
  //   risks on the full data ([tasks] of the points, or [particles]), alphas [tasks], ess [tasks], variance of the
  //   particles, share of frozen coordinates, particles with a risk that is not finite (over the epoch), step and task
  //   that first had no finite risk at all (task -1: atoms were not finite; or -1, -1); then heavy_ball's kinetic
  //   energies and dissipated work [particles] each, or transport's objectives [tasks], variances by the coupling and
  //   solved anew, atoms moved, or the run's steps so far in which hopping's directions were free and not in_span
  virtual const double* row(int64_t epoch) = 0;
  virtual int64_t columns() const = 0;
  // What the same epoch reports: the points [tasks, size], or particle 0.
  virtual void point(int64_t epoch, void* host) = 0;
  virtual int64_t point_bytes() const = 0;

  // theta, points, first, second, rates, velocity, gradient, kinetic, dissipated, support, match, prices, partners:
  // those that the method has.  They wait.
  virtual void read(const std::string& name, void* host) = 0;
  virtual void write(const std::string& name, const void* host) = 0;
  virtual void* address(const std::string& name) = 0;
  virtual int64_t bytes_of(const std::string& name) const = 0;  // 0: it has none
};

// theta [particles, size] and task [particles] (or nullptr) in host memory.
template <class T>
std::unique_ptr<Run> make_run(const RunShape& shape, const RunData& data, const T* theta, const int32_t* task);

// Entries that a run must not be given: floats that are not finite, labels outside [0, outputs).  Waits.
template <class T>
int64_t count_not_finite(const T* values, int64_t count, CudaStream stream);
int64_t count_outside(const int32_t* values, int64_t count, int64_t end, CudaStream stream);

}  // namespace cbk::device
