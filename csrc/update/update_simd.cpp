// One particle's step over a range of coordinates, compiled once per instruction set.
#include "../common/philox.hpp"
#include "update_math.hpp"

namespace cbk::CBK_ISA {
namespace {

// N vectors from `at` on of a row whose pointers start there; factor: nullptr, or each coordinate's b.
template <UpdateForm form, bool adam, bool near, class T, int N>
CBK_INLINE void update_block(const UpdateRow<T>& row, int64_t at, const Vector<T> (&z)[N], const T* factor) {
  using V = Vector<T>;
  constexpr int ahead = 2048, line = 64;  // bytes; memory is read while normals are computed
  for (int p = 0; p < N * register_bytes; p += line)
    __builtin_prefetch(reinterpret_cast<const char*>(row.theta + at) + ahead + p);
#pragma GCC unroll 8
  for (int j = 0; j < N; ++j, at += lanes<T>) {
    V theta = load(row.theta + at);
    if (adam && form == UpdateForm::still && row.decay != 0) theta = theta - splat<V>(row.decay) * theta;
    const V delta = form == UpdateForm::still ? theta : theta - load(row.point + at);
    V start = theta;
    if constexpr (adam) {
      V first = load(row.first + at), second = load(row.second + at);
      start = descended(theta, load(row.gradient + at), first, second, row.adam);
      store(row.first + at, first), store(row.second + at, second);
    }
    const V b = factor ? load(factor + at) : splat<V>(row.b);
    store(row.out + at, moved<form, near>(start, delta, z[j], splat<V>(row.a), b, splat<V>(row.floor)));
  }
}

// The last, incomplete block goes through a padded copy.
template <UpdateForm form, bool adam, bool near, class T, int N>
CBK_INLINE void update_rest(const UpdateRow<T>& row, int64_t at, const Vector<T> (&z)[N], const T* factor) {
  constexpr int block = N * lanes<T>;
  const size_t bytes = size_t(row.end - at) * sizeof(T);
  T theta[block] = {}, point[block] = {}, gradient[block] = {}, first[block] = {}, second[block] = {};
  UpdateRow<T> copy = row;
  copy.theta = copy.out = static_cast<T*>(std::memcpy(theta, row.theta + at, bytes));
  copy.point = point;
  if constexpr (form != UpdateForm::still) std::memcpy(point, row.point + at, bytes);
  if constexpr (adam) {
    copy.gradient = static_cast<T*>(std::memcpy(gradient, row.gradient + at, bytes));
    copy.first = static_cast<T*>(std::memcpy(first, row.first + at, bytes));
    copy.second = static_cast<T*>(std::memcpy(second, row.second + at, bytes));
  }
  update_block<form, adam, near>(copy, 0, z, factor);
  std::memcpy(row.out + at, theta, bytes);
  if constexpr (adam) {
    std::memcpy(row.first + at, first, bytes);
    std::memcpy(row.second + at, second, bytes);
  }
}

// row by value: writing theta then cannot change it, and it stays in registers
template <UpdateForm form, bool adam, bool near, class T>
void update_row(const UpdateRow<T> row, const Counter& counter) {
  constexpr bool noisy = draws(form);
  constexpr const T* same_b = nullptr;
  NoiseRow<T> noise(counter, row.begin, row.end - row.begin);
  Vector<T> z[noise_block / lanes<T>] = {};
  int64_t i = row.begin;
  for (; i + noise_block <= row.end; i += noise_block) {
    if constexpr (noisy) noise.next(z);
    update_block<form, adam, near>(row, i, z, same_b);
  }
  if (i == row.end) return;
  if constexpr (noisy) noise.next(z);
  update_rest<form, adam, near>(row, i, z, same_b);
}

template <UpdateForm form, bool adam, bool near, class T>
void update_drawn(const UpdateRow<T> row, const T* noise, const T* factor) {
  Vector<T> z[1];
  int64_t i = 0;
  for (; i + lanes<T> <= row.end; i += lanes<T>) {
    z[0] = load(noise + i);
    update_block<form, adam, near>(row, i, z, factor);
  }
  if (i == row.end) return;
  z[0] = load(noise + i);
  update_rest<form, adam, near>(row, i, z, factor + i);
}

// f(form, whether Adam has a part, whether the floor is near), all as constants.
template <class T, class F>
CBK_INLINE void by_form(UpdateForm form, const UpdateRow<T>& row, F f) {
  with_form(form, [&](auto constant) {
    const auto start = [&](auto near) {
      row.gradient ? f(constant, std::true_type(), near) : f(constant, std::false_type(), near);
    };
    if constexpr (constant() == UpdateForm::floored)
      if (has_near_floor(row.floor)) return start(std::true_type());
    start(std::false_type());
  });
}

template <class T>
void update(UpdateForm form, const UpdateRow<T>& row, NoiseKey key, uint32_t particle) {
  const Counter counter{key.seed, key.stream, key.step, key.first_particle + particle};
  by_form(form, row,
          [&](auto constant, auto adam, auto near) { update_row<constant(), adam(), near()>(row, counter); });
}

template <class T>
void drawn(UpdateForm form, const UpdateRow<T>& row, const T* noise, const T* factor) {
  by_form(form, row,
          [&](auto constant, auto adam, auto near) { update_drawn<constant(), adam(), near()>(row, noise, factor); });
}

template <class T>
CBK_INLINE double distance2(const T* theta, const T* point, int64_t count) {
  F64 total{};
  int64_t i = 0;
  for (; i + lanes<T> <= count; i += lanes<T>) total = add_square(total, load(theta + i) - load(point + i));
  double rest = 0;
  for (; i < count; ++i) rest += double(theta[i] - point[i]) * double(theta[i] - point[i]);
  return sum(total) + rest;
}

// Rows of so few coordinates that a loop over them would cost more than they do.
template <int size, class T>
CBK_INLINE void shortest_distances2(const T* theta, const T* point, int64_t rows, double* out) {
  for (int64_t row = 0; row < rows; ++row) {
    double total = 0;
    CBK_UNROLL(4)
    for (int64_t i = row * size; i < (row + 1) * size; ++i)
      total += double(theta[i] - point[i]) * double(theta[i] - point[i]);
    out[row] = total;
  }
}

template <class T>
void distances2(const T* theta, const T* point, int64_t rows, int64_t size, double* out) {
  if (size < lanes<T>) {
    switch (size) {
      case 1: return shortest_distances2<1>(theta, point, rows, out);
      case 2: return shortest_distances2<2>(theta, point, rows, out);
      case 3: return shortest_distances2<3>(theta, point, rows, out);
      case 4: return shortest_distances2<4>(theta, point, rows, out);
    }
  }
  if (size >= lanes<T>) {
    for (int64_t row = 0; row < rows; ++row) out[row] = distance2(theta + row * size, point + row * size, size);
    return;
  }
  for (int64_t row = 0; row < rows; ++row, theta += size, point += size) {  // the same without vectors
    double total = 0;
    for (int64_t i = 0; i < size; ++i) total += double(theta[i] - point[i]) * double(theta[i] - point[i]);
    out[row] = total;
  }
}

}  // namespace

template <class T>
UpdateKernels<T> update_kernels() {
  return {update<T>, distance2<T>, drawn<T>, distances2<T>};
}
template UpdateKernels<float> update_kernels();
template UpdateKernels<double> update_kernels();

}  // namespace cbk::CBK_ISA
