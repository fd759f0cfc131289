// Lists of a batch's non-zero inputs, by samples as lists.hpp reads them and by inputs as list_gradient.hpp does.
#pragma once

#include <algorithm>

#include "../../common/parallel.hpp"
#include "../risk.hpp"

namespace cbk {

constexpr int64_t list_range_bytes = 40 << 10;  // of a range's weights: most stay in L1, and lists stay long

// Memory for a chunk's lists, with room for every input.
template <class T>
struct ListMemory {
  ListMemory(int64_t starts, int64_t entries) : start(starts), line(entries), value(entries) {}
  Buffer<int32_t> start, line;
  Buffer<T> value;
};

// Lists of non-zero inputs as lists.hpp reads them.
template <class T>
InputLists<T> pack_rows(const T* x, int64_t samples, int64_t inputs, int64_t range, ListMemory<T>& lists) {
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
InputLists<T> pack_columns(const T* x, int64_t samples, int64_t inputs, int64_t tile, ListMemory<T>& lists) {
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

}  // namespace cbk
