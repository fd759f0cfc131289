// Sums over particles for a block of coordinates, compiled once per instruction set.
#include "../common/interrupt.hpp"
#include "../common/simd.hpp"
#include "consensus.hpp"

namespace cbk::CBK_ISA {
namespace {

// Particles at a time: the sums are loaded and stored once for all of them, and so many streams of memory are open.
constexpr int together = 8;
constexpr int unroll = 4;  // vectors of sums

// Coordinates [begin, end) of the particles rows[j].
template <class T>
struct Slab {
  const T* theta;
  int64_t stride;
  const int64_t* rows;
  int64_t count, begin, end;

  const T* row(int64_t j) const { return theta + rows[j] * stride + begin; }
};

// sum[i] += w[0] x[0][i] + ... + w[R - 1] x[R - 1][i], one fma after the other.
template <int R, class T>
CBK_INLINE void add_scaled(double* sum, const double* w, const T* const (&x)[R], int64_t count) {
  constexpr int step = unroll * lanes<double>, line = 64 / int(sizeof(T));
  constexpr int ahead = 16 * line;  // so many streams are more than the hardware follows by itself
  int64_t i = 0;
  for (; i + step <= count; i += step) {
    F64 s[unroll];
    CBK_UNROLL(4)
    for (int u = 0; u < unroll; ++u) s[u] = load(sum + i + u * lanes<double>);
    CBK_UNROLL(8)
    for (int r = 0; r < R; ++r) {
      CBK_UNROLL(4)
      for (int p = 0; p < step; p += line) __builtin_prefetch(x[r] + i + ahead + p);
      CBK_UNROLL(4)
      for (int u = 0; u < unroll; ++u) s[u] = mad(splat<F64>(w[r]), load_double(x[r] + i + u * lanes<double>), s[u]);
    }
    CBK_UNROLL(4)
    for (int u = 0; u < unroll; ++u) store(sum + i + u * lanes<double>, s[u]);
  }
  for (; i < count; ++i)
    for (int r = 0; r < R; ++r) sum[i] = mad(w[r], double(x[r][i]), sum[i]);
}

// The rows from j on, R at a time, the rest by half as many.
template <int R, class T>
CBK_INLINE void add_rows(double* sum, const Slab<T>& slab, const double* weights, int64_t j) {
  Paced paced;
  for (; j + R <= slab.count; j += R) {
    paced(R * (10 + slab.end - slab.begin));
    const T* x[R];
    for (int r = 0; r < R; ++r) x[r] = slab.row(j + r);
    add_scaled(sum, weights + j, x, slab.end - slab.begin);
  }
  if constexpr (R > 1) add_rows<R / 2>(sum, slab, weights, j);
}

template <class T, class Out>
void weighted_sum(const T* theta, int64_t stride, const int64_t* rows, const double* weights, int64_t count,
                  int64_t begin, int64_t end, Out* out) {
  alignas(64) double total[longest_block];
  std::memset(total, 0, size_t(end - begin) * sizeof(double));
  add_rows<together>(total, Slab<T>{theta, stride, rows, count, begin, end}, weights, 0);
  for (int64_t i = begin; i < end; ++i) out[i] = Out(total[i - begin]);
}

// Means and sums of squared differences from them, of n particles, after R more [Chan, Golub, LeVeque 1983].
template <int R, class V, class T>
CBK_INLINE void add_moments(double* mean, double* squares, int64_t n, const T* theta, int64_t stride) {
  V x[R], m, q, center{}, spread{};
  std::memcpy(&m, mean, sizeof m), std::memcpy(&q, squares, sizeof q);
  CBK_UNROLL(8)
  for (int r = 0; r < R; ++r) {
    if constexpr (sizeof(V) == sizeof(double))
      x[r] = double(theta[r * stride]);
    else
      x[r] = load_double(theta + r * stride);
    center += x[r];
  }
  center *= 1.0 / R;
  CBK_UNROLL(8)
  for (int r = 0; r < R; ++r) spread = mad(x[r] - center, x[r] - center, spread);
  const double share = double(R) / double(n + R);
  const V delta = center - m;
  m += delta * share, q += spread + delta * delta * (share * double(n));
  std::memcpy(mean, &m, sizeof m), std::memcpy(squares, &q, sizeof q);
}

// Rows of theta[particles, count], rows `stride` apart, from the n-th on, R at a time.
template <int R, class T>
CBK_INLINE int64_t add_moments(double* mean, double* squares, int64_t n, const T* theta, int64_t particles,
                               int64_t stride, int64_t count) {
  constexpr int line = 64 / int(sizeof(T));
  Paced paced;
  for (; n + R <= particles; n += R) {
    paced(R * (10 + count));
    const T *x = theta + n * stride, *next = n + 2 * R <= particles ? x + R * stride : x;
    int64_t i = 0;
    for (; i + line <= count; i += line) {
      CBK_UNROLL(8)
      for (int r = 0; r < R; ++r) __builtin_prefetch(next + r * stride + i);
      CBK_UNROLL(8)
      for (int l = 0; l < line; l += lanes<double>)
        add_moments<R, F64>(mean + i + l, squares + i + l, n, x + i + l, stride);
    }
    for (; i + lanes<double> <= count; i += lanes<double>) add_moments<R, F64>(mean + i, squares + i, n, x + i, stride);
    for (; i < count; ++i) add_moments<R, double>(mean + i, squares + i, n, x + i, stride);
  }
  return n;
}

template <class T>
double spread(const T* theta, int64_t particles, int64_t stride, int64_t begin, int64_t end) {
  alignas(64) double mean[consensus_block] = {}, squares[consensus_block] = {};
  const T* x = theta + begin;
  const int64_t count = end - begin, n = add_moments<together>(mean, squares, 0, x, particles, stride, count);
  add_moments<1>(mean, squares, n, x, particles, stride, count);
  double total = 0;
  for (int64_t i = 0; i < count; ++i) total += squares[i];
  return total;
}

}  // namespace

template <class T>
ConsensusKernels<T> consensus_kernels() {
  return {weighted_sum<T, T>, weighted_sum<T, double>, spread<T>};
}
template ConsensusKernels<float> consensus_kernels();
template ConsensusKernels<double> consensus_kernels();

}  // namespace cbk::CBK_ISA
