// Rows of normals, compiled once per instruction set.
#include "../common/philox.hpp"
#include "random.hpp"

namespace cbk::CBK_ISA {
namespace {

template <class T>
void normal(NoiseKey key, uint32_t particle, int64_t begin, int64_t count, T* out) {
  constexpr int vectors = noise_block / lanes<T>;
  NoiseRow<T> noise({key.seed, key.stream, key.step, key.first_particle + particle}, begin, count);
  for (int64_t i = 0; i < count; i += noise_block) {
    Vector<T> z[vectors];
    noise.next(z);
    if (count - i < noise_block) {
      std::memcpy(out + i, z, size_t(count - i) * sizeof(T));
      break;
    }
    for (int j = 0; j < vectors; ++j) store(out + i + j * lanes<T>, z[j]);
  }
}

}  // namespace

template <class T>
RandomKernels<T> random_kernels() {
  return {normal<T>};
}
template RandomKernels<float> random_kernels();
template RandomKernels<double> random_kernels();

}  // namespace cbk::CBK_ISA
