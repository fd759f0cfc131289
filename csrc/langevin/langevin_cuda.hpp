// langevin.hpp on the GPU: the same bits for the same gradients.
//
// Given `now`, in device memory, its numbers count and not the arguments.
#pragma once

#include "../cuda/stream.hpp"
#include "langevin.hpp"

namespace cbk::device {

// What changes from step to step.
template <class T>
struct LangevinNumbers {
  LangevinCoefficients<T> drift;
  T kick;
  uint32_t step;
};
template <class T>
LangevinNumbers<T> langevin_numbers(double factor, double friction, double temperature, double dt, uint32_t step);

template <class T>
void langevin_drift(T* theta, T* velocity, const T* gradient, int64_t networks, int64_t size, double factor,
                    double friction, double temperature, double dt, NoiseKey key, CudaStream stream,
                    const LangevinNumbers<T>* now = nullptr);
template <class T>
void langevin_kick(T* velocity, const T* gradient, int64_t networks, int64_t size, double factor, double dt,
                   CudaStream stream, const LangevinNumbers<T>* now = nullptr);

}  // namespace cbk::device
