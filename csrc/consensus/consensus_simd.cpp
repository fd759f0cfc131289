// Sums over particles for a block of coordinates, compiled once per instruction set.
#include "../common/simd.hpp"
#include "consensus.hpp"

namespace cbk::CBK_ISA {
namespace {

CBK_INLINE void add_scaled(double* sum, double w, const double* x, int64_t count) {
  int64_t i = 0;
  for (; i + lanes<double> <= count; i += lanes<double>)
    store(sum + i, mad(splat<F64>(w), load(x + i), load(sum + i)));
  for (; i < count; ++i) sum[i] += w * x[i];
}

CBK_INLINE void add_scaled(double* sum, double w, const float* x, int64_t count) {
  int64_t i = 0;
  for (; i + lanes<float> <= count; i += lanes<float>) {
    const Pair64 v = widen(load(x + i));
    double* p = sum + i;
    store(p, mad(splat<F64>(w), v.low, load(p)));
    store(p + lanes<double>, mad(splat<F64>(w), v.high, load(p + lanes<double>)));
  }
  for (; i < count; ++i) sum[i] += w * double(x[i]);
}

template <class T>
void weighted_sum(const T* theta, int64_t stride, const int64_t* rows, const double* weights, int64_t count,
                  int64_t begin, int64_t end, T* out) {
  alignas(64) double total[consensus_block] = {};
  for (int64_t j = 0; j < count; ++j) add_scaled(total, weights[j], theta + rows[j] * stride + begin, end - begin);
  for (int64_t i = begin; i < end; ++i) out[i] = T(total[i - begin]);
}

template <class T>
double spread(const T* theta, int64_t particles, int64_t stride, int64_t begin, int64_t end) {
  alignas(64) double mean[consensus_block] = {};
  const int64_t count = end - begin;
  for (int64_t n = 0; n < particles; ++n) add_scaled(mean, 1.0 / double(particles), theta + n * stride + begin, count);
  F64 total{};
  double rest = 0;
  for (int64_t n = 0; n < particles; ++n) {
    const T* x = theta + n * stride + begin;
    int64_t i = 0;
    for (; i + lanes<double> <= count; i += lanes<double>) {
      F64 v;
      for (int l = 0; l < lanes<double>; ++l) v[l] = double(x[i + l]);
      total = add_square(total, v - load(mean + i));
    }
    for (; i < count; ++i) rest += (double(x[i]) - mean[i]) * (double(x[i]) - mean[i]);
  }
  return sum(total) + rest;
}

}  // namespace

template <class T>
ConsensusKernels<T> consensus_kernels() {
  return {weighted_sum<T>, spread<T>};
}
template ConsensusKernels<float> consensus_kernels();
template ConsensusKernels<double> consensus_kernels();

}  // namespace cbk::CBK_ISA
