// Numbers of the counter-based generator as arrays; common/philox.hpp says which number stands where.
#pragma once

#include <cstdint>

namespace cbk {

// The rows' common part of the counter; row n is particle first_particle + n.
struct NoiseKey {
  uint64_t seed;
  uint32_t stream, step, first_particle;
};

// Rows shorter than this are drawn several at a time, as many as have so many blocks of four coordinates at most.
constexpr int64_t short_row = 257, drawn_blocks = 256;
inline int64_t rows_drawn(int64_t size) { return drawn_blocks / ((size + 3) / 4); }

template <class T>
struct RandomKernels {
  // out[i] = normal of coordinate begin + i; begin is a multiple of 64.
  void (*normal)(NoiseKey key, uint32_t particle, int64_t begin, int64_t count, T* out);
  // out[rows, size], row r of particle[r]; rows <= rows_drawn(size).
  void (*short_rows)(NoiseKey key, const uint32_t* particle, int64_t rows, int64_t size, T* out);
  void (*uniform_rows)(NoiseKey key, const uint32_t* particle, int64_t rows, int64_t size, double low, double high,
                       T* out);
};

template <class T>
void standard_normal(T* out, int64_t rows, int64_t columns, NoiseKey key, int num_threads);

// low + (high - low) u, u = (w + 1/2) 2^-32 with the coordinate's own word w.
template <class T>
void uniform(T* out, int64_t rows, int64_t columns, double low, double high, NoiseKey key, int num_threads);

void philox4x32(const uint32_t* counter, const uint32_t* key, int64_t count, uint32_t* out);

// The first `count` entries of a random permutation of range(n): Fisher-Yates from the front; draw i takes the 64-bit
// word made of words 2(i%2), 2(i%2)+1 of block i/2 of particle 0.
void permutation(int64_t* out, int64_t count, int64_t n, uint64_t seed, uint32_t step, uint32_t stream);

}  // namespace cbk
