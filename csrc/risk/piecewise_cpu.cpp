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

constexpr double tolerance = 2e-7;

// A batch in order.  Invalid where x has no range to divide into cells.
class Sorted {
 public:
  Sorted(const float* x, int64_t samples)
      : order_(samples), x_(samples + 1), first_(4 * samples + 1), powers_(2 * (samples + 1)) {
    {
      Buffer<uint32_t> spare(samples);
      sort_order(x, samples, order_.data(), spare.data());
    }
    for (int64_t i = 0; i < samples; ++i) x_.data()[i] = x[order_.data()[i]];
    x_.data()[samples] = std::numeric_limits<float>::quiet_NaN();  // no knot is behind it, infinite or not
    const int32_t cells = int32_t(4 * samples);
    const float low = x_.data()[0], range = x_.data()[samples - 1] - low, scale = float(cells) / range * 0.999999f;
    valid_ = range > 0 && std::isfinite(range) && std::isfinite(scale);
    batch_ = {samples, x_.data(), low, scale, cells, first_.data(), powers_.data()};
    if (!valid_) return;
    int32_t filled = 0;
    for (int64_t i = 0; i < samples; ++i) {
      const int32_t cell = std::min(int32_t((x_.data()[i] - low) * scale), cells - 1);
      while (filled <= cell) first_.data()[filled++] = int32_t(i);
    }
    while (filled <= cells) first_.data()[filled++] = int32_t(samples);
    double* sums = powers_.data();
    sums[0] = sums[1] = 0;
    for (int64_t i = 0; i < samples; ++i, sums += 2) {
      const double xi = x_.data()[i];
      sums[2] = sums[0] + xi, sums[3] = sums[1] + xi * xi;
    }
  }

  bool valid() const { return valid_; }
  const SortedBatch& batch() const { return batch_; }

  // y [tasks][samples] -> cross [samples + 1][2][stride], squares [tasks]; what is beyond the tasks is zero.
  void sum_targets(const float* y, int64_t tasks, int64_t stride, double* cross, double* squares) const {
    std::fill_n(cross, 2 * stride, 0.0);
    std::fill_n(squares, tasks, 0.0);
    for (int64_t i = 0; i < batch_.samples; ++i, cross += 2 * stride) {
      const double xi = batch_.x[i];
      const float* target = y + order_.data()[i];
      for (int64_t t = 0; t < tasks; ++t) {
        const double yt = target[t * batch_.samples];
        cross[2 * stride + t] = cross[t] + yt;
        cross[3 * stride + t] = cross[stride + t] + xi * yt;
        squares[t] += yt * yt;
      }
      for (int64_t t = tasks; t < stride; ++t) cross[2 * stride + t] = cross[3 * stride + t] = 0;
    }
  }

 private:
  mutable Buffer<uint32_t> order_;
  Buffer<float> x_;
  Buffer<int32_t> first_;
  Buffer<double> powers_;
  SortedBatch batch_;
  bool valid_;
};

// Runs work(first, count, theta of the first, scratch) for a few particles at a time: an even number, since mirrored pairs
// are drawn at once.
template <class Work>
void for_particles(const RiskProblem<float>& problem, int64_t few, int64_t scratch_size, int num_threads, Work work) {
  const int64_t size = problem.net.size(), units = divide_up(problem.particles, few);
  const int threads = thread_count(num_threads, units);
  const int64_t work_size = round_up(scratch_size, 64);
  const int64_t own_size = work_size + (problem.draw ? round_up(few * size * int64_t(sizeof(float)), 64) : 0);
  Buffer<char> scratch(threads * own_size);
  std::memset(scratch.data(), 0, size_t(threads * own_size));
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (int64_t unit = 0; unit < units; ++unit) {
    char* own = scratch.data() + omp_get_thread_num() * own_size;
    const int64_t first = few * unit, count = std::min(problem.particles - first, few);
    float* drawn = reinterpret_cast<float*>(own + work_size);
    if (problem.draw) draw_rows(*problem.draw, first, count, size, drawn);
    work(first, count, problem.draw ? drawn : problem.theta + first * size, own);
  }
}

}  // namespace

bool piecewise_risk(const RiskProblem<float>& problem, double* out, bool* exact, int num_threads) {
  const PiecewiseKernels& kernels = isa_table().piecewise;
  const Network& net = problem.net;
  const int64_t samples = problem.samples, tasks = problem.tasks, size = net.size();
  const Sorted sorted(problem.x, samples);
  if (!sorted.valid()) return false;
  const int64_t stride = tasks == 1 ? 1 : task_block, blocks = divide_up(tasks, stride);
  const int64_t table = 2 * stride * (samples + 1);
  Buffer<double> cross(blocks * table), squares(tasks);
  const int threads = blocks > 1 ? thread_count(num_threads, blocks) : 1;
  const auto block_at = [&](int64_t block) {
    const int64_t first = block * stride;
    return TaskSums{cross.data() + block * table, squares.data() + first, std::min(stride, tasks - first)};
  };
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int64_t block = 0; block < blocks; ++block)
    sorted.sum_targets(problem.y + block * stride * samples, block_at(block).tasks, stride, cross.data() + block * table,
                       squares.data() + block * stride);

  const SortedBatch& batch = sorted.batch();
  const int64_t scratch_size = round_up(kernels.scratch_size(net, samples), 64);
  if (tasks == 1) {
    for_particles(problem, 4, scratch_size, num_threads,
                  [&](int64_t first, int64_t count, const float* theta, char* scratch) {
                    for (int64_t n = first; n < first + count; ++n, theta += size)
                      exact[n] = kernels.risk(net, theta, batch, block_at(0), tolerance, scratch, out + n);
                  });
    return true;
  }
  // Few particles' knots, and a block of tasks' sums, stay in L2.
  constexpr int64_t knots_bytes = 64 << 10;
  const int64_t knots_size = (net.width + 1) * int64_t(sizeof(Knot));
  const int64_t few = 2 * std::clamp(std::min(knots_bytes / knots_size, problem.particles / 8) / 2, int64_t(1), int64_t(32));
  for_particles(problem, few, scratch_size + few * (knots_size + int64_t(sizeof(Trace))), num_threads,
                [&](int64_t first, int64_t count, const float* theta, char* scratch) {
                  Knot* knots = reinterpret_cast<Knot*>(scratch + scratch_size);
                  Trace* traces = reinterpret_cast<Trace*>(scratch + scratch_size + few * knots_size);
                  for (int64_t i = 0; i < count; ++i) {
                    traces[i] = kernels.trace(net, theta + i * size, batch, scratch, knots + i * (net.width + 1));
                    exact[first + i] = true;
                  }
                  for (int64_t block = 0; block < blocks; ++block) {
                    for (int64_t i = 0; i < count; ++i) {
                      bool& all = exact[first + i];
                      all = kernels.task_risks(traces[i], knots + i * (net.width + 1), batch, block_at(block), tolerance,
                                               out + (first + i) * tasks + block * stride) && all;
                    }
                  }
                });
  return true;
}

bool piecewise_gradient(const RiskProblem<float>& problem, double* out, float* gradient, bool* exact, int num_threads) {
  const PiecewiseKernels& kernels = isa_table().piecewise;
  const Network& net = problem.net;
  const int64_t size = net.size();
  const Sorted sorted(problem.x, problem.samples);
  if (!sorted.valid()) return false;
  Buffer<double> cross(2 * (problem.samples + 1));
  double squares;
  sorted.sum_targets(problem.y, 1, 1, cross.data(), &squares);
  const TaskSums task{cross.data(), &squares, 1};
  for_particles(problem, 4, kernels.scratch_size(net, problem.samples), num_threads,
                [&](int64_t first, int64_t count, const float* theta, char* scratch) {
                  for (int64_t n = first; n < first + count; ++n, theta += size)
                    exact[n] = kernels.gradient(net, theta, sorted.batch(), task, tolerance, scratch, out + n,
                                                gradient + n * size);
                });
  return true;
}

bool piecewise_own_risks(const RiskProblem<float>& problem, double* out, bool* exact, int num_threads) {
  const PiecewiseKernels& kernels = isa_table().piecewise;
  const Network& net = problem.net;
  const int64_t samples = problem.samples, size = net.size();
  const Sorted sorted(problem.x, samples);
  if (!sorted.valid()) return false;
  const int64_t scratch_size = round_up(kernels.scratch_size(net, samples), 64);
  const int64_t table = 2 * (samples + 1);
  for_particles(problem, 2, scratch_size + table * int64_t(sizeof(double)), num_threads,
                [&](int64_t first, int64_t count, const float* theta, char* scratch) {
                  double* cross = reinterpret_cast<double*>(scratch + scratch_size);
                  for (int64_t n = first; n < first + count; ++n, theta += size) {
                    double squares;
                    sorted.sum_targets(problem.y + n * samples, 1, 1, cross, &squares);
                    exact[n] = kernels.risk(net, theta, sorted.batch(), {cross, &squares, 1}, tolerance, scratch, out + n);
                  }
                });
  return true;
}

}  // namespace cbk
