// What this machine can do, measured in the same run as the kernels: the denominators of every share.
#pragma once

#include <omp.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <vector>

namespace bench {

inline double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

#if defined(__AVX512F__)
constexpr int width = 64;
#elif defined(__AVX2__)
constexpr int width = 32;
#else
constexpr int width = 16;
#endif
typedef float Register __attribute__((vector_size(width)));

// Independent multiply-adds on ten registers: the pipes' own rate.
inline double multiply_adds(int64_t rounds) {
  Register a0{}, a1 = a0 + 1, a2 = a0 + 2, a3 = a0 + 3, a4 = a0 + 4, a5 = a0 + 5, a6 = a0 + 6, a7 = a0 + 7, a8 = a0 + 8,
                 a9 = a0 + 9;
  const Register x = Register{} + 0.999f, y = Register{} + 1e-3f;
  for (int64_t i = 0; i < rounds; ++i) {
    a0 = a0 * x + y, a1 = a1 * x + y, a2 = a2 * x + y, a3 = a3 * x + y, a4 = a4 * x + y;
    a5 = a5 * x + y, a6 = a6 * x + y, a7 = a7 * x + y, a8 = a8 * x + y, a9 = a9 * x + y;
    asm volatile("" : "+x"(a0), "+x"(a1), "+x"(a2), "+x"(a3), "+x"(a4));
    asm volatile("" : "+x"(a5), "+x"(a6), "+x"(a7), "+x"(a8), "+x"(a9));
  }
  return double((a0 + a1 + a2 + a3 + a4 + a5 + a6 + a7 + a8 + a9)[0]);
}

// GFLOP/s of float32 fused multiply-adds.
inline double fma_rate(int threads, int trials = 5) {
  constexpr int64_t rounds = 4'000'000;
  double best = 0;
  for (int trial = 0; trial < trials; ++trial) {
    const double start = seconds();
#pragma omp parallel num_threads(threads)
    {
      volatile double sink = multiply_adds(rounds);
      (void)sink;
    }
    const double rate = double(threads) * double(rounds) * 10 * 2 * (width / 4) / (seconds() - start) / 1e9;
    if (rate > best) best = rate;
  }
  return best;
}

// GB/s of a copy (read and written bytes counted once each) through arrays that no cache holds.
inline double copy_rate(int threads) {
  constexpr int64_t count = 32 << 20;
  const auto from = std::make_unique_for_overwrite<float[]>(count), to = std::make_unique_for_overwrite<float[]>(count);
#pragma omp parallel for num_threads(threads)
  for (int64_t i = 0; i < count; ++i) from[i] = float(i), to[i] = 0;
  double best = 0;
  for (int trial = 0; trial < 5; ++trial) {
    const double start = seconds();
#pragma omp parallel for num_threads(threads)
    for (int64_t i = 0; i < count; ++i) to[i] = from[i];
    const double rate = 8.0 * double(count) / (seconds() - start) / 1e9;
    if (rate > best) best = rate;
  }
  return best;
}

// Nanoseconds in which two threads hand a cache line to each other and back: about 100 where their cores share a cache,
// several hundred where they do not.
inline double turn_time() {
  constexpr int turns = 20'000;
  std::atomic<int> line{0};
  double took = 0;
#pragma omp parallel num_threads(2)
  if (omp_get_num_threads() == 2) {
    const double start = seconds();
    for (int i = omp_get_thread_num(); i < 2 * turns; i += 2) {
      while (line.load() != i) continue;
      line.store(i + 1);
    }
    if (omp_get_thread_num() == 0) took = seconds() - start;
  }
  return took / turns * 1e9;
}

}  // namespace bench
