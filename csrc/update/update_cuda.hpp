// update.hpp on the GPU: the same noise and roundings; distances are summed in another order.  All arrays of the
// problem are device memory.  A task outside [0, tasks) makes its particle NaN.
//
// Where `now` is given, in device memory, steps take their numbers from there.  The problem's own numbers then decide
// nothing but the form of the noise.
#pragma once

#include "../cuda/stream.hpp"
#include "update.hpp"

namespace cbk::device {

// What changes from step to step.
template <class T>
struct StepNumbers {
  T a, b, floor;     // UpdateRow's
  double amplitude;  // b where the distance multiplies it
  double radius;
  AdamCoefficients<T> adam;
  double bias;  // 1 - beta1^step: what a learning rate of a particle's own is divided by
  uint32_t step;
};

// adam may be nullptr.
template <class T>
StepNumbers<T> numbers_of(const UpdateProblem<T>& problem, const AdamState<T>* adam);

template <class T>
void cbo_update(const UpdateProblem<T>& problem, int64_t tasks, CudaStream stream, const StepNumbers<T>* now = nullptr);
template <class T>
void hybrid_update(const UpdateProblem<T>& problem, int64_t tasks, const AdamState<T>& adam, CudaStream stream,
                   const StepNumbers<T>* now = nullptr);
template <class T>
void adam_update(const T* theta, T* out, int64_t particles, int64_t size, const AdamState<T>& adam, CudaStream stream,
                 const StepNumbers<T>* now = nullptr);

}  // namespace cbk::device
