// What the drivers of the assignment allocate: packed supports and a thread's scratch.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "../common/parallel.hpp"
#include "transport.hpp"

namespace cbk {

template <class T>
double squared_distance(const T* x, const T* y, int64_t size, double scale = 1) {
  double total = 0;
  for (int64_t k = 0; k < size; ++k) {
    const double difference = double(x[k]) * scale - double(y[k]) * scale;
    total += difference * difference;
  }
  return total;
}

// The power of two that brings magnitudes up to `largest` to 1 at most.
inline double unit_scale(double largest) {
  int exponent = 0;
  std::frexp(largest, &exponent);
  return std::ldexp(1.0, std::min(-exponent, 1000));
}

// Two measures' coordinates in [-1, 1]: less an offset that all have, times a power of two.  Only offsets whose
// difference is exact are taken off [Sterbenz 1974]: where a coordinate's values are of one sign and within a factor of
// two.
template <class T>
class Frame {
 public:
  Frame(const T* x, int64_t x_count, const T* y, int64_t y_count, int64_t size) : offset_(size_t(size)) {
    double largest = 0;
    std::vector<double> extent(offset_.size());
    for (int64_t k = 0; k < size; ++k) {
      double low = double(x[k]), high = low;
      const auto widen = [&](const T* points, int64_t count) {
        for (int64_t i = 0; i < count; ++i)
          low = std::min(low, double(points[i * size + k])), high = std::max(high, double(points[i * size + k]));
      };
      widen(x, x_count), widen(y, y_count);
      double& offset = offset_[size_t(k)];
      if (low > 0 && high / 2 <= low) offset = low;
      if (high < 0 && low / 2 >= high) offset = high;
      largest = std::max({largest, std::abs(low - offset), std::abs(high - offset)});
      extent[size_t(k)] = high / 2 - low / 2;
    }
    scale = unit_scale(largest);
    for (const double e : extent) farthest += 4 * (e * scale) * (e * scale);
  }
  double offset(int64_t k) const { return offset_[size_t(k)]; }
  double at(T value, int64_t k) const { return (double(value) - offset(k)) * scale; }

  double scale;
  double farthest = 0;  // no squared distance is larger, in these coordinates

 private:
  std::vector<double> offset_;
};

// A measure's shape, and the power of two that brings all coordinates into [-1, 1].
struct Shape {
  int64_t count, size, padded, tile;
  double scale;

  Shape(int64_t count, int64_t size, double largest, int64_t lanes, bool tiled = false)
      : count(count),
        size(size),
        padded(round_up(count, tiled ? tile_vectors * lanes : lanes)),
        tile(tiled ? tile_vectors * lanes : padded),
        scale(unit_scale(largest)) {}
};

// Support points as scaled rows of coordinates [padded / tile, size, tile].
template <class C>
class Points {
 public:
  explicit Points(const Shape& shape) : shape_(shape), data_(shape.size * shape.padded) {
    std::fill_n(data_.data(), shape.size * shape.padded, C(0));
  }
  template <class T>
  const C* fill(const T* points) {
    for (int64_t j = 0; j < shape_.count; ++j)
      for (int64_t k = 0; k < shape_.size; ++k)
        data_.data()[(j / shape_.tile * shape_.size + k) * shape_.tile + j % shape_.tile] =
            C(double(points[j * shape_.size + k]) * shape_.scale);
    return data_.data();
  }
  const C* data() { return data_.data(); }

 private:
  const Shape shape_;
  Buffer<C> data_;
};

// One thread's scratch; most: the bytes that kept costs may take.
template <class C>
class Space {
 public:
  Space(const Shape& shape, int64_t most)
      : padded_(shape.padded),
        keeps_(shape.count * shape.padded * int64_t(sizeof(C)) <= most),
        list_(keeps_ || shape.size < many_coordinates ? 0 : columns_of_list(shape.count, most)),
        values_((list_ ? 4 + assign_block : 5) * shape.padded + assign_block * shape.size),
        parents_(shape.padded),
        integers_(4 * shape.padded),
        costs_(keeps_ ? shape.count * shape.padded : 0),
        known_(shape.count),
        listed_(list_ ? (list_ + 3) * shape.count + 2 : 0),
        columns_(list_ ? (list_ + 1) * shape.count : 0) {
    std::fill_n(duals(), padded_, -std::numeric_limits<C>::infinity());
  }
  C* duals() { return values_.data(); }
  int32_t* match() { return integers_.data(); }
  // Scratch for the next problem.
  AssignSpace<C> fresh(int64_t count) {
    std::fill_n(known_.data(), count, false);
    if (list_) std::fill_n(columns_.data(), count, -1);
    C* listed = listed_.data();
    const AssignLists<C> lists{list_,  columns_.data() + count, columns_.data(),       listed + 3 * count + 2,
                               listed, listed + count,          listed + 2 * count + 1};
    C* v = values_.data();
    int32_t* i = integers_.data();
    const int64_t p = padded_;
    C* scaled = v + (list_ ? 4 + assign_block : 5) * p;
    return {v + p,           v + 2 * p, v + 3 * p, v + 4 * p, scaled,
            parents_.data(), i + p,     i + 2 * p, i + 3 * p, keeps_ ? costs_.data() : nullptr,
            known_.data(),   lists};
  }

 private:
  static constexpr int64_t longest = 128, shortest = 16;
  static int64_t columns_of_list(int64_t count, int64_t most) {
    return std::clamp(most / (count * int64_t(sizeof(C) + sizeof(int32_t))), shortest, longest);
  }

  int64_t padded_;
  bool keeps_;
  int64_t list_;  // columns of each row's list
  Buffer<C> values_;
  Buffer<typename AssignSpace<C>::Index> parents_;
  Buffer<int32_t> integers_;
  Buffer<C> costs_;
  Buffer<bool> known_;
  Buffer<C> listed_;
  Buffer<int32_t> columns_;
};

}  // namespace cbk
