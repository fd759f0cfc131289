#include "langevin.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "../common/isa.hpp"
#include "../common/parallel.hpp"

namespace cbk {
namespace {

constexpr int64_t piece = 8192;

template <class F>
void for_pieces(int64_t rows, int64_t size, int num_threads, F&& f) {
  const int64_t pieces = divide_up(size, piece), tasks = rows * pieces;
  parallel_for(tasks, thread_count(num_threads, tasks, nanoseconds(1.5, rows, size)), [&](int64_t i) {
    const int64_t begin = i % pieces * piece;
    f(i / pieces, begin, std::min(begin + piece, size));
  }, short_tasks(size));
}

}  // namespace

template <class T>
void langevin_drift(T* theta, T* velocity, const T* gradient, int64_t networks, int64_t size, double factor,
                    double friction, double temperature, double dt, NoiseKey key, int num_threads) {
  const LangevinKernels<T>& kernels = isa_table().langevin<T>();
  const LangevinCoefficients<T> k{T(-0.5 * dt * factor), T(0.5 * dt), T(std::exp(-friction * dt)),
                                  T(std::sqrt(temperature * -std::expm1(-2 * friction * dt)))};
  if (size < short_row && k.noise > 0) {
    const int64_t together = rows_drawn(size), groups = divide_up(networks, together);
    const int threads = thread_count(num_threads, groups, nanoseconds(3, networks, size));
    parallel_for(groups, threads, [&](int64_t group) {
      const int64_t first = group * together, count = std::min(together, networks - first), at = first * size;
      uint32_t network[drawn_blocks];
      std::iota(network, network + count, uint32_t(first));
      alignas(64) T noise[4 * drawn_blocks];
      isa_table().random<T>().short_rows(key, network, count, size, noise);
      kernels.drawn(k, theta + at, velocity + at, gradient + at, count * size, noise);
    }, short_tasks(together * size));
    return;
  }
  if (!(k.noise > 0)) size *= networks, networks = 1;  // each coordinate by itself: one long row
  for_pieces(networks, size, num_threads, [&](int64_t n, int64_t begin, int64_t end) {
    const int64_t at = n * size;
    kernels.drift(k, theta + at, velocity + at, gradient + at, begin, end, key, uint32_t(n));
  });
}

template <class T>
void langevin_kick(T* velocity, const T* gradient, int64_t networks, int64_t size, double factor, double dt,
                   int num_threads) {
  const T kick = T(-0.5 * dt * factor);
  for_pieces(1, networks * size, num_threads, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) velocity[i] += kick * gradient[i];
  });
}

#define CBK_INSTANTIATE(T) \
  template void langevin_drift(T*, T*, const T*, int64_t, int64_t, double, double, double, double, NoiseKey, int); \
  template void langevin_kick(T*, const T*, int64_t, int64_t, double, double, int);
CBK_INSTANTIATE(float)
CBK_INSTANTIATE(double)
#undef CBK_INSTANTIATE

}  // namespace cbk
