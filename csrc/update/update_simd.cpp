// One particle's step over a range of coordinates, compiled once per instruction set.
#include "../common/philox.hpp"
#include "update_math.hpp"

namespace cbk::CBK_ISA {
namespace {

// noise_block coordinates from `at` on of a row whose pointers start there.
template <UpdateForm form, bool adam, class T, int N>
CBK_INLINE void update_block(const UpdateRow<T>& row, int64_t at, const Vector<T> (&z)[N]) {
  using V = Vector<T>;
  constexpr int ahead = 2048, line = 64;  // bytes; while normals are drawn, memory would rest
  for (int p = 0; p < N * register_bytes; p += line)
    __builtin_prefetch(reinterpret_cast<const char*>(row.theta + at) + ahead + p);
#pragma GCC unroll 8
  for (int j = 0; j < N; ++j, at += lanes<T>) {
    const V theta = load(row.theta + at);
    const V delta = form == UpdateForm::still ? theta : theta - load(row.point + at);
    V start = theta;
    if constexpr (adam) {
      V first = load(row.first + at), second = load(row.second + at);
      start = descended(theta, load(row.gradient + at), first, second, row.adam);
      store(row.first + at, first), store(row.second + at, second);
    }
    store(row.out + at, moved<form>(start, delta, z[j], splat<V>(row.a), splat<V>(row.b), splat<V>(row.floor)));
  }
}

// row by value: what nobody else sees stays in registers while theta is written
template <UpdateForm form, bool adam, class T>
void update_row(const UpdateRow<T> row, const Counter& counter) {
  constexpr bool noisy = form != UpdateForm::quiet && form != UpdateForm::still;
  NoiseRow<T> noise(counter, row.begin, row.end - row.begin);
  Vector<T> z[noise_block / lanes<T>] = {};
  int64_t i = row.begin;
  for (; i + noise_block <= row.end; i += noise_block) {
    if constexpr (noisy) noise.next(z);
    update_block<form, adam>(row, i, z);
  }
  if (i == row.end) return;
  // the last, incomplete block goes through a padded copy
  if constexpr (noisy) noise.next(z);
  const size_t bytes = size_t(row.end - i) * sizeof(T);
  T theta[noise_block] = {}, point[noise_block] = {}, gradient[noise_block] = {}, first[noise_block] = {},
    second[noise_block] = {};
  UpdateRow<T> copy = row;
  copy.theta = copy.out = static_cast<T*>(std::memcpy(theta, row.theta + i, bytes));
  copy.point = point;
  if constexpr (form != UpdateForm::still) std::memcpy(point, row.point + i, bytes);
  if constexpr (adam) {
    copy.gradient = static_cast<T*>(std::memcpy(gradient, row.gradient + i, bytes));
    copy.first = static_cast<T*>(std::memcpy(first, row.first + i, bytes));
    copy.second = static_cast<T*>(std::memcpy(second, row.second + i, bytes));
  }
  update_block<form, adam>(copy, 0, z);
  std::memcpy(row.out + i, theta, bytes);
  if constexpr (adam) {
    std::memcpy(row.first + i, first, bytes);
    std::memcpy(row.second + i, second, bytes);
  }
}

template <UpdateForm form, class T>
void update_row(const UpdateRow<T>& row, const Counter& counter) {
  row.gradient ? update_row<form, true>(row, counter) : update_row<form, false>(row, counter);
}

template <class T>
void update(UpdateForm form, const UpdateRow<T>& row, NoiseKey key, uint32_t particle) {
  const Counter counter{key.seed, key.stream, key.step, key.first_particle + particle};
  switch (form) {
    case UpdateForm::multiplied: return update_row<UpdateForm::multiplied>(row, counter);
    case UpdateForm::floored: return update_row<UpdateForm::floored>(row, counter);
    case UpdateForm::added: return update_row<UpdateForm::added>(row, counter);
    case UpdateForm::quiet: return update_row<UpdateForm::quiet>(row, counter);
    case UpdateForm::still: return update_row<UpdateForm::still>(row, counter);
  }
  __builtin_unreachable();  // the compiler asks for every form above
}

template <class T>
double distance2(const T* theta, const T* point, int64_t count) {
  F64 total{};
  int64_t i = 0;
  for (; i + lanes<T> <= count; i += lanes<T>) total = add_square(total, load(theta + i) - load(point + i));
  double rest = 0;
  for (; i < count; ++i) rest += double(theta[i] - point[i]) * double(theta[i] - point[i]);
  return sum(total) + rest;
}

}  // namespace

template <class T>
UpdateKernels<T> update_kernels() {
  return {update<T>, distance2<T>};
}
template UpdateKernels<float> update_kernels();
template UpdateKernels<double> update_kernels();

}  // namespace cbk::CBK_ISA
