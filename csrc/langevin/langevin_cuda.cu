// The elementwise passes of a Langevin step on the GPU; the CPU's twin is langevin_cpu.cpp.
#include "../cuda/rows.hpp"

#include <cmath>

#include "../common/philox.hpp"
#include "langevin_cuda.hpp"
#include "langevin_math.hpp"

namespace cbk::device {
namespace {

template <class T>
CBK_KERNEL(256)
drift_rows(T* theta, T* velocity, const T* gradient, int64_t networks, int64_t size, LangevinNumbers<T> given,
           const LangevinNumbers<T>* now, NoiseKey key, int width) {
  const LangevinNumbers<T> numbers = now ? *now : given;
  const LangevinCoefficients<T> k = numbers.drift;
  for_quads(networks, size, [&](int64_t n, int64_t at, int64_t i, int count) {
    T q[4], r[4], g[4], z[4] = {};
    load_quad(theta + at, count, width, q), load_quad(velocity + at, count, width, r);
    load_quad(gradient + at, count, width, g);
    if (k.noise > 0)
      normals(Counter{key.seed, key.stream, numbers.step, key.first_particle + uint32_t(n)}, uint32_t(i / 4), z);
    for (int j = 0; j < 4; ++j) drifted(k, q[j], r[j], g[j], z[j]);
    store_quad(theta + at, count, width, q), store_quad(velocity + at, count, width, r);
  });
}

template <class T>
CBK_KERNEL(256)
kick_rows(T* velocity, const T* gradient, int64_t networks, int64_t size, T given, const LangevinNumbers<T>* now,
          int width) {
  const T kick = now ? now->kick : given;
  for_quads(networks, size, [&](int64_t, int64_t at, int64_t, int count) {
    T r[4], g[4];
    load_quad(velocity + at, count, width, r), load_quad(gradient + at, count, width, g);
    for (int j = 0; j < 4; ++j) r[j] = r[j] + kick * g[j];
    store_quad(velocity + at, count, width, r);
  });
}

}  // namespace

template <class T>
LangevinNumbers<T> langevin_numbers(double factor, double friction, double temperature, double dt, uint32_t step) {
  const T kick = T(-0.5 * dt * factor);
  return {{kick, T(0.5 * dt), T(std::exp(-friction * dt)), T(std::sqrt(temperature * -std::expm1(-2 * friction * dt)))},
          kick,
          step};
}

template <class T>
void langevin_drift(T* theta, T* velocity, const T* gradient, int64_t networks, int64_t size, double factor,
                    double friction, double temperature, double dt, NoiseKey key, CudaStream stream,
                    const LangevinNumbers<T>* now) {
  launch_rows(drift_rows<T>, networks, size, native(stream), theta, velocity, gradient, networks, size,
              langevin_numbers<T>(factor, friction, temperature, dt, key.step), now, key,
              access_width(size, theta, velocity, gradient));
}

template <class T>
void langevin_kick(T* velocity, const T* gradient, int64_t networks, int64_t size, double factor, double dt,
                   CudaStream stream, const LangevinNumbers<T>* now) {
  launch_rows(kick_rows<T>, networks, size, native(stream), velocity, gradient, networks, size, T(-0.5 * dt * factor),
              now, access_width(size, velocity, gradient));
}

#define CBK_INSTANTIATE(T) \
  template LangevinNumbers<T> langevin_numbers(double, double, double, double, uint32_t); \
  template void langevin_drift(T*, T*, const T*, int64_t, int64_t, double, double, double, double, NoiseKey, \
                               CudaStream, const LangevinNumbers<T>*); \
  template void langevin_kick(T*, const T*, int64_t, int64_t, double, double, CudaStream, const LangevinNumbers<T>*);
CBK_INSTANTIATE(float)
CBK_INSTANTIATE(double)
#undef CBK_INSTANTIATE

}  // namespace cbk::device
