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

// An incomplete block goes through a padded copy.
template <class T, int N>
CBK_INLINE void drift_rest(const LangevinCoefficients<T>& k, T* theta, T* velocity, const T* gradient, int64_t count,
                           const Vector<T> (&z)[N]) {
  T q[N * lanes<T>] = {}, r[N * lanes<T>] = {}, g[N * lanes<T>] = {};
  const size_t bytes = size_t(count) * sizeof(T);
  std::memcpy(q, theta, bytes), std::memcpy(r, velocity, bytes), std::memcpy(g, gradient, bytes);
  drift_block(k, q, r, g, z);
  std::memcpy(theta, q, bytes), std::memcpy(velocity, r, bytes);
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
  if (i < end) drift_rest(k, theta + i, velocity + i, gradient + i, end - i, z);
}

template <class T>
void drawn(const LangevinCoefficients<T>& k, T* theta, T* velocity, const T* gradient, int64_t count, const T* noise) {
  constexpr int block = lanes<T>;
  Vector<T> z[1];
  int64_t i = 0;
  for (; i + block <= count; i += block) {
    z[0] = load(noise + i);
    drift_block(k, theta + i, velocity + i, gradient + i, z);
  }
  if (i == count) return;
  z[0] = load(noise + i);
  drift_rest(k, theta + i, velocity + i, gradient + i, count - i, z);
}

}  // namespace

template <class T>
LangevinKernels<T> langevin_kernels() {
  return {drift<T>, drawn<T>};
}
template LangevinKernels<float> langevin_kernels();
template LangevinKernels<double> langevin_kernels();

}  // namespace cbk::CBK_ISA
