// Batches as the inner kernels read them.
#pragma once

#include <algorithm>

#include "../common/parallel.hpp"
#include "risk.hpp"

namespace cbk {

// Numbers that a sample's targets take.
inline int64_t target_columns(const Network& net, Loss loss) {
  return targets_of(loss) == Targets::labels ? 1 : net.outputs;
}

// rows [samples][columns] -> packed [panels][columns][panel], padded with zeros.
template <class T>
void pack(const T* rows, int64_t samples, int64_t columns, int64_t panel, T* packed) {
  for (int64_t s0 = 0; s0 < samples; s0 += panel, packed += columns * panel) {
    const int64_t count = std::min(samples - s0, panel);
    // 16 columns at a time: the panel's rows are read in whole cache lines
    for (int64_t k0 = 0; k0 < columns; k0 += 16)
      for (int64_t s = 0; s < count; ++s)
        for (int64_t k = k0; k < std::min(k0 + 16, columns); ++k)
          packed[k * panel + s] = rows[(s0 + s) * columns + k];
    for (int64_t k = 0; k < columns && count < panel; ++k)
      std::fill(packed + k * panel + count, packed + (k + 1) * panel, T(0));
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

constexpr int64_t sparse_range_bytes = 40 << 10;  // of a range's weights: most stay in L1, and lists stay long

// Memory for a chunk's lists, with room for every input.
template <class T>
struct Lists {
  Lists(int64_t starts, int64_t entries) : start(starts), line(entries), value(entries) {}
  Buffer<int32_t> start, line;
  Buffer<T> value;
};

// Lists of non-zero inputs as lists.hpp reads them.
template <class T>
SparseRows<T> pack_rows(const T* x, int64_t samples, int64_t inputs, int64_t range, Lists<T>& lists) {
  int32_t* const start = lists.start.data();
  int32_t* const line = lists.line.data();
  T* const value = lists.value.data();
  int32_t count = 0;
  int32_t* list = start;
  for (int64_t k0 = 0; k0 < inputs; k0 += range) {
    const int64_t end = std::min(k0 + range, inputs);
    for (int64_t s = 0; s < samples; ++s) {
      *list++ = count;
      for (int64_t k = k0; k < end; ++k) {  // without a branch: what is written for a zero is overwritten
        const T v = x[s * inputs + k];
        line[count] = int32_t(k - k0), value[count] = v;
        count += v != 0;
      }
    }
  }
  *list = count;
  return {range, samples, start, line, value};
}

// The same by tiles of samples and then inputs: the samples, counted within their tile, where an input is not zero.
template <class T>
SparseRows<T> pack_columns(const T* x, int64_t samples, int64_t inputs, int64_t tile, Lists<T>& lists) {
  int32_t* const start = lists.start.data();
  int32_t* const line = lists.line.data();
  T* const value = lists.value.data();
  const int64_t tiles = divide_up(samples, tile);
  std::fill_n(start, tiles * inputs + 1, 0);
  for (int64_t s = 0; s < samples; ++s)
    for (int64_t k = 0; k < inputs; ++k) start[s / tile * inputs + k + 1] += x[s * inputs + k] != 0;
  for (int64_t i = 0; i < tiles * inputs; ++i) start[i + 1] += start[i];
  for (int64_t s = 0; s < samples; ++s) {
    int32_t* next = start + s / tile * inputs;  // moves to its list's end: the next list's start
    for (int64_t k = 0; k < inputs; ++k)
      if (const T v = x[s * inputs + k]; v != 0) line[next[k]] = int32_t(s % tile), value[next[k]++] = v;
  }
  std::copy_backward(start, start + tiles * inputs, start + tiles * inputs + 1);
  start[0] = 0;
  return {tile, inputs, start, line, value};
}

template <class T>
struct Chunk {
  int64_t first, samples;
  T *x, *y;
};

template <class T>
void pack_targets(const RiskProblem<T>& problem, int64_t panel, const Chunk<T>& chunk) {
  const int64_t outputs = problem.net.outputs, padded = round_up(chunk.samples, panel);
  for (int64_t t = 0; t < problem.tasks; ++t) {
    const int64_t first = t * problem.samples + chunk.first;
    if (targets_of(problem.loss) == Targets::values) {
      pack(problem.y + first * outputs, chunk.samples, outputs, panel, chunk.y + t * padded * outputs);
    } else {
      T* labels = chunk.y + t * padded;
      std::copy_n(problem.labels + first, chunk.samples, labels);
      std::fill(labels + chunk.samples, labels + padded, T(0));
    }
  }
}

template <class T>
void pack_inputs(const RiskProblem<T>& problem, int64_t panel, const Chunk<T>& chunk) {
  pack(problem.x + chunk.first * problem.net.inputs, chunk.samples, problem.net.inputs, panel, chunk.x);
}

template <class T>
void pack_chunk(const RiskProblem<T>& problem, int64_t panel, const Chunk<T>& chunk) {
  pack_inputs(problem, panel, chunk);
  pack_targets(problem, panel, chunk);
}

}  // namespace cbk
