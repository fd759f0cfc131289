// Sums over particles for a block of coordinates, compiled once per instruction set.
#include "../common/interrupt.hpp"
#include "../common/transpose.hpp"
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

// Rows of at most V vectors, their sums in registers: the n-th row goes to the n % S-th of S sums.  Whole vectors are
// read; what comes of the numbers behind a row is not used.
template <int V, int S, class T>
struct ShortSums {
  static constexpr int width = V * lanes<double>;
  F64 sum[S][V] = {};

  CBK_INLINE void add(F64 (&s)[V], double w, const T* x) {
    CBK_UNROLL(16)
    for (int v = 0; v < V; ++v) s[v] = mad(splat<F64>(w), load_double(x + v * lanes<double>), s[v]);
  }
  // Adds `rows` rows; the first one's number is a multiple of S.  No call stands in the loop: sums stay in registers.
  CBK_INLINE void add_rows(const T* theta, int64_t size, const double* weights, int64_t stride, int64_t rows) {
    F64 own[S][V];
    std::memcpy(own, sum, sizeof own);
    int64_t n = 0;
    for (; n + S <= rows; n += S) {
      CBK_UNROLL(4)
      for (int s = 0; s < S; ++s)
        if (const double w = weights[(n + s) * stride]; w > 0) add(own[s], w, theta + (n + s) * size);
    }
    std::memcpy(sum, own, sizeof own);
    for (int s = 0; s < rows - n; ++s)
      if (const double w = weights[(n + s) * stride]; w > 0) add(sum[s], w, theta + (n + s) * size);
  }
};

template <int V, int S, class T, class Out>
void sum_short(const T* theta, int64_t size, int64_t particles, const double* weights, int64_t stride, Out* out) {
  using Sums = ShortSums<V, S, T>;
  constexpr int64_t often = 1 << 16;
  const int64_t spare = particles * size - Sums::width, followed = spare < 0 ? 0 : spare / size + 1;
  Sums sums;
  for (int64_t n = 0; n < followed; n += often, poll()) {
    const int64_t rows = followed - n < often ? followed - n : often;
    sums.add_rows(theta + n * size, size, weights + n * stride, stride, rows);
  }
  for (int64_t n = followed; n < particles; ++n) {  // the last ones have no numbers behind them
    T row[Sums::width] = {};
    for (int64_t i = 0; i < size; ++i) row[i] = theta[n * size + i];
    if (const double w = weights[n * stride]; w > 0) sums.add(sums.sum[n % S], w, row);
  }
  double total[S][Sums::width];
  std::memcpy(total, sums.sum, sizeof total);
  for (int64_t i = 0; i < size; ++i) {
    double all = total[0][i];
    if constexpr (S == 4) all = (all + total[2][i]) + (total[1][i] + total[3][i]);
    out[i] = Out(all);
  }
}

// Lane l of the v-th of D vectors, which hold `lanes` rows of D numbers, belongs to this row.
template <int D, size_t v, size_t... l>
constexpr auto rows_of(std::index_sequence<l...>) {
  return std::index_sequence<(v * sizeof...(l) + l) / D...>{};
}

// Rows of D numbers each, as one line of numbers, `together` rows at a time: so the n-th row goes to the n % 8-th sum.
template <int D, class T>
struct LineSums {
  static constexpr int groups = together / lanes<double>;
  F64 sum[groups][D] = {};

  // Of one group of rows; those whose weight is not above 0 have no part where not `all` of them are.
  template <bool all, size_t... v>
  CBK_INLINE void add(F64 (&s)[D], F64 w, const T* x, std::index_sequence<v...>) {
    const auto add_one = [&](F64& to, F64 own, F64 numbers) __attribute__((always_inline)) {
      to = mad(own, all ? numbers : (own > 0.0 ? numbers : F64{}), to);
    };
    constexpr auto every = std::make_index_sequence<lanes<double>>{};
    (add_one(s[v], picked(w, w, rows_of<D, v>(every)), load_double(x + v * lanes<double>)), ...);
  }
  template <bool all>
  CBK_INLINE void add(F64 (&s)[groups][D], const F64 (&w)[groups], const T* x) {
    CBK_UNROLL(4)
    for (int g = 0; g < groups; ++g) add<all>(s[g], w[g], x + g * D * lanes<double>, std::make_index_sequence<D>{});
  }
  // A multiple of `together` rows.  There is no call in the loop, so that the sums stay in registers.
  CBK_INLINE void add_rows(const T* theta, const double* weights, int64_t rows) {
    F64 own[groups][D];
    std::memcpy(own, sum, sizeof own);
    for (int64_t n = 0; n < rows; n += together) {
      F64 w[groups];
      I64 without{};
      CBK_UNROLL(4)
      for (int g = 0; g < groups; ++g) {
        w[g] = load(weights + n + g * lanes<double>);
        without |= ~(w[g] > 0.0);
      }
      if (!any(without))
        add<true>(own, w, theta + n * D);
      else
        add<false>(own, w, theta + n * D);
    }
    std::memcpy(sum, own, sizeof own);
  }
};

template <int D, class T, class Out>
void sum_line(const T* theta, int64_t particles, const double* weights, int64_t stride, Out* out) {
  constexpr int64_t at_once = 512;
  LineSums<D, T> sums;
  double own[at_once];  // weights side by side
  Paced paced;
  for (int64_t n = 0, rows; n < particles; n += rows) {
    rows = particles - n < at_once ? particles - n : at_once;
    paced(rows * (10 + D));
    const double* w = weights + n * stride;
    if (stride != 1 || rows % together != 0) {
      CBK_UNROLL(8)
      for (int64_t i = 0; i < rows; ++i) own[i] = w[i * stride];
      w = own;
    }
    const int64_t whole = rows / together * together;
    sums.add_rows(theta + n * D, w, whole);
    if (whole == rows) continue;
    T rest[together * D] = {};
    for (int64_t i = whole * D; i < rows * D; ++i) rest[i - whole * D] = theta[n * D + i];
    for (int64_t i = rows; i < whole + together; ++i) own[i] = 0;
    sums.add_rows(rest, own + whole, together);
  }
  double total[together * D];
  std::memcpy(total, sums.sum, sizeof total);
  for (int i = 0; i < D; ++i) {
    const auto pair = [&](int r) { return total[r * D + i] + total[(r + 4) * D + i]; };
    out[i] = Out((pair(0) + pair(2)) + (pair(1) + pair(3)));
  }
}

template <class T, class Out, int D = 1>
void line_sum(const T* theta, int64_t size, int64_t particles, const double* weights, int64_t stride, Out* out) {
  if constexpr (D < line_mean)
    if (size > D) return line_sum<T, Out, D + 1>(theta, size, particles, weights, stride, out);
  sum_line<D>(theta, particles, weights, stride, out);
}

template <class T, class Out, int V = 1>
void short_sum(const T* theta, int64_t size, int64_t particles, const double* weights, int64_t stride, Out* out) {
  if constexpr (V * lanes<double> < short_mean)
    if (size > V * lanes<double>)
      return short_sum<T, Out, (V < 4 ? V + 1 : V + V / 2)>(theta, size, particles, weights, stride, out);
  if (size <= line_mean)
    line_sum(theta, size, particles, weights, stride, out);
  else if (size <= 8)
    sum_short<(V < 8 / lanes<double> ? V : 8 / lanes<double>), 4>(theta, size, particles, weights, stride, out);
  else
    sum_short<V, 1>(theta, size, particles, weights, stride, out);
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

// Rows of theta[particles, count], rows `stride` apart, from the n-th on, R at a time; theta has so many numbers in
// all. Whole vectors are read where numbers follow; what comes of those behind `count` is not used.
template <int R, class T>
CBK_INLINE int64_t add_moments(double* mean, double* squares, int64_t n, const T* theta, int64_t particles,
                               int64_t stride, int64_t count, int64_t numbers) {
  constexpr int line = 64 / int(sizeof(T));
  const int64_t padded = (count + lanes<double> - 1) / lanes<double> * lanes<double>;
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
    const int64_t there = numbers - (n + R - 1) * stride, readable = there < padded ? there : padded;
    for (; i + lanes<double> <= readable; i += lanes<double>)
      add_moments<R, F64>(mean + i, squares + i, n, x + i, stride);
    for (; i < count; ++i) add_moments<R, double>(mean + i, squares + i, n, x + i, stride);
  }
  return n;
}

// The same of rows of D numbers each, as one line of numbers: a lane has the moments of every eighth row.
template <int D, class T>
double spread_of_line(const T* theta, int64_t particles) {
  constexpr int vectors = together * D / lanes<double>;
  F64 mean[vectors] = {}, squares[vectors] = {};
  const int64_t whole = particles / together;
  Paced paced;
  for (int64_t n = 0; n < whole; ++n) {
    paced(together * (10 + D));
    const double share = 1 / double(n + 1);
    CBK_UNROLL(20)
    for (int v = 0; v < vectors; ++v) {
      const F64 x = load_double(theta + n * together * D + v * lanes<double>), delta = x - mean[v];
      mean[v] = mad(delta, splat<F64>(share), mean[v]);
      squares[v] = mad(delta, x - mean[v], squares[v]);
    }
  }
  double own_mean[together * D], own_squares[together * D], total = 0;
  std::memcpy(own_mean, mean, sizeof mean), std::memcpy(own_squares, squares, sizeof squares);
  for (int i = 0; i < D; ++i) {
    double m = 0, q = 0;
    int64_t count = 0;
    const auto join = [&](double other, double other_squares, int64_t more) {
      const double delta = other - m, part = double(more) / double(count + more);
      m += delta * part, q += other_squares + delta * delta * part * double(count), count += more;
    };
    for (int r = 0; r < together && whole > 0; ++r) join(own_mean[r * D + i], own_squares[r * D + i], whole);
    for (int64_t n = whole * together; n < particles; ++n) join(double(theta[n * D + i]), 0, 1);
    total += q;
  }
  return total;
}

template <class T, int D = 1>
double spread_of_lines(const T* theta, int64_t particles, int64_t size) {
  if constexpr (D < line_mean)
    if (size > D) return spread_of_lines<T, D + 1>(theta, particles, size);
  return spread_of_line<D>(theta, particles);
}

template <class T>
double spread(const T* theta, int64_t particles, int64_t stride, int64_t begin, int64_t end) {
  if (stride <= line_mean) return spread_of_lines(theta, particles, stride);
  alignas(64) double mean[consensus_block] = {}, squares[consensus_block] = {};
  const T* x = theta + begin;
  const int64_t count = end - begin, numbers = particles * stride - begin;
  const int64_t n = add_moments<together>(mean, squares, 0, x, particles, stride, count, numbers);
  add_moments<1>(mean, squares, n, x, particles, stride, count, numbers);
  double total = 0;
  for (int64_t i = 0; i < count; ++i) total += squares[i];
  return total;
}

}  // namespace

template <class T>
ConsensusKernels<T> consensus_kernels() {
  return {weighted_sum<T, T>, weighted_sum<T, double>, short_sum<T, T>, short_sum<T, double>, spread<T>};
}
template ConsensusKernels<float> consensus_kernels();
template ConsensusKernels<double> consensus_kernels();

}  // namespace cbk::CBK_ISA
