// What the drivers of the assignment allocate: the packed support and a thread's scratch.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "../common/parallel.hpp"
#include "transport.hpp"

namespace cbk {

template <class T>
double squared_distance(const T* x, const T* y, int64_t size) {
  double total = 0;
  for (int64_t k = 0; k < size; ++k) total += (double(x[k]) - double(y[k])) * (double(x[k]) - double(y[k]));
  return total;
}

// Support points as rows of coordinates [size, padded], times a power of two that brings all coordinates into [-1, 1].
template <class T>
class Measure {
 public:
  Measure(int64_t count, int64_t size, double largest, int64_t lanes)
      : padded(round_up(count, lanes)), count_(count), size_(size), data_(size * padded) {
    int exponent = 0;
    std::frexp(largest, &exponent);
    scale = std::ldexp(1.0, std::min(-exponent, 1000));
    std::fill_n(data_.data(), size * padded, 0.0);
  }
  Measure(const T* points, int64_t count, int64_t size, double largest, int64_t lanes)
      : Measure(count, size, largest, lanes) {
    fill(points);
  }
  void fill(const T* points) {
    for (int64_t j = 0; j < count_; ++j)
      for (int64_t k = 0; k < size_; ++k) data_.data()[k * padded + j] = double(points[j * size_ + k]) * scale;
  }
  const double* data() { return data_.data(); }

  const int64_t padded;
  double scale = 1;

 private:
  const int64_t count_, size_;
  Buffer<double> data_;
};

class Space {
 public:
  Space(int64_t count, int64_t size, int64_t padded, int threads, bool matrix)
      : padded_(padded),
        doubles_((4 + assign_block) * padded + assign_block * size),
        parents_(padded),
        integers_(4 * padded),
        matrix_(matrix && keeps(count * padded, threads) ? count * padded : 0),
        kept_(matrix && keeps(count * padded, threads)) {
    std::fill_n(duals(), padded, -std::numeric_limits<double>::infinity());
  }
  double* duals() { return doubles_.data(); }
  int32_t* match() { return integers_.data(); }
  AssignSpace view() {
    double* d = doubles_.data();
    int32_t* i = integers_.data();
    const int64_t p = padded_;
    return {d + p,     d + 2 * p, d + 3 * p, d + 4 * p, d + (4 + assign_block) * p, parents_.data(),
            i + p,     i + 2 * p, i + 3 * p, kept_ ? matrix_.data() : nullptr};
  }

 private:
  // all threads' matrices of costs together stay below this; larger ones are computed again row by row
  static bool keeps(int64_t entries, int threads) { return entries * threads <= (int64_t(12) << 20) / 8; }

  int64_t padded_;
  Buffer<double> doubles_;
  Buffer<int64_t> parents_;
  Buffer<int32_t> integers_;
  Buffer<double> matrix_;
  bool kept_;
};

}  // namespace cbk
