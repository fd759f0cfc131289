// The drift that fits the differences of the pairs' risks by least squares, on the GPU; the CPU's twin is
// fit_weights (low_rank.hpp), which has the formulas.
//
// Prediction for an H200, not a measurement: 784-100-10 with 100 pairs takes 20 us a step.  The draws take 3, the Gram
// matrix of their directions 3, fit_neurons 14: of these the factor's 100 columns take 5, which follow one another, the
// rest of the factor 4, the matrix 3 and the solution 2.  Weights by rank, which it replaces, take 18 (measured).
#include "draws_cuda.hpp"

#include "../cuda/reduce.hpp"
#include "../cuda/rows.hpp"
#include "../cuda/shared.hpp"
#include "multiply_cuda.hpp"

namespace cbk::device {
namespace {

constexpr int panel = 16;         // columns that are factored without a barrier
constexpr int pitch = panel + 1;  // of rows of that length in shared memory
constexpr int most_pairs = fit_draws;
constexpr int threads = 288;  // a row each: the pairs' and the differences'
constexpr int warps = threads / 32;
static_assert(threads > most_pairs);
constexpr int64_t most_gram_rows = 2048;  // 16 MB of float32

template <class T>
struct Fit {
  const double* risk;  // [2 draws][width]
  int draws, rank, own;
  int64_t width, first;    // neurons, and the launch's first
  const T *gram, *factor;  // u u^T / n, [draws rank][draws rank]; a / sqrt r, [draws rank][width]
  const T* rest;           // [draws][own][width]: normals of a neuron's bias and output weights
  const T* whole;          // or else K less its ridge, [neurons][draws][draws]
  T* triangles;            // where K is, unless in shared memory
  double *weights, *ess;
  // Of K's triangle and the differences.
  __host__ __device__ int64_t size() const { return int64_t(draws) * (draws + 1) / 2 + draws; }
};

// u u^T / n of all draws.
template <class T>
struct DirectionGram {
  using Sum = T;
  static constexpr bool by_depth = true;
  Directions<T> from;
  int64_t rows;
  T* gram;
  __device__ Extent extent() const { return {rows, rows, from.length()}; }
  __device__ T a(int64_t i, int64_t k) const { return from.numbers[i * from.inputs + k]; }
  __device__ T b(int64_t j, int64_t k) const { return a(j, k); }
  __device__ void put(int64_t i, int64_t j, T sum) const { gram[i * rows + j] = sum / T(from.length()); }
};

// Where that is too large, or draws are made some at a time: a neuron's noise itself, draw by draw, of a length so that
// its products are K's.  First its layer's, then the rest.
template <class T>
struct NoiseRows {
  using Sum = T;
  static constexpr bool by_depth = false;
  Directions<T> from;
  const T *factor, *rest;  // of some draws
  int64_t width, rank, own, draws, first_draw, first_neuron, neurons;
  T* rows;  // [neurons][draws][inputs + own]
  __device__ Extent extent() const { return {neurons, from.length() + own, rank}; }
  __device__ T a(int64_t m, int64_t k) const { return factor[(blockIdx.z * rank + k) * width + first_neuron + m]; }
  __device__ T b(int64_t j, int64_t k) const {
    return j < from.length() ? from.numbers[(blockIdx.z * rank + k) * from.inputs + j] : T(0);
  }
  __device__ void put(int64_t m, int64_t j, T sum) const {
    const int64_t n = from.length();
    T& to = rows[(m * draws + first_draw + blockIdx.z) * (from.inputs + own) + j];
    if (j < n)
      to = sum * T(1 / ::sqrt(double(n)));
    else
      to = T(::sqrt(fit_share)) * rest[(blockIdx.z * own + j - n) * width + first_neuron + m];
  }
};
template <class T>
struct NoiseGram {
  using Sum = T;
  static constexpr bool by_depth = true;
  Directions<T> from;
  const T* rows;
  int64_t own, draws;
  T* whole;
  __device__ Extent extent() const { return {draws, draws, from.length() + own}; }
  __device__ T a(int64_t i, int64_t k) const { return rows[(blockIdx.z * draws + i) * (from.inputs + own) + k]; }
  __device__ T b(int64_t j, int64_t k) const { return a(j, k); }
  __device__ void put(int64_t i, int64_t j, T sum) const { whole[(blockIdx.z * draws + i) * draws + j] = sum; }
};

// A symmetric matrix's lower triangle, row by row.
template <class T>
struct Triangle {
  T* numbers;
  __device__ __forceinline__ T& operator()(int i, int j) const { return numbers[i * (i + 1) / 2 + j]; }
};

// l(i, k) += by sum_j a(i, j) b(k, j) of `panel` j, for i in [first, rows), k in [first, columns), k <= i.  A warp
// takes 16 rows by 32 columns, a thread 4 by 4 of them: neighbours read neighbouring banks, or the same number.
template <class T, class A, class B>
__device__ __forceinline__ void add_products(const Triangle<T>& l, int first, int rows, int columns, T by, A&& a,
                                             B&& b) {
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  int tile = 0;
  for (int i0 = first; i0 < rows && first < columns; i0 += 16)
    for (int k0 = first; k0 <= i0 + 15; k0 += 32) {
      if (tile++ % warps != warp) continue;
      T sum[4][4] = {}, p[4], q[4];
      CBK_UNROLL_BY(4)
      for (int j = 0; j < panel; ++j) {
        CBK_UNROLL(4)
        for (int u = 0; u < 4; ++u) {
          p[u] = a(min(i0 + lane / 8 + 4 * u, rows - 1), j);
          q[u] = b(min(k0 + lane % 8 + 8 * u, columns - 1), j);
        }
        CBK_UNROLL(4)
        for (int u = 0; u < 4; ++u) CBK_UNROLL(4)
        for (int v = 0; v < 4; ++v) sum[u][v] = mad(p[u], q[v], sum[u][v]);
      }
      CBK_UNROLL(4)
      for (int u = 0; u < 4; ++u) CBK_UNROLL(4)
      for (int v = 0; v < 4; ++v) {
        const int i = i0 + lane / 8 + 4 * u, k = k0 + lane % 8 + 8 * v;
        if (i < rows && k < columns && k <= i) l(i, k) = mad(by, sum[u][v], l(i, k));
      }
    }
}

// Columns [first, first + panel) of L, of unit diagonal, with L D L^T the matrix; the last row, n, becomes that of the
// differences, L D l = d.  A thread has a row.  Each warp with rows factors the panel's own for itself, a lane a row of
// them: that takes no barriers.  Returns whether all pivots, D, are positive, where a warp has rows.
template <class T>
__device__ __forceinline__ bool factor_panel(const Triangle<T>& l, int first, int n, T* pivots) {
  const int thread = int(threadIdx.x), r = thread % panel, row = first + thread;
  T top[panel], own[panel];
  CBK_UNROLL(16)
  for (int j = 0; j < panel; ++j) {
    top[j] = j <= r && first + r < n ? l(first + r, first + j) : T(j == r);
    own[j] = row <= n && first + j < n && first + j <= row ? l(row, first + j) : T(0);
  }
  __syncthreads();  // the first warp is about to write what the others have read
  bool good = true;
  if (row - thread % 32 <= n) {
    CBK_UNROLL(16)
    for (int j = 0; j < panel; ++j) {
      const T pivot = __shfl_sync(~0u, top[j], j), inverse = quotient(T(1), pivot);
      const T by = own[j] * inverse, top_by = top[j] * inverse;
      good = good && pivot > 0 && pivot < T(infinity);
      CBK_UNROLL(16)
      for (int k = j + 1; k < panel; ++k) {
        const T other = __shfl_sync(~0u, top[j], k);
        own[k] = mad(-by, other, own[k]);
        top[k] = mad(-top_by, other, top[k]);
      }
      own[j] = by;
      if (thread == 0 && first + j < n) pivots[first + j] = pivot;
    }
    CBK_UNROLL(16)
    for (int j = 0; j < panel; ++j)
      if (row <= n && first + j < n && first + j < row) l(row, first + j) = own[j];
  }
  __syncthreads();
  return good;
}

// x of L^T x = l, by one warp; number 32 t + lane is x[t].
template <class T, int parts>
__device__ __forceinline__ void solve_back(const Triangle<T>& l, int n, T (&x)[parts]) {
  const int lane = int(threadIdx.x) % 32;
  CBK_UNROLL(8)
  for (int t = 0; t < parts; ++t) x[t] = 32 * t + lane < n ? l(n, 32 * t + lane) : T(0);
  CBK_UNROLL(8)
  for (int t = parts - 1; t >= 0; --t)
    for (int j = min(n, 32 * t + 32) - 1; j >= 32 * t; --j) {
      const T known = __shfl_sync(~0u, x[t], j % 32);
      CBK_UNROLL(8)
      for (int u = 0; u <= t; ++u)
        if (const int i = 32 * u + lane; i < j) x[u] = mad(-l(j, i), known, x[u]);
    }
}

// A pair whose difference of risks is not finite has the identity's row and column, and a difference of 0.
template <class T>
struct Pairs {
  T differences[most_pairs], pivots[most_pairs], own[most_pairs * pitch];
  int32_t known[most_pairs];
};

// The differences, scaled to length 1, and which are known; the neuron's ess.
template <class T>
__device__ __forceinline__ void tell_differences(const Fit<T>& k, int64_t m, Pairs<T>& pairs) {
  const int p = int(threadIdx.x);
  double difference = quiet_nan;
  if (p < k.draws) difference = k.risk[(k.draws + p) * k.width + m] - k.risk[p * k.width + m];
  const bool known = difference - difference == 0;
  if (!known) difference = 0;
  const double count = block_sum(known ? 1.0 : 0.0), largest = -block_least(-::fabs(difference), 0.0);
  if (largest > 0) difference /= largest;
  const double length = ::sqrt(block_sum(difference * difference));
  if (p < k.draws) pairs.differences[p] = length > 0 ? T(difference / length) : T(0), pairs.known[p] = known;
  if (p == 0) k.ess[m] = 2 * count;
}

// K, and the differences as its last row.
template <class T>
__device__ __forceinline__ void make_matrix(const Fit<T>& k, int64_t m, const Triangle<T>& l, Pairs<T>& pairs) {
  const int n = k.draws, r = k.rank, thread = int(threadIdx.x), rows = n * r;
  for (int i = thread; !k.whole && i < rows; i += threads) pairs.own[i] = k.factor[i * k.width + m];
  __syncthreads();
  for (int i = thread / 32; i < n; i += warps)
    for (int j = thread % 32; j <= i; j += 32) {
      const bool known = pairs.known[i] && pairs.known[j];
      T sum = 0;
      if (known && k.whole) sum = k.whole[(int64_t(blockIdx.x) * n + i) * n + j];
      for (int a = i * r; known && !k.whole && a < (i + 1) * r; ++a)
        for (int b = j * r; b < (j + 1) * r; ++b)
          sum = mad(pairs.own[a] * pairs.own[b], k.gram[int64_t(a) * rows + b], sum);
      l(i, j) = i != j ? sum : known ? sum + T(fit_ridge) : T(1);
    }
  if (thread < n) l(n, thread) = pairs.differences[thread];
  for (int c0 = 0; !k.whole && c0 < k.own; c0 += panel) {
    __syncthreads();
    for (int i = thread; i < n * panel; i += threads) {
      const int p = i / panel, c = c0 + i % panel;
      const bool known = c < k.own && pairs.known[p];
      pairs.own[p * pitch + i % panel] = known ? k.rest[(int64_t(p) * k.own + c) * k.width + m] : T(0);
    }
    __syncthreads();
    const auto own = [&](int i, int j) { return pairs.own[i * pitch + j]; };
    add_products(l, 0, n, n, T(fit_share), own, own);
  }
  __syncthreads();
}

// A block has a neuron.
template <bool in_shared, class T>
CBK_KERNEL(threads)
fit_neurons(Fit<T> k) {
  CBK_SHARED(Pairs<T>, pairs, 1);
  T* numbers = k.triangles + (in_shared ? 0 : blockIdx.x * k.size());
  if constexpr (in_shared) {
    CBK_DYNAMIC_SHARED(T, shared);
    numbers = shared;
  }
  const Triangle<T> l{numbers};
  const int64_t m = k.first + blockIdx.x;
  const int n = k.draws, lane = int(threadIdx.x) % 32;
  tell_differences(k, m, pairs[0]);
  make_matrix(k, m, l, pairs[0]);
  const T* pivots = pairs[0].pivots;
  bool good = true;
  for (int first = 0; first < n; first += panel) {
    good = factor_panel(l, first, n, pairs[0].pivots) && good;
    add_products(l, first + panel, n + 1, n, T(-1), [&](int i, int j) { return l(i, first + j) * pivots[first + j]; },
                 [&](int i, int j) { return l(i, first + j); });
    __syncthreads();
  }
  if (threadIdx.x >= 32) return;
  T x[most_pairs / 32];
  solve_back(l, n, x);
  double squares = 0;
  CBK_UNROLL(8)
  for (int t = 0; t < most_pairs / 32; ++t) {
    if (!good) x[t] = 32 * t + lane < n ? pairs[0].differences[32 * t + lane] : T(0);
    squares += double(x[t]) * double(x[t]);
  }
  const double length = ::sqrt(warp_sum(squares));
  CBK_UNROLL(8)
  for (int t = 0; t < most_pairs / 32; ++t)
    if (const int p = 32 * t + lane; p < n) k.weights[p * k.width + m] = length > 0 ? double(x[t]) / length : 0;
}

// The neurons [k.first, k.first + neurons).
template <class T>
void launch_fit(const Fit<T>& k, int64_t neurons, cudaStream_t stream) {
  const size_t bytes = size_t(k.size()) * sizeof(T);
  if (bytes <= most_shared(reinterpret_cast<const void*>(fit_neurons<true, T>)))
    return launch(fit_neurons<true, T>, dim3(unsigned(neurons)), dim3(threads), bytes, stream, k);
  const int64_t most = std::clamp(fitted_numbers / k.size(), int64_t(1), neurons);
  const Workspace<T> triangles(most * k.size(), stream);
  for (int64_t first = 0; first < neurons; first += most) {
    Fit<T> part = k;
    part.first += first, part.triangles = triangles.data();
    if (k.whole) part.whole += first * k.draws * k.draws;
    launch(fit_neurons<false, T>, dim3(unsigned(std::min(most, neurons - first))), dim3(threads), 0, stream, part);
  }
}

// From each neuron's noise, of some neurons at a time, for which all draws are made.
template <class T>
void fit_from_noise(const RiskProblem<T>& problem, const LowRank& noise, const Directions<T>& directions, Fit<T> fit,
                    cudaStream_t stream) {
  const int64_t draws = fit.draws, length = problem.net.inputs + fit.own, each = draws * (length + draws);
  const int64_t most = std::clamp(std::min(drawn_numbers / each, int64_t(65535)), int64_t(1), fit.width);
  const Workspace<T> rows(most * draws * length, stream), whole(most * draws * draws, stream);
  fit.whole = whole.data();
  for (fit.first = 0; fit.first < fit.width; fit.first += most) {
    const int64_t neurons = std::min(most, fit.width - fit.first);
    for_draws(problem, noise, directions, 0, stream,
              [&](int64_t first, int64_t count, const Drawn<T>& drawn, const Directions<T>& from) {
      multiply(NoiseRows<T>{from, drawn.factor.data(), drawn.rest.data(), fit.width, noise.rank, fit.own, draws, first,
                            fit.first, neurons, rows.data()},
               {neurons, length, noise.rank}, count, stream);
    });
    multiply(NoiseGram<T>{directions, rows.data(), fit.own, draws, whole.data()}, {draws, draws, length}, neurons,
             stream);
    launch_fit(fit, neurons, stream);
  }
}

}  // namespace

template <class T>
void fit_weights(const RiskProblem<T>& problem, const LowRank& noise, const Span<T>* span, const double* risk,
                 double* weights, double* ess, CudaStream on) {
  const cudaStream_t stream = native(on);
  const Network& net = problem.net;
  const int64_t draws = draws_of(problem), rows = noise.rank * draws;
  if (draws > most_pairs || net.output_bias)
    throw std::logic_error("differences are fitted for at most 256 pairs, and without output biases");
  const Directions<T> directions = directions_of(problem, span);
  Fit<T> fit{};
  fit.risk = risk, fit.weights = weights, fit.ess = ess;
  fit.draws = int(draws), fit.rank = int(noise.rank), fit.own = int(net.outputs + 1), fit.width = net.width;
  if (rows > most_gram_rows || kept_draws(problem, noise, 0) < draws)
    return fit_from_noise(problem, noise, directions, fit, stream);
  const Workspace<T> gram(rows * rows, stream);
  for_draws(problem, noise, directions, 0, stream,
            [&](int64_t, int64_t, const Drawn<T>& drawn, const Directions<T>& from) {
    multiply(DirectionGram<T>{from, rows, gram.data()}, {rows, rows, net.inputs}, 1, stream);
    fit.gram = gram.data(), fit.factor = drawn.factor.data(), fit.rest = drawn.rest.data();
    launch_fit(fit, net.width, stream);
  });
}

#define CBK_INSTANTIATE(T) \
  template void fit_weights(const RiskProblem<T>&, const LowRank&, const Span<T>*, const double*, double*, double*, \
                            CudaStream);
CBK_INSTANTIATE(float)
CBK_INSTANTIATE(double)
#undef CBK_INSTANTIATE

}  // namespace cbk::device
