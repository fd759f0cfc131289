// One particle's step over a range of coordinates, compiled once per instruction set.
#include "../common/philox.hpp"
#include "update.hpp"

namespace cbk::CBK_ISA {
namespace {

template <UpdateForm form, class V>
CBK_INLINE V step(V theta, V point, V z, V a, V b, V floor) {
  const V delta = theta - point;
  if constexpr (form == UpdateForm::multiplied) return fma(fma(b, z, a), delta, theta);
  if constexpr (form == UpdateForm::floored) return fma(sqrt(fma(b * delta, delta, floor)), z, fma(a, delta, theta));
  if constexpr (form == UpdateForm::added) return fma(b, z, fma(a, delta, theta));
  return fma(a, delta, theta);
}

template <UpdateForm form, class T>
void update_row(const UpdateRow<T>& row, const Counter& counter) {
  using V = Vector<T>;
  constexpr int vectors = noise_block / lanes<T>;
  const V a = splat<V>(row.a), b = splat<V>(row.b), floor = splat<V>(row.floor);
  V z[vectors] = {};
  for (int64_t i = row.begin; i < row.end; i += noise_block) {
    if constexpr (form != UpdateForm::quiet) normals(counter, uint32_t(i / 4), z);
    const auto run = [&](const T* theta, const T* point, T* out) {
#pragma GCC unroll 8
      for (int j = 0; j < vectors; ++j) {
        const int at = j * lanes<T>;
        store(out + at, step<form>(load(theta + at), load(point + at), z[j], a, b, floor));
      }
    };
    if (row.end - i >= noise_block) {
      run(row.theta + i, row.point + i, row.out + i);
    } else {
      T theta[noise_block] = {}, point[noise_block] = {}, out[noise_block];
      const size_t bytes = size_t(row.end - i) * sizeof(T);
      std::memcpy(theta, row.theta + i, bytes);
      std::memcpy(point, row.point + i, bytes);
      run(theta, point, out);
      std::memcpy(row.out + i, out, bytes);
    }
  }
}

template <class T>
void update(UpdateForm form, const UpdateRow<T>& row, NoiseKey key, uint32_t particle) {
  const Counter counter{key.seed, key.stream, key.step, key.first_particle + particle};
  switch (form) {
    case UpdateForm::multiplied: return update_row<UpdateForm::multiplied>(row, counter);
    case UpdateForm::floored: return update_row<UpdateForm::floored>(row, counter);
    case UpdateForm::added: return update_row<UpdateForm::added>(row, counter);
    case UpdateForm::quiet: return update_row<UpdateForm::quiet>(row, counter);
  }
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
