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

// Rows of whole blocks -> rows of `size`; what a block has too many, the next rows overwrite.
template <class T>
void close_up(const T* from, int64_t rows, int64_t size, T* to) {
  const int64_t width = (size + 3) / 4 * 4;
  T* const end = to + rows * size;
  for (; to + width <= end; from += width, to += size)
    for (int64_t i = 0; i < size; i += 4) std::memcpy(to + i, from + i, 4 * sizeof(T));
  for (; to < end; from += width, to += size) std::memcpy(to, from, size_t(size) * sizeof(T));
}

template <class T>
void short_rows(NoiseKey key, const uint32_t* particle, int64_t rows, int64_t size, T* out) {
  using Words = PhiloxRows<drawn_blocks>;
  const int64_t blocks = (size + 3) / 4;
  const Words words({key.seed, key.stream, key.step, key.first_particle}, particle, rows, blocks);
  NoiseRow<T, const Words&> noise(words, 0, 4 * rows * blocks);
  alignas(64) T whole[4 * drawn_blocks];
  for (int64_t i = 0; i < 4 * rows * blocks; i += noise_block) {
    Vector<T> z[noise_block / lanes<T>];
    noise.next(z);
    for (int j = 0; j < noise_block / lanes<T>; ++j) store(whole + i + j * lanes<T>, z[j]);
  }
  if (size % 4 == 0)
    std::memcpy(out, whole, size_t(rows * size) * sizeof(T));
  else
    close_up(whole, rows, size, out);
}

}  // namespace

template <class T>
RandomKernels<T> random_kernels() {
  return {normal<T>, short_rows<T>};
}
template RandomKernels<float> random_kernels();
template RandomKernels<double> random_kernels();

}  // namespace cbk::CBK_ISA
