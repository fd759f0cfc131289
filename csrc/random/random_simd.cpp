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
template <int blocks, class T>
CBK_INLINE void close_up(const T* from, int64_t rows, int64_t size, T* to) {
  constexpr int64_t width = 4 * blocks;
  T* const end = to + rows * size;
  for (; to + width <= end; from += width, to += size) std::memcpy(to, from, width * sizeof(T));
  for (; to < end; from += width, to += size) std::memcpy(to, from, size_t(size) * sizeof(T));
}

template <class T>
void close_up(const T* from, int64_t rows, int64_t size, T* to) {
  const int64_t width = (size + 3) / 4 * 4;
  switch (size % 4 == 0 ? 0 : width / 4) {  // a call of memcpy for each row costs more than a short row
    case 0: std::memcpy(to, from, size_t(rows * size) * sizeof(T)); return;
    case 1: return close_up<1>(from, rows, size, to);
    case 2: return close_up<2>(from, rows, size, to);
    case 3: return close_up<3>(from, rows, size, to);
    case 4: return close_up<4>(from, rows, size, to);
    default:
      for (T* const end = to + rows * size; to < end; from += width, to += size)
        std::memcpy(to, from, size_t(size) * sizeof(T));
  }
}

constexpr int64_t drawn_vectors = drawn_blocks / lanes<float>;

// The first two normals of as many blocks, stage by stage as in NoiseRow.
template <class Words>
CBK_INLINE void first_normals(const Words& words, int64_t vectors, float* a, float* b) {
  F32 radius[drawn_vectors];
  U32 angle[drawn_vectors];
  for (int64_t i = 0; i < vectors; ++i) {
    const auto w = words.words(uint32_t(i * lanes<float>));
    radius[i] = bits<F32>(w.word[0]), angle[i] = w.word[1];
  }
  for (int64_t i = 0; i < vectors; ++i) {
    F32 exponent;
    const F32 f = split_uniform(bits<U32>(radius[i]), exponent);
    radius[i] = normal_radius(f, exponent);
  }
  for (int64_t i = 0; i < vectors; ++i) {
    F32 z0, z1;
    turn_normals(angle[i], radius[i], z0, z1);
    store(a + i * lanes<float>, z0), store(b + i * lanes<float>, z1);
  }
}

template <class Words>
CBK_INLINE void first_normals(const Words& words, int64_t vectors, double* a, double* b) {
  constexpr int half = lanes<double>;
  for (int64_t i = 0; i < vectors; ++i) {
    const auto w = words.words(uint32_t(i * lanes<float>));
    for (int part = 0; part < 2; ++part, a += half, b += half) {
      F64 z0, z1;
      half_normals(w.word[0], w.word[1], part, z0, z1);
      store(a, z0), store(b, z1);
    }
  }
}

// Rows of one or two coordinates: half of each block's words is not needed.
template <class T>
void shortest_rows(const Counter& counter, const uint32_t* particle, int64_t rows, int64_t size, T* out) {
  uint32_t in_lanes[drawn_blocks] = {};  // so that lanes are in the order of the rows
  const int64_t vectors = (rows + lanes<float> - 1) / lanes<float>;
  for (int64_t i = 0; i < rows; ++i) in_lanes[i - i % lanes<float> + lane_block(int(i % lanes<float>))] = particle[i];
  const PhiloxRows<drawn_blocks> words(counter, in_lanes, vectors * lanes<float>, 1);
  alignas(64) T a[drawn_blocks], b[drawn_blocks];
  first_normals(words, vectors, a, b);
  if (size == 1)
    std::memcpy(out, a, size_t(rows) * sizeof(T));
  else
    for (int64_t i = 0; i < rows; ++i) out[2 * i] = a[i], out[2 * i + 1] = b[i];
}

template <class T>
void short_rows(NoiseKey key, const uint32_t* particle, int64_t rows, int64_t size, T* out) {
  using Words = PhiloxRows<drawn_blocks>;
  const Counter counter{key.seed, key.stream, key.step, key.first_particle};
  if (size <= 2) return shortest_rows(counter, particle, rows, size, out);
  const int64_t blocks = (size + 3) / 4;
  const Words words(counter, particle, rows, blocks);
  NoiseRow<T, const Words&> noise(words, 0, 4 * rows * blocks);
  alignas(64) T whole[4 * drawn_blocks];
  for (int64_t i = 0; i < 4 * rows * blocks; i += noise_block) {
    Vector<T> z[noise_block / lanes<T>];
    noise.next(z);
    for (int j = 0; j < noise_block / lanes<T>; ++j) store(whole + i + j * lanes<T>, z[j]);
  }
  close_up(whole, rows, size, out);
}

template <class T>
void uniform_rows(NoiseKey key, const uint32_t* particle, int64_t rows, int64_t size, double low, double high, T* out) {
  const int64_t blocks = (size + 3) / 4;
  const PhiloxRows<drawn_blocks> words({key.seed, key.stream, key.step, key.first_particle}, particle, rows, blocks);
  alignas(64) uint32_t whole[4 * drawn_blocks], word[4 * drawn_blocks];
  for (int64_t first = 0; first < rows * blocks; first += lanes<float>) {
    const Words w = words.words(uint32_t(first));
    for (int lane = 0; lane < lanes<float>; ++lane)
      for (int j = 0; j < 4; ++j) whole[4 * (first + lane_block(lane)) + j] = w.word[j][lane];
  }
  close_up(whole, rows, size, word);
  for (int64_t i = 0; i < rows * size; ++i) out[i] = T(low + (high - low) * ((double(word[i]) + 0.5) * 0x1p-32));
}

}  // namespace

template <class T>
RandomKernels<T> random_kernels() {
  return {normal<T>, short_rows<T>, uniform_rows<T>};
}
template RandomKernels<float> random_kernels();
template RandomKernels<double> random_kernels();

}  // namespace cbk::CBK_ISA
