// langevin.hpp on the GPU: the same bits for the same gradients.
#pragma once

#include "../cuda/stream.hpp"
#include "langevin.hpp"

namespace cbk::device {

template <class T>
void langevin_drift(T* theta, T* velocity, const T* gradient, int64_t networks, int64_t size, double factor,
                    double friction, double temperature, double dt, NoiseKey key, CudaStream stream);
template <class T>
void langevin_kick(T* velocity, const T* gradient, int64_t networks, int64_t size, double factor, double dt,
                   CudaStream stream);

}  // namespace cbk::device
