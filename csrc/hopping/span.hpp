// The batch's samples as the span of directions.
#pragma once

#include <omp.h>

#include "../risk/packing.hpp"
#include "factor.hpp"

namespace cbk {

// X X^T + ridge = L L^T of a batch, whose inputs are packed for the centre at the same time.
template <class T>
class Span {
 public:
  // packed: room for the batch in whole panels.
  Span(const RiskProblem<T>& problem, T* packed, int64_t panel, int num_threads)
      : factor_(problem.samples, parts_of(problem.net.inputs)) {
    const int64_t inputs = problem.net.inputs, size = factor_.rows(), panels = divide_up(size, panel);
    const int64_t parts = parts_of(inputs), blocks = factor_.blocks();
    const int threads = thread_count(num_threads, parts * panels, nanoseconds(0.05, size, size, inputs));
    const bool whole = threads <= parts;  // parts: what a thread packs it multiplies, from its own cache
    constexpr bool widens = sizeof(T) < sizeof(double);
    const auto begin = [=](int64_t part) { return part < parts ? part * (inputs / parts / 16 * 16) : inputs; };
    const int64_t longest = inputs - begin(parts - 1), step = panel * (widens ? longest : inputs);
    Buffer<double> wide(widens ? (whole ? threads : parts) * panels * step : 0);
    const auto widened = [&](int64_t part) {
      return widens ? wide.data() + (whole ? omp_get_thread_num() : part) * panels * step : nullptr;
    };
    const auto pack = [&](int64_t part, int64_t i) {
      const int64_t first = i * panel, k = begin(part);
      pack_rows([&](int64_t s) { return problem.inputs_of(first + s) + k; }, size - first, panel, begin(part + 1) - k,
                packed + first * inputs + k * panel, widens ? widened(part) + i * step : nullptr, panel);
    };
    const auto multiply = [&](int64_t part, int64_t block) {
      const int64_t k = begin(part);
      const double* z = widened(part);
      if constexpr (!widens) z = packed + k * panel;
      factor_.multiply(part, block, z, panel, step, begin(part + 1) - k);
    };
    if (whole) {
      parallel_for(parts, threads, [&](int64_t part) {
        for (int64_t i = 0; i < panels; ++i) pack(part, i), poll();
        for (int64_t block = 0; block < blocks; ++block) multiply(part, block), poll();
      });
    } else {
      parallel_for(parts * panels, threads, [&](int64_t task) { pack(task / panels, task % panels); });
      parallel_for(parts * blocks, threads, [&](int64_t task) { multiply(task / blocks, task % blocks); });
    }
  }

  // Returns whether there is an L.  If not, what follows must not be called.
  bool factor() { return factor_.factor(1e-6, 0) && factor_.ridge() >= least_ridge<T>; }

  // Of the inverse, and of what e is to be multiplied with for all samples: [size] lines of so many samples, panel by
  // panel.  With the ridge X b is L e only nearly: exactly, e times X X^T L^-T = L^T - ridge L^-1.
  void invert(int64_t panel, T* map, int num_threads) {
    const int64_t size = factor_.rows(), own = Factor::panel(), stride = factor_.stride();
    const int threads = thread_count(num_threads, factor_.panels(), nanoseconds(0.05, size, size, size));
    parallel_for(round_up(size, panel) / own, threads, [&](int64_t i) {
      const int64_t first = i * own, last = std::min(first + own, size);
      T* const to = map + first / panel * panel * size + first % panel;
      for (int64_t j = 0; j < size; ++j) std::fill_n(to + j * panel, own, T(0));
      if (first >= size) return;
      factor_.invert(i);
      const double *upper = factor_.upper(), *inverse = factor_.inverse(), ridge = factor_.ridge();
      for (int64_t j = 0; j < size; ++j, upper += stride, inverse += stride) {
        T* const line = to + j * panel - first;  // of L^T right of the diagonal, of L^-1 left of it
        for (int64_t s = std::max(first, j); s < last; ++s) line[s] = T(upper[s]);
        for (int64_t s = first; s < std::min(j, last); ++s) line[s] = T(-ridge * inverse[s]);
        if (j >= first && j < last) line[j] = T(upper[j] - ridge * inverse[j]);
      }
    });
  }

  // out [rows][size] = sign sums [rows][size] L^-1.
  void along_samples(const double* sums, double sign, int64_t rows, T* out, int num_threads) {
    constexpr int64_t together = 24, panel = 16;
    const int64_t size = factor_.rows(), width = Factor::panel(), parts = divide_up(rows, together);
    const int threads = thread_count(num_threads, factor_.panels() * parts, nanoseconds(0.05, rows, size, size));
    parallel_for(factor_.panels() * parts, threads, [&](int64_t task) {
      const int64_t s0 = task % factor_.panels() * width, m0 = task / factor_.panels() * together,
                    count = std::min(together, rows - m0);
      double own[together * panel];
      isa_table().low_rank<double>().product(sums + m0 * size + s0, size, count, size - s0,
                                             factor_.inverse() + s0 * (factor_.stride() + 1), factor_.stride(),
                                             size - s0, own, panel, false);
      for (int64_t m = 0; m < count; ++m)
        for (int64_t s = s0; s < std::min(s0 + width, size); ++s)
          out[(m0 + m) * size + s] = T(sign * own[m * panel + s - s0]);
    });
  }

 private:
  // Of so many inputs, whose products are added: bits depend on it.
  static int64_t parts_of(int64_t inputs) { return std::clamp(inputs / 64, int64_t(1), int64_t(4)); }

  Factor factor_;
};

}  // namespace cbk
