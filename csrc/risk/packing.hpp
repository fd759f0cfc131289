// Batches as the inner kernels read them.
#pragma once

#include <algorithm>

#include "../common/isa.hpp"
#include "../common/parallel.hpp"
#include "risk.hpp"

namespace cbk {

inline int64_t target_columns(const Network& net, Loss loss) { return target_columns(loss.kind, net.outputs); }

// What weights are multiplied by, so that their mean is 1; 0 where all are 0.
template <class T>
double weight_scale(const RiskProblem<T>& problem) {
  double sum = 0;
  for (int64_t s = 0; s < problem.samples; ++s) sum += double(problem.weights[s]);
  return sum > 0 ? double(problem.samples) / sum : 0;
}

// Up to 64 rows, row(s), whole vectors of them: packed [columns][count], zeros behind the first `samples`; lines are
// `stride` numbers apart.  wide: the same in float64, or nullptr.
template <class T, class Row>
void pack_rows(Row row, int64_t samples, int64_t count, int64_t columns, T* packed, double* wide, int64_t stride) {
  const T* rows[64] = {};
  for (int64_t s = 0; s < std::min(samples, count); ++s) rows[s] = row(s);
  isa_table().risk<T>().pack(rows, count, columns, packed, wide, stride);
}

// rows [samples][columns] -> packed [panels][columns][panel], padded with zeros.
template <class T>
void pack(const T* rows, int64_t samples, int64_t columns, int64_t panel, T* packed) {
  if (columns == 1) {
    std::copy_n(rows, samples, packed);
    std::fill(packed + samples, packed + round_up(samples, panel), T(0));
    return;
  }
  for (int64_t first = 0; first < samples; first += panel)
    for (int64_t s = 0; s < panel; s += 64) {
      const auto row = [=](int64_t i) { return rows + (first + s + i) * columns; };
      pack_rows(row, samples - first - s, std::min(panel - s, int64_t(64)), columns, packed + first * columns + s,
                static_cast<double*>(nullptr), panel);
    }
}

// rows [samples][columns] -> strips [ceil(columns / strip)][padded samples][strip], padded with zeros.
template <class T>
void pack_strips(const T* rows, int64_t samples, int64_t columns, int64_t padded, int64_t strip, T* strips) {
  for (int64_t k = 0; k < columns; k += strip, strips += padded * strip) {
    const int64_t count = std::min(strip, columns - k);
    for (int64_t s = 0; s < padded; ++s) {
      T* to = strips + s * strip;
      if (s < samples) std::copy_n(rows + s * columns + k, count, to);
      std::fill(to + (s < samples ? count : 0), to + strip, T(0));
    }
  }
}

template <class T>
struct Chunk {
  int64_t first, samples;
  T *x, *y;
  T* weights = nullptr;
};

template <class T>
void pack_targets(const RiskProblem<T>& problem, int64_t panel, const Chunk<T>& chunk) {
  const int64_t outputs = problem.net.outputs, padded = round_up(chunk.samples, panel);
  for (int64_t t = 0; t < problem.tasks; ++t) {
    const int64_t first = t * problem.samples + chunk.first;
    if (!takes_labels(problem.loss.kind)) {
      pack(problem.y + first * outputs, chunk.samples, outputs, panel, chunk.y + t * padded * outputs);
    } else {
      T* labels = chunk.y + t * padded;
      std::copy_n(problem.labels + first, chunk.samples, labels);
      std::fill(labels + chunk.samples, labels + padded, T(0));
    }
  }
}

template <class T>
void pack_weights(const RiskProblem<T>& problem, double scale, int64_t panel, const Chunk<T>& chunk) {
  for (int64_t s = 0; s < round_up(chunk.samples, panel); ++s)
    chunk.weights[s] = s < chunk.samples ? T(scale * double(problem.weights[chunk.first + s])) : T(0);
}

template <class T>
void pack_inputs(const RiskProblem<T>& problem, int64_t panel, const Chunk<T>& chunk) {
  pack(problem.x + chunk.first * problem.net.inputs, chunk.samples, problem.net.inputs, panel, chunk.x);
}

// A batch in chunks of samples.  A wave of them, as many as the plan says, is packed at a time, each in a place of its
// own unless there are only so many places.
template <class T>
class Chunks {
 public:
  template <class Plan>
  Chunks(const RiskProblem<T>& problem, const Plan& plan, int64_t places)
      : problem_(problem),
        size_(plan.chunk),
        most_(plan.chunks),
        panel_(plan.panel),
        targets_(target_columns(problem.net, problem.loss) * problem.tasks),
        columns_(problem.net.inputs + targets_ + (problem.weights ? 1 : 0)),
        scale_(problem.weights ? weight_scale(problem) : 0),
        packed_(places * size_ * columns_) {}

  int64_t wave_samples() const { return most_ * size_; }
  // In the wave from sample `wave` on: how many chunks, and each of them.
  int64_t count(int64_t wave) const { return std::min(most_, divide_up(problem_.samples - wave, size_)); }
  Chunk<T> at(int64_t wave, int64_t i, int64_t place) {
    const int64_t first = wave + i * size_;
    T *x = packed_.data() + place * size_ * columns_, *y = x + size_ * problem_.net.inputs;
    return {first, std::min(size_, problem_.samples - first), x, y, problem_.weights ? y + size_ * targets_ : nullptr};
  }

  void pack_targets(const Chunk<T>& chunk) const {
    cbk::pack_targets(problem_, panel_, chunk);
    if (problem_.weights) pack_weights(problem_, scale_, panel_, chunk);
  }

 private:
  const RiskProblem<T>& problem_;
  int64_t size_, most_, panel_, targets_, columns_;
  double scale_;
  Buffer<T> packed_;
};

}  // namespace cbk
