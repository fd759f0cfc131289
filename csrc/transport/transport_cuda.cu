// Transport steps on the GPU; the CPU's twin is transport_cpu.cpp.
#include "../cuda/rows.hpp"

#include <cmath>

#include "../common/philox.hpp"
#include "transport_cuda.hpp"

namespace cbk::device {
namespace {

template <class T>
CBK_KERNEL(256)
transport_rows(const T* atoms, const T* support, const int32_t* match, T* out, int64_t particles, int64_t count,
               int64_t size, int64_t points, T a, T b, NoiseKey key, int width, const StepNumbers<T>* now) {
  if (now) a = now->a, b = now->b, key.step = now->step;
  for_quads(particles, count * size, [&](int64_t n, int64_t at, int64_t i, int quad) {
    T x[4], z[4];
    load_quad(atoms + at, quad, width, x);
    normals(Counter{key.seed, key.stream, key.step, key.first_particle + uint32_t(n)}, uint32_t(i / 4), z);
    for (int j = 0; j < 4; ++j) {  // constant indices keep an array in registers
      if (j >= quad) continue;
      const int64_t atom = (i + j) / size, partner = match[n * count + atom];
      const T y = partner >= 0 && partner < points ? support[partner * size + (i + j) % size] : T(quiet_nan);
      x[j] = fma(b, z[j], fma(a, x[j] - y, x[j]));
    }
    store_quad(out + at, quad, width, x);
  });
}

}  // namespace

template <class T>
void transport_update(const T* atoms, const T* support, const int32_t* match, T* out, int64_t particles, int64_t count,
                      int64_t size, int64_t points, double drift, double diffusion, double dt, NoiseKey key,
                      CudaStream stream, const StepNumbers<T>* now) {
  launch_rows(transport_rows<T>, particles, count * size, native(stream), atoms, support, match, out, particles, count,
              size, points, T(-drift * dt), T(diffusion * std::sqrt(dt)), key, access_width(count * size, atoms, out),
              now);
}

#define CBK_INSTANTIATE(T) \
  template void transport_update(const T*, const T*, const int32_t*, T*, int64_t, int64_t, int64_t, int64_t, double, \
                                 double, double, NoiseKey, CudaStream, const StepNumbers<T>*);
CBK_INSTANTIATE(float)
CBK_INSTANTIATE(double)
#undef CBK_INSTANTIATE

}  // namespace cbk::device
