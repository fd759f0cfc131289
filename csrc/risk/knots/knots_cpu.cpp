// Sorts a batch for knots.hpp and runs the ensemble over it.
#include "knots.hpp"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <limits>
#include <utility>

#include "../../common/isa.hpp"
#include "../../common/parallel.hpp"
#include "../../hopping/hopping.hpp"
#include "../packing.hpp"

namespace cbk {
namespace {

// f(i) for each sample, of which there are up to 2^24.  It polls between pieces, and no piece has a branch for it.
template <class F>
__attribute__((always_inline)) inline void for_samples(int64_t samples, F f) {
  constexpr int64_t piece = 65536;
  for (int64_t first = 0; first < samples; first += piece) {
    if (first > 0) poll();
    for (int64_t i = first; i < std::min(first + piece, samples); ++i) f(i);
  }
}

// The number's bits as an unsigned integer that sorts as the numbers do.
uint32_t sortable(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// A stable radix sort by digits of 11 bits: order[i] is the index of the i-th smallest x.
void sort_order(const float* x, int64_t count, uint32_t* order, uint32_t* spare) {
  constexpr int digits = 3, radix = 1 << 11;
  uint32_t histogram[digits][radix] = {};
  for_samples(count, [&](int64_t i) {
    const uint32_t key = sortable(x[i]);
    for (int d = 0; d < digits; ++d) ++histogram[d][key >> (11 * d) & (radix - 1)];
    order[i] = uint32_t(i);
  });
  for (int d = 0; d < digits; ++d) {
    uint32_t sum = 0;
    for (uint32_t& h : histogram[d]) sum += std::exchange(h, sum);
    for_samples(count, [&](int64_t i) {
      const uint32_t key = sortable(x[order[i]]);
      spare[histogram[d][key >> (11 * d) & (radix - 1)]++] = order[i];
    });
    std::swap(order, spare);
  }
  std::copy_n(order, count, spare);  // after three passes the result is in the other buffer
}

constexpr double tolerance = 2e-7;

// A batch sorted by x.  Invalid where x is constant or its range is not finite: there are no cells then.
class Sorted {
 public:
  explicit Sorted(int64_t samples)
      : order_(samples), spare_(samples), x_(samples + 2), first_(4 * samples + 1), moments_(4 * (samples + 1)) {
    batch_.samples = samples, batch_.cells = int32_t(4 * samples);
    batch_.x = x_.data() + 1, batch_.first = first_.data(), batch_.moments = moments_.data();
  }

  bool sort(const RiskProblem<float>& problem) {
    const float* const x = problem.x;
    if (!set_cells(x)) return false;
    const int64_t samples = batch_.samples;
    weights_ = problem.weights, scale_ = weights_ ? weight_scale(problem) : 1;
    if (fill_cells(x) <= crowded)
      insertion_sort();
    else
      sort_order(x, samples, order_.data(), spare_.data());
    weights_ ? sum_moments<true>(x) : sum_moments<false>(x);
    return true;
  }

  const SortedBatch& batch() const { return batch_; }

  // y [tasks][samples] -> cross [samples + 1][2][stride], squares [tasks]; columns after the last task are zero.
  template <int64_t stride>
  void sum_targets(const float* y, int64_t tasks, double* cross, double* squares) {
    weights_ ? sum_targets<stride, true>(y, tasks, cross, squares)
             : sum_targets<stride, false>(y, tasks, cross, squares);
  }

 private:
  static constexpr int32_t crowded = 16;  // with more samples in a cell radix sort takes the place of insertion

  template <bool weighted>
  double weight(int64_t i) {
    return weighted ? scale_ * double(weights_[order_.data()[i]]) : 1;
  }

  template <bool weighted>
  void sum_moments(const float* x) {
    const int64_t samples = batch_.samples;
    float* const sorted = x_.data() + 1;
    // No comparison with NaN is true, so each search ends there.
    sorted[-1] = sorted[samples] = std::numeric_limits<float>::quiet_NaN();
    double* const moments = moments_.data();
    const uint32_t* const order = order_.data();
    double on_one = 0, on_x = 0, on_xx = 0;
    const auto put = [&](int64_t i) {
      double* const to = moments + 4 * i;
      to[0] = on_one, to[1] = on_x, to[2] = on_xx, to[3] = 0;
    };
    for_samples(samples, [&](int64_t i) {
      put(i);
      const float value = x[order[i]];
      const double xi = sorted[i] = value, w = weight<weighted>(i);
      on_one += w, on_x += w * xi, on_xx += w * xi * xi;
    });
    put(samples);
  }

  template <int64_t stride, bool weighted>
  void sum_targets(const float* y, int64_t tasks, double* cross, double* squares) {
    double on_one[stride] = {}, on_x[stride] = {}, square[stride] = {};
    const int64_t samples = batch_.samples;
    const float* const x = batch_.x;
    const uint32_t* const order = order_.data();
    const auto put = [&](int64_t i) {
      double* const to = cross + 2 * stride * i;
      for (int64_t t = 0; t < stride; ++t) to[t] = on_one[t], to[stride + t] = on_x[t];
    };
    for_samples(samples, [&](int64_t i) {
      put(i);
      const double xi = x[i], w = weight<weighted>(i);
      const float* target = y + order[i];
      for (int64_t t = 0; t < (stride == 1 ? 1 : tasks); ++t) {  // a bound that the compiler knows
        const double yt = weighted && w == 0 ? 0 : target[t * samples], counted = w * yt;
        on_one[t] += counted, on_x[t] += xi * counted, square[t] += counted * yt;
      }
    });
    put(samples);
    std::copy_n(square, tasks, squares);
  }

  bool set_cells(const float* x) {
    float low[4], high[4];  // four independent chains, which hide latency
    std::fill_n(low, 4, x[0]), std::fill_n(high, 4, x[0]);
    bool numbers = true;
    for (int64_t i = 0; i < batch_.samples; ++i) {
      float &l = low[i % 4], &h = high[i % 4];
      l = x[i] < l ? x[i] : l, h = x[i] > h ? x[i] : h;
      numbers &= x[i] == x[i];
    }
    batch_.low = *std::min_element(low, low + 4);
    const float range = *std::max_element(high, high + 4) - batch_.low;
    batch_.scale = float(batch_.cells) / range * 0.999999f;
    return numbers && range > 0 && std::isfinite(range) && std::isfinite(batch_.scale);
  }

  // Fills first_ with each cell's start and puts the samples into the order of the cells.  Returns the size of the
  // largest cell.
  int32_t fill_cells(const float* x) {
    const int64_t samples = batch_.samples;
    int32_t* const next = first_.data() + 1;
    std::fill_n(first_.data(), batch_.cells + 1, 0);
    int32_t* const cell = reinterpret_cast<int32_t*>(spare_.data());
    const float low = batch_.low, scale = batch_.scale;
    const int32_t last = batch_.cells - 1;
    int32_t fullest = 0;
    for_samples(samples, [&](int64_t i) {
      cell[i] = std::min(int32_t((x[i] - low) * scale), last);
      fullest = std::max(fullest, ++next[cell[i]]);
    });
    int32_t sum = 0;
    for (int32_t c = 0; c < batch_.cells; ++c) sum += std::exchange(next[c], sum);
    uint32_t* const order = order_.data();
    float* const sorted = x_.data() + 1;
    for_samples(samples, [&](int64_t i) {  // afterwards next[c] is where cell c ends
      const int32_t at = next[cell[i]]++;
      order[at] = uint32_t(i), sorted[at] = x[i];
    });
    return fullest;
  }

  void insertion_sort() {
    uint32_t* const order = order_.data();
    float* const x = x_.data() + 1;
    for (int64_t i = 1; i < batch_.samples; ++i) {
      for (int64_t j = i; j > 0 && x[j] < x[j - 1]; --j) std::swap(x[j], x[j - 1]), std::swap(order[j], order[j - 1]);
    }
  }

  Buffer<uint32_t> order_, spare_;
  Buffer<float> x_;
  Buffer<int32_t> first_;
  Buffer<double> moments_;
  SortedBatch batch_;
  const float* weights_ = nullptr;
  double scale_ = 1;
};

// A batch and one task.
struct SortedTask {
  explicit SortedTask(int64_t samples) : sorted(samples), cross(2 * (samples + 1)), sums{cross.data(), &squares, 1} {}

  void sort(const RiskProblem<float>& problem) {
    valid = sorted.sort(problem);
    if (valid) sorted.sum_targets<1>(problem.y, 1, cross.data(), &squares);
  }

  Sorted sorted;
  Buffer<double> cross;
  double squares = 0;
  TaskSums sums;
  bool valid = false;
};

// Each thread's memory: scratch that starts as zeros, and room for `unit` drawn particles.
class Scratch {
 public:
  Scratch(const RiskProblem<float>& problem, int64_t unit, int64_t scratch_size, int threads)
      : work_(round_up(scratch_size, 64)),
        own_(work_ + (problem.draw ? round_up(unit * problem.net.size() * int64_t(sizeof(float)), 64) : 0)),
        memory_(threads * own_) {}

  char* begin() {  // each thread zeroes its own part, which is then in its cache
    char* own = memory_.data() + omp_get_thread_num() * own_;
    std::memset(own, 0, size_t(work_));
    return own;
  }
  float* drawn(char* own) const { return reinterpret_cast<float*>(own + work_); }

 private:
  int64_t work_, own_;
  Buffer<char> memory_;
};

// To be called in a parallel region: work(first, count, theta of the first, scratch) for `unit` particles at a time.
// `unit` is even, because both particles of a mirrored pair are drawn together.
template <class Work>
void share_particles(const RiskProblem<float>& problem, int64_t unit, Scratch& scratch, Failure& failure, Work work) {
  const int64_t size = problem.net.size(), units = divide_up(problem.particles, unit);
  char* own = scratch.begin();
#pragma omp for schedule(dynamic, 1) nowait
  for (int64_t i = 0; i < units; ++i)
    failure.guard([&] {
      const int64_t first = unit * i, count = std::min(problem.particles - first, unit);
      float* drawn = scratch.drawn(own);
      if (problem.draw) draw_rows(*problem.draw, first, count, size, drawn);
      work(first, count, problem.draw ? drawn : problem.theta + first * size, own);
    });
}

double knots_work(const RiskProblem<float>& problem) {
  return nanoseconds(15, problem.particles, problem.net.width) + nanoseconds(0.3, problem.particles, problem.samples);
}

template <class Work>
void for_particles(const RiskProblem<float>& problem, int64_t unit, int64_t scratch_size, int num_threads, Work work) {
  const int threads = thread_count(num_threads, divide_up(problem.particles, unit), knots_work(problem));
  Scratch scratch(problem, unit, scratch_size, threads);
  Failure failure;
#pragma omp parallel num_threads(threads)
  share_particles(problem, unit, scratch, failure, work);
  failure.rethrow();
}

// Risks on one task.  Each thread sorts a small batch for itself: waiting for another one's sort would take as long,
// and its own copy is in its cache.
bool one_task(const KnotsKernels& kernels, const RiskProblem<float>& problem, const Wanted<float>& to, bool* exact,
              int num_threads) {
  constexpr int64_t own_samples = 4096, most = 16;
  const Network& net = problem.net;
  const int threads = thread_count(num_threads, divide_up(problem.particles, 4), knots_work(problem));
  const int64_t unit = std::clamp(problem.particles / (16 * threads) * 2, int64_t(2), most), size = net.size();
  const bool own = problem.samples <= own_samples;
  Scratch scratch(problem, unit, kernels.scratch_size(net, problem.samples), threads);
  std::deque<SortedTask> batches;
  for (int i = 0; i < (own ? threads : 1); ++i) batches.emplace_back(problem.samples);
  if (!own) batches[0].sort(problem);
  Failure failure;
#pragma omp parallel num_threads(threads)
  {
    SortedTask& batch = batches[own ? size_t(omp_get_thread_num()) : 0];
    if (own) failure.guard([&] { batch.sort(problem); });
    share_particles(problem, unit, scratch, failure,
                    [&](int64_t first, int64_t count, const float* theta, char* memory) {
      if (!batch.valid) return;  // every thread must reach the loop
      double sums[most];         // collected here, since two threads may share a line of the cache
      bool good[most];
      Paced paced;
      for (int64_t i = 0; i < count; ++i) {
        good[i] = kernels.risk(net, theta + i * size, batch.sorted.batch(), batch.sums, tolerance, memory, sums + i,
                               to.gradient ? to.gradient + (first + i) * size : nullptr);
        paced(100 * net.width);
      }
      std::copy_n(sums, count, to.sums + first);
      std::copy_n(good, count, exact + first);
    });
  }
  failure.rethrow();
  return batches[0].valid;
}

// The risk of each particle on its own task.
bool own_tasks(const KnotsKernels& kernels, const RiskProblem<float>& problem, double* out, bool* exact,
               int num_threads) {
  const int64_t samples = problem.samples, size = problem.net.size(), table = 2 * (samples + 1);
  Sorted sorted(samples);
  if (!sorted.sort(problem)) return false;
  const int64_t scratch_size = round_up(kernels.scratch_size(problem.net, samples), 64);
  for_particles(problem, 2, scratch_size + table * int64_t(sizeof(double)), num_threads,
                [&](int64_t first, int64_t count, const float* theta, char* scratch) {
    double* cross = reinterpret_cast<double*>(scratch + scratch_size);
    Paced paced;
    for (int64_t n = first; n < first + count; ++n, theta += size) {
      paced(100 * (problem.net.width + samples));
      double squares;
      sorted.sum_targets<1>(problem.y + n * samples, 1, cross, &squares);
      exact[n] =
          kernels.risk(problem.net, theta, sorted.batch(), {cross, &squares, 1}, tolerance, scratch, out + n, nullptr);
    }
  });
  return true;
}

// The risks of all particles on all tasks.
bool many_tasks(const KnotsKernels& kernels, const RiskProblem<float>& problem, double* out, bool* exact,
                int num_threads) {
  const Network& net = problem.net;
  const int64_t samples = problem.samples, tasks = problem.tasks, size = net.size();
  Sorted sorted(samples);
  if (!sorted.sort(problem)) return false;
  constexpr int64_t stride = task_block;
  const int64_t blocks = divide_up(tasks, stride), table = 2 * stride * (samples + 1);
  Buffer<double> cross(blocks * table), squares(tasks);
  const int threads = blocks > 1 ? thread_count(num_threads, blocks, nanoseconds(3, tasks, samples)) : 1;
  const auto block_at = [&](int64_t block) {
    const int64_t first = block * stride;
    return TaskSums{cross.data() + block * table, squares.data() + first, std::min(stride, tasks - first)};
  };
  parallel_for(blocks, threads, [&](int64_t block) {
    sorted.sum_targets<stride>(problem.y + block * stride * samples, block_at(block).tasks,
                               cross.data() + block * table, squares.data() + block * stride);
  });

  const SortedBatch& batch = sorted.batch();
  // A unit's knots, and a block of tasks' sums, stay in L2.
  constexpr int64_t knots_bytes = 64 << 10;
  const int64_t scratch_size = round_up(kernels.scratch_size(net, samples), 64);
  const int64_t knots_size = (net.width + 1) * int64_t(sizeof(Knot));
  const int64_t unit =
      2 * std::clamp(std::min(knots_bytes / knots_size, problem.particles / 8) / 2, int64_t(1), int64_t(32));
  for_particles(problem, unit, scratch_size + unit * (knots_size + int64_t(sizeof(Trace))), num_threads,
                [&](int64_t first, int64_t count, const float* theta, char* scratch) {
    Knot* knots = reinterpret_cast<Knot*>(scratch + scratch_size);
    Trace* traces = reinterpret_cast<Trace*>(scratch + scratch_size + unit * knots_size);
    Paced paced;
    for (int64_t i = 0; i < count; ++i) {
      paced(100 * net.width);
      traces[i] = kernels.trace(net, theta + i * size, batch, scratch, knots + i * (net.width + 1));
      exact[first + i] = true;
    }
    for (int64_t block = 0; block < blocks; ++block) {
      for (int64_t i = 0; i < count; ++i) {
        paced(50 * net.width);
        bool& all = exact[first + i];
        all = kernels.task_risks(traces[i], knots + i * (net.width + 1), batch, block_at(block), tolerance,
                                 out + (first + i) * tasks + block * stride) &&
              all;
      }
    }
  });
  return true;
}

}  // namespace

bool evaluate_by_knots(const RiskProblem<float>& problem, const Wanted<float>& to, bool* exact, int num_threads) {
  const KnotsKernels& kernels = isa_table().knots;
  if (to.own) return own_tasks(kernels, problem, to.sums, exact, num_threads);
  if (problem.tasks == 1) return one_task(kernels, problem, to, exact, num_threads);
  return many_tasks(kernels, problem, to.sums, exact, num_threads);
}

}  // namespace cbk
