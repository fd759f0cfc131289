// The methods' steps on a minibatch in device memory.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "../cuda/gpu.hpp"
#include "../cuda/rows.hpp"

#include "../consensus/consensus_cuda.hpp"
#include "../hopping/hopping.hpp"
#include "../langevin/langevin_cuda.hpp"
#include "../update/update_cuda.hpp"
#include "report_cuda.hpp"
#include "training_cuda.hpp"

namespace cbk::device {

// A step's parameters as kernels read them in device memory.
template <class T>
struct Dials {
  StepNumbers<T> update;
  LangevinNumbers<T> langevin;
  DrawNumbers<T> draw;
  double alpha, friction_dt, dt, limit, decay;
  uint32_t step;
};

// Where a step stands in its segment of an epoch.
template <class T>
struct StepPlace {
  const Dials<T>* now;    // device memory
  uint32_t step;          // now->step when the step was enqueued: replayed, it may be another
  double* risk;           // [scored, tasks]
  double* ess;            // [tasks]
  const int64_t* subset;  // [scored], where not all particles are
  int64_t scored;
  bool chained;  // its kernels may start before the ones before them have ended: a kernel comes before the first
  Troubles* troubles;
};

struct StateArray {
  void* data = nullptr;
  int64_t bytes = 0;
};

// A method at work on its arrays.  A step enqueues kernels.
template <class T>
class Steps {
 public:
  Steps(const RunShape& shape, cudaStream_t stream);
  virtual ~Steps() = default;
  void set_task(const int32_t* host);             // [particles]; without it all follow point 0
  void share(uint32_t first, Exchange exchange);  // as Run::share
  virtual void step(const RiskProblem<T>& batch, const StepPlace<T>& place) = 0;

  // Laws of noise that are kernels of their own: steps that were captured with one cannot be replayed with another.
  int forms() const;
  int form_with(const EpochNumbers& numbers) const;  // 0 ... forms() - 1
  EpochNumbers numbers_with_form(EpochNumbers numbers, int form) const;
  void begin(const EpochNumbers& numbers) { numbers_ = numbers; }  // of the epoch
  virtual bool is_noisy() const { return false; }                  // a step draws the noise of cbo_update
  virtual int64_t parts() const { return 1; }           // a step has as many kernels as so many of another method
  virtual bool scores_itself() const { return false; }  // a step leaves place.risk alone and looks for troubles itself
  virtual bool reports_each() const { return false; }   // the row is of each particle; there are no points
  virtual uint32_t descents(uint32_t step) const { return step; }  // how many steps of Adam that step completes
  virtual double kicks() const { return 1; }                       // how many half kicks langevin_kick makes at once
  // A run's first step may need more than the others.
  virtual void open(const RiskProblem<T>&, const StepPlace<T>&) {}
  // Computes what depends on the inputs alone, for all steps of a segment of `samples` samples, from its first batch
  // on. bytes_ahead: what a step needs for it.
  virtual void look_ahead(const RiskProblem<T>&, int64_t) {}
  virtual int64_t bytes_ahead() const { return 0; }
  Dials<T> dials(uint32_t step) const;

  T* theta() const { return theta_.data(); }
  double* mean() const { return mean_.data(); }  // nullptr unless ranks share the particles
  // Whether they exchange something in the middle of a step, which no graph can do.
  bool exchanges() const { return static_cast<bool>(exchange_); }
  const T* reported() const { return points_.data() ? points_.data() : theta(); }
  virtual Alphas last_alphas(const Dials<T>* last) const { return {0, &last->alpha, 0}; }
  virtual void sum_up() {}  // what only a row tells, after an epoch's last step
  virtual const double* extras() const { return nullptr; }
  virtual int64_t extra_count() const { return 0; }
  const std::map<std::string, StateArray>& arrays() const { return arrays_; }

 protected:
  // An array that a later step depends on, zeros at first.
  template <class U>
  void own(const std::string& name, DeviceBuffer<U>& buffer, int64_t count) {
    buffer = DeviceBuffer<U>(count);
    const size_t bytes = size_t(count) * sizeof(U);
    check(cudaMemsetAsync(buffer.data(), 0, bytes, stream_), "memory of a run");
    arrays_[name] = {buffer.data(), int64_t(bytes)};
  }
  UpdateProblem<T> update_problem() const;
  AdamState<T> adam_state(uint32_t step) const;
  // Weight decay, if any, of theta (or of its atoms): of all rows of `size`, or of those that move.  rates: of each
  // row, or nullptr.
  void shrink(T* theta, const StepPlace<T>& place, const int64_t* moving = nullptr, int64_t rows = 0,
              const double* rates = nullptr) const;
  CudaStream on() const { return {reinterpret_cast<uintptr_t>(stream_)}; }
  NoiseKey key() const { return {shape_.seed, 0, 0, first_particle_}; }

  RunShape shape_;
  int64_t size_;
  cudaStream_t stream_;
  EpochNumbers numbers_{};
  uint32_t first_particle_ = 0;
  Exchange exchange_;
  DeviceBuffer<double> mean_, exchanged_;  // where ranks share the particles
  DeviceBuffer<T> theta_, points_, gradient_, first_, second_;
  DeviceBuffer<int32_t> task_;
  std::map<std::string, StateArray> arrays_;
};

template <class T>
std::unique_ptr<Steps<T>> make_steps(const RunShape& shape, cudaStream_t stream);
#define CBK_METHOD_STEPS(name, ...) \
  template <class T> \
  std::unique_ptr<Steps<T>> make_##name##_steps(const RunShape& shape, cudaStream_t stream);
CBK_CARD_METHODS(CBK_METHOD_STEPS)
#undef CBK_METHOD_STEPS

// Risks of the problem's particles on all tasks, out [particles, tasks]; with inputs of the tasks' own.
template <class T>
void score(const RiskProblem<T>& problem, bool own_inputs, double* out, CudaStream stream, Precision precision);

}  // namespace cbk::device
