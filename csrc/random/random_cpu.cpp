#include "random.hpp"

#include <algorithm>
#include <numeric>
#include <unordered_map>

#include "../common/isa.hpp"
#include "../common/parallel.hpp"
#include "../common/philox.hpp"

namespace cbk {
namespace {

constexpr int64_t random_piece = 8192;  // coordinates of one row that one thread fills at a time

template <class F>
void for_pieces(int64_t rows, int64_t columns, double each, int num_threads, F&& f) {
  const int64_t pieces = divide_up(columns, random_piece), tasks = rows * pieces;
  const int threads = thread_count(num_threads, tasks, nanoseconds(each, rows, columns));
  parallel_for(tasks, threads, [&](int64_t i) {
    const int64_t begin = i % pieces * random_piece;
    f(i / pieces, begin, std::min(random_piece, columns - begin));
  }, short_tasks(columns));
}

// f(numbers of the rows, the first of them, their count)
template <class F>
void for_short_rows(int64_t rows, int64_t columns, int num_threads, F&& f) {
  const int64_t together = rows_drawn(columns), groups = divide_up(rows, together);
  const int threads = thread_count(num_threads, groups, nanoseconds(3, rows, columns));
  parallel_for(groups, threads, [&](int64_t group) {
    const int64_t first = group * together, count = std::min(together, rows - first);
    uint32_t particle[drawn_blocks];
    std::iota(particle, particle + count, uint32_t(first));
    f(particle, first, count);
  }, short_tasks(together * columns));
}

}  // namespace

template <class T>
void standard_normal(T* out, int64_t rows, int64_t columns, NoiseKey key, int num_threads) {
  const RandomKernels<T>& kernels = isa_table().random<T>();
  if (columns < short_row)
    return for_short_rows(rows, columns, num_threads, [&](const uint32_t* particle, int64_t first, int64_t count) {
      kernels.short_rows(key, particle, count, columns, out + first * columns);
    });
  for_pieces(rows, columns, 1.5, num_threads, [&](int64_t row, int64_t begin, int64_t count) {
    kernels.normal(key, uint32_t(row), begin, count, out + row * columns + begin);
  });
}

template <class T>
void uniform(T* out, int64_t rows, int64_t columns, double low, double high, NoiseKey key, int num_threads) {
  if (columns < short_row)
    return for_short_rows(rows, columns, num_threads, [&](const uint32_t* particle, int64_t first, int64_t count) {
      isa_table().random<T>().uniform_rows(key, particle, count, columns, low, high, out + first * columns);
    });
  for_pieces(rows, columns, 3, num_threads, [&](int64_t row, int64_t begin, int64_t count) {
    T* p = out + row * columns + begin;
    for (int64_t i = 0; i < count; i += 4) {
      const auto block = host::philox_words(key.seed, key.stream, key.step, key.first_particle + uint32_t(row),
                                            uint32_t((begin + i) / 4));
      for (int64_t j = 0; j < std::min(count - i, int64_t(4)); ++j)
        p[i + j] = T(low + (high - low) * ((double(block.word[j]) + 0.5) * 0x1p-32));
    }
  });
}

template void standard_normal(float*, int64_t, int64_t, NoiseKey, int);
template void standard_normal(double*, int64_t, int64_t, NoiseKey, int);
template void uniform(float*, int64_t, int64_t, double, double, NoiseKey, int);
template void uniform(double*, int64_t, int64_t, double, double, NoiseKey, int);

void philox4x32(const uint32_t* counter, const uint32_t* key, int64_t count, uint32_t* out) {
  Paced paced;
  for (int64_t i = 0; i < count; ++i) {
    paced(100);
    const uint32_t *c = counter + 4 * i, *k = key + 2 * i;
    const auto block = host::philox({{c[0], c[1], c[2], c[3]}}, k[0], k[1]);
    for (int j = 0; j < 4; ++j) out[4 * i + j] = block.word[j];
  }
}

void permutation(int64_t* out, int64_t count, int64_t n, uint64_t seed, uint32_t step, uint32_t stream) {
  // Some blocks at a time: their multiplications do not wait for one another.
  constexpr uint32_t blocks = 16, draws = 2 * blocks;
  uint64_t words[draws];
  const auto draw = [&](int64_t i) {  // called with i = 0, 1, 2, ...
    if (i % draws == 0)
      for (uint32_t j = 0; j < blocks; ++j) {
        const host::Block block = host::philox_words(seed, stream, step, 0, uint32_t(i / 2) + j);
        words[2 * j] = block.word[0] | uint64_t(block.word[1]) << 32;
        words[2 * j + 1] = block.word[2] | uint64_t(block.word[3]) << 32;
      }
    return i + int64_t((unsigned __int128)(words[i % draws]) * uint64_t(n - i) >> 64);
  };
  Paced paced;
  if (count == n) {
    for (int64_t i = 0; i < n; ++i) paced(10), out[i] = i;
    for (int64_t i = 0; i < n; ++i) paced(100), std::swap(out[i], out[draw(i)]);
    return;
  }
  std::unordered_map<int64_t, int64_t> moved;  // only the entries that a swap has touched are stored
  const auto at = [&](int64_t i) {
    const auto found = moved.find(i);
    return found == moved.end() ? i : found->second;
  };
  for (int64_t i = 0; i < count; ++i) {
    paced(1000);
    const int64_t j = draw(i);
    out[i] = at(j);
    moved[j] = at(i);
  }
}

}  // namespace cbk
