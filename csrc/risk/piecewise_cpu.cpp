// Sorts a batch for piecewise.hpp and runs the ensemble over it.
#include "piecewise.hpp"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "../common/isa.hpp"
#include "../common/parallel.hpp"
#include "../hopping/hopping.hpp"
#include "risk.hpp"

namespace cbk {
namespace {

// Bits that sort as the numbers do.
uint32_t sortable(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// The order of x by radix sort, 11 bits at a time; stable.
void sort_order(const float* x, int64_t count, uint32_t* order, uint32_t* spare) {
  constexpr int digits = 3, radix = 1 << 11;
  uint32_t histogram[digits][radix] = {};
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t key = sortable(x[i]);
    for (int d = 0; d < digits; ++d) ++histogram[d][key >> (11 * d) & (radix - 1)];
    order[i] = uint32_t(i);
  }
  for (int d = 0; d < digits; ++d) {
    uint32_t sum = 0;
    for (uint32_t& h : histogram[d]) sum += std::exchange(h, sum);
    for (int64_t i = 0; i < count; ++i) {
      const uint32_t key = sortable(x[order[i]]);
      spare[histogram[d][key >> (11 * d) & (radix - 1)]++] = order[i];
    }
    std::swap(order, spare);
  }
  std::copy_n(order, count, spare);  // an odd number of passes: the result is the caller's first buffer again
}

}  // namespace

bool piecewise_risk(const RiskProblem<float>& problem, double* out, bool* exact, int num_threads) {
  constexpr double tolerance = 2e-7;
  const PiecewiseKernels& kernels = isa_table().piecewise;
  const int64_t samples = problem.samples, tasks = problem.tasks, size = problem.net.size();
  const int32_t cells = int32_t(4 * samples);

  Buffer<uint32_t> order(samples), spare(samples);
  Buffer<float> x(samples + 1);
  Buffer<int32_t> first(cells + 1);
  Buffer<double> powers(2 * (samples + 1)), cross(2 * tasks * (samples + 1)), squares(tasks);
  sort_order(problem.x, samples, order.data(), spare.data());
  for (int64_t i = 0; i < samples; ++i) x.data()[i] = problem.x[order.data()[i]];
  x.data()[samples] = std::numeric_limits<float>::quiet_NaN();  // no knot is behind it, infinite or not
  const float low = x.data()[0], range = x.data()[samples - 1] - low;
  if (!(range > 0) || !std::isfinite(range)) return false;
  const float scale = float(cells) / range * 0.999999f;
  if (!std::isfinite(scale)) return false;
  int32_t filled = 0;
  for (int64_t i = 0; i < samples; ++i) {
    const int32_t cell = std::min(int32_t((x.data()[i] - low) * scale), cells - 1);
    while (filled <= cell) first.data()[filled++] = int32_t(i);
  }
  while (filled <= cells) first.data()[filled++] = int32_t(samples);

  std::fill_n(powers.data(), 2, 0.0);
  std::fill_n(cross.data(), 2 * tasks, 0.0);
  std::fill_n(squares.data(), tasks, 0.0);
  for (int64_t i = 0; i < samples; ++i) {
    const double xi = x.data()[i];
    double *p = powers.data() + 2 * i, *q = cross.data() + 2 * tasks * i;
    p[2] = p[0] + xi;
    p[3] = p[1] + xi * xi;
    for (int64_t t = 0; t < tasks; ++t) {
      const double y = problem.y[t * samples + order.data()[i]];
      q[2 * tasks + t] = q[t] + y;
      q[3 * tasks + t] = q[tasks + t] + xi * y;
      squares.data()[t] += y * y;
    }
  }
  const SortedBatch batch{samples,      tasks,         x.data(),     low, scale, cells, first.data(),
                          powers.data(), cross.data(), squares.data()};

  const int64_t units = divide_up(problem.particles, 2);  // two particles: a mirrored pair is drawn at once
  const int threads = thread_count(num_threads, units);
  const int64_t work_size = round_up(kernels.scratch_size(samples), 64);
  const int64_t scratch_size = work_size + (problem.draw ? round_up(2 * size * int64_t(sizeof(float)), 64) : 0);
  Buffer<char> scratch(threads * scratch_size);
  std::memset(scratch.data(), 0, size_t(threads * scratch_size));
#pragma omp parallel for schedule(dynamic, 2) num_threads(threads)
  for (int64_t unit = 0; unit < units; ++unit) {
    char* own = scratch.data() + omp_get_thread_num() * scratch_size;
    const int64_t first = 2 * unit, count = std::min(problem.particles - first, int64_t(2));
    float* drawn = reinterpret_cast<float*>(own + work_size);
    const float* theta = problem.draw ? drawn : problem.theta + first * size;
    if (problem.draw) draw_rows(*problem.draw, first, count, size, drawn);
    for (int64_t n = first; n < first + count; ++n, theta += size)
      exact[n] = kernels.risk(problem.net, theta, batch, tolerance, own, out + n * tasks);
  }
  return true;
}

}  // namespace cbk
