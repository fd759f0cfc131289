// Kinetic Langevin dynamics of one network's neurons [KCH 2020; BAOAB splitting: Leimkuhler, Matthews 2013].
//
//   B  r += -(dt/2) M grad R      A  theta += (dt/2) r      O  r = e^(-gamma dt) r + sqrt(T (1 - e^(-2 gamma dt))) xi
//
// A step is B A O A, the gradient at the new theta, B.  Here: the two elementwise passes.
#pragma once

#include <cstdint>

#include "../random/random.hpp"

namespace cbk {

template <class T>
struct LangevinCoefficients {
  T kick;   // -(dt/2) M
  T drift;  // dt/2
  T decay;  // e^(-gamma dt)
  T noise;  // sqrt(T (1 - e^(-2 gamma dt)))
};

template <class T>
struct LangevinKernels {
  // B A O A on coordinates [begin, end) of one network; begin is a multiple of 64.
  void (*drift)(const LangevinCoefficients<T>& k, T* theta, T* velocity, const T* gradient, int64_t begin, int64_t end,
                NoiseKey key, uint32_t network);
  // The same on `count` coordinates of several networks with their normals, which are read as far as a vector reaches.
  void (*drawn)(const LangevinCoefficients<T>& k, T* theta, T* velocity, const T* gradient, int64_t count,
                const T* noise);
};

// theta, velocity, gradient [networks, size]; factor: M of the mean-field force -M grad R.
template <class T>
void langevin_drift(T* theta, T* velocity, const T* gradient, int64_t networks, int64_t size, double factor,
                    double friction, double temperature, double dt, NoiseKey key, int num_threads);
template <class T>
void langevin_kick(T* velocity, const T* gradient, int64_t networks, int64_t size, double factor, double dt,
                   int num_threads);

}  // namespace cbk
