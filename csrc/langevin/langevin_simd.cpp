// The elementwise part of a Langevin step, compiled once per instruction set.
#include "../common/philox.hpp"
#include "langevin_math.hpp"

namespace cbk::CBK_ISA {
namespace {

template <class T, int N>
CBK_INLINE void drift_block(const LangevinCoefficients<T>& k, T* theta, T* velocity, const T* gradient,
                            const Vector<T> (&z)[N]) {
  using V = Vector<T>;
  for (int j = 0; j < N; ++j) {
    const int at = j * lanes<T>;
    V q = load(theta + at), r = load(velocity + at);
    drifted(k, q, r, load(gradient + at), z[j]);
    store(theta + at, q), store(velocity + at, r);
  }
}

template <class T>
void drift(const LangevinCoefficients<T>& k, T* theta, T* velocity, const T* gradient, int64_t begin, int64_t end,
           NoiseKey key, uint32_t network) {
  NoiseRow<T> noise({key.seed, key.stream, key.step, key.first_particle + network}, begin, end - begin);
  Vector<T> z[noise_block / lanes<T>] = {};
  int64_t i = begin;
  for (; i < end; i += noise_block) {
    if (k.noise > 0) noise.next(z);
    if (end - i < noise_block) break;
    drift_block(k, theta + i, velocity + i, gradient + i, z);
  }
  if (i >= end) return;
  T q[noise_block] = {}, r[noise_block] = {}, g[noise_block] = {};
  const size_t bytes = size_t(end - i) * sizeof(T);
  std::memcpy(q, theta + i, bytes), std::memcpy(r, velocity + i, bytes), std::memcpy(g, gradient + i, bytes);
  drift_block(k, q, r, g, z);
  std::memcpy(theta + i, q, bytes), std::memcpy(velocity + i, r, bytes);
}

}  // namespace

template <class T>
LangevinKernels<T> langevin_kernels() {
  return {drift<T>};
}
template LangevinKernels<float> langevin_kernels();
template LangevinKernels<double> langevin_kernels();

}  // namespace cbk::CBK_ISA
