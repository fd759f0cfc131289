// Noise of low rank on the GPU: spans, draws, risks and drifts; the CPU's twins are low_rank_cpu.cpp,
// low_rank_simd.cpp.
#include "draws_cuda.hpp"

#include "../common/philox.hpp"
#include "../cuda/reduce.hpp"
#include "../cuda/rows.hpp"
#include "../risk/cuda/losses_cuda.hpp"
#include "multiply_cuda.hpp"

namespace cbk::device {
namespace {

constexpr int threads = 256;

// The Gram matrix of a batch, in float64.
template <class T>
struct Gram {
  using Sum = double;
  static constexpr bool by_depth = true;
  const T* x;  // [batches][samples][inputs]
  int64_t samples, inputs;
  double* gram;
  __device__ Extent extent() const { return {samples, samples, inputs}; }
  __device__ double a(int64_t i, int64_t k) const { return double(x[(blockIdx.z * samples + i) * inputs + k]); }
  __device__ double b(int64_t j, int64_t k) const { return a(j, k); }
  __device__ void put(int64_t i, int64_t j, double sum) const { gram[(blockIdx.z * samples + i) * samples + j] = sum; }
};

// A symmetric matrix's lower triangle, in shared memory row by row, or in place.
template <bool in_shared>
struct Triangle {
  double* a;
  int64_t stride;
  __device__ __forceinline__ double& operator()(int64_t i, int64_t j) const {
    return a[in_shared ? i * (i + 1) / 2 + j : i * stride + j];
  }
};
constexpr int factor_threads = 512;
constexpr int64_t most_shared_samples = 109;  // 48 KB

// L of each batch's Gram matrix and ridge, column by column, then its inverse and the map.  One block a batch.
template <bool in_shared, class T>
CBK_KERNEL(factor_threads)
factorise(double* gram, int64_t samples, T* map, double* inverse, int32_t* positive) {
  const int n = int(samples), rank = int(threadIdx.x), lane = rank % 32, warp = rank / 32, warps = factor_threads / 32;
  gram += blockIdx.x * samples * samples, map += blockIdx.x * samples * samples;
  inverse += blockIdx.x * samples * samples;
  double mean = 0, *triangle = gram;
  if constexpr (in_shared) {
    CBK_DYNAMIC_SHARED(double, shared);
    triangle = shared;
  }
  for (int i = rank; i < n; i += factor_threads) mean += gram[i * samples + i] / double(n);
  const double ridge = 1e-6 * block_sum(mean);
  const Triangle<in_shared> l{triangle, samples};
  for (int i = warp; i < n; i += warps)
    for (int j = lane; j <= i; j += 32) l(i, j) = gram[i * samples + j] + (i == j ? ridge : 0);
  __syncthreads();
  bool good = ridge >= least_ridge<T>;
  for (int j = 0; j < n; ++j) {
    const double pivot = l(j, j);
    good = good && pivot > 0 && pivot < infinity;  // the same in all threads
    const double by = 1 / ::sqrt(pivot);
    __syncthreads();
    for (int i = j + rank; i < n; i += factor_threads) l(i, j) *= by;
    __syncthreads();
    for (int i = j + 1 + warp; good && i < n; i += warps)
      for (int k = j + 1 + lane; k <= i; k += 32) l(i, k) -= l(i, j) * l(k, j);
    __syncthreads();
  }
  for (int c = rank; good && c < n; c += factor_threads)  // a thread takes a column of the inverse
    for (int i = c; i < n; ++i) {
      double sum = i == c ? 1 : 0;
      for (int k = c; k < i; ++k) sum -= l(i, k) * inverse[k * samples + c];
      inverse[i * samples + c] = sum / l(i, i);
    }
  __syncthreads();
  for (int s = warp; good && s < n; s += warps)  // with the ridge X b is not L e, but (L - ridge L^-T) e
    for (int j = lane; j < n; j += 32)
      map[s * samples + j] = T((j <= s ? l(s, j) : 0) - (s <= j ? ridge * inverse[j * samples + s] : 0));
  if (rank == 0) positive[blockIdx.x] = good;
}

template <class T>
CBK_KERNEL(threads)
make_draws(NoiseKey key, const DrawNumbers<T>* now, Directions<T> to, Network net, int64_t rank, T* factor, T* rest) {
  const int64_t length = to.length(), begin = net.biases() / 4, size = net.size();
  const int64_t words = rank * blocks_for(net.width, 32), quads = blocks_for(rank * length, 4);
  const int64_t items = quads + words + blocks_for(size, 4) - begin, draw = blockIdx.y;
  const uint32_t step = now ? now->step : key.step, particle = key.first_particle + uint32_t(draw);
  T z[4];
  for (int64_t item = int64_t(blockIdx.x) * threads + threadIdx.x; item < items; item += int64_t(gridDim.x) * threads) {
    if (item < quads) {
      normals(Counter{key.seed, stream_directions, step, particle}, uint32_t(item), z);
      T* const row = to.numbers + draw * rank * net.inputs;
      for (int j = 0; j < 4; ++j)
        if (const int64_t i = 4 * item + j; i < rank * length) row[i / length * net.inputs + i % length] = z[j];
    } else if (item < quads + words) {
      const int64_t word = item - quads, k = word / (words / rank), first = word % (words / rank) * 32;
      const Block block = philox_words(key.seed, stream_signs, step, particle, uint32_t(word / 4));
      uint32_t bits = 0;
      for (int j = 0; j < 4; ++j)  // constant indices keep an array in registers
        if (word % 4 == j) bits = block.word[j];
      const T size = T(1 / ::sqrt(double(rank)));
      T* const row = factor + (draw * rank + k) * net.width;
      for (int64_t m = first; m < net.width && m < first + 32; ++m) row[m] = bits >> (m - first) & 1 ? -size : size;
    } else {
      const int64_t quad = item - quads - words + begin;
      normals(Counter{key.seed, key.stream, step, particle}, uint32_t(quad), z);
      T* const row = rest + draw * (size - net.biases());
      for (int j = 0; j < 4; ++j)
        if (const int64_t i = 4 * quad + j; i >= net.biases() && i < size) row[i - net.biases()] = z[j];
    }
  }
}

// X b: rows of draws and k by samples.
template <class T>
struct Along {
  using Sum = T;
  static constexpr bool by_depth = true;
  Directions<T> from;
  int64_t rows;
  T* along;
  __device__ Extent extent() const { return {rows, from.samples, from.length()}; }
  __device__ T a(int64_t i, int64_t k) const { return from.numbers[i * from.inputs + k]; }
  __device__ T b(int64_t j, int64_t k) const {
    return from.spanned() ? from.span.map[j * from.samples + k] : from.x[j * from.inputs + k];
  }
  __device__ void put(int64_t i, int64_t j, T sum) const { along[i * from.samples + j] = sum; }
};

// Weights times factors times directions, summed over draws and k: neurons by directions' numbers.
template <class T>
struct Weighted {
  using Sum = double;
  static constexpr bool by_depth = false;
  Directions<T> from;
  const T* factor;
  const double* weights;
  int64_t width, columns, rank, rows;
  bool more;
  double* sums;  // [width][inputs]
  __device__ Extent extent() const { return {width, from.length(), rows}; }
  __device__ double a(int64_t m, int64_t k) const {
    const unsigned draw = unsigned(k) / unsigned(rank);
    return weights[draw * columns + (columns > 1 ? m : 0)] * double(factor[k * width + m]);
  }
  __device__ double b(int64_t j, int64_t k) const { return double(from.numbers[k * from.inputs + j]); }
  __device__ void put(int64_t m, int64_t j, double sum) const {
    double& to = sums[m * from.inputs + j];
    to = more ? to + sum : sum;
  }
};

// sums L^-1, where there is a span.
template <class T>
struct Solved {
  using Sum = double;
  static constexpr bool by_depth = false;
  Directions<T> from;
  int64_t width;
  const double* sums;
  T* rows;  // [width][samples]
  __device__ Extent extent() const { return {from.spanned() ? width : 0, from.samples, from.samples}; }
  __device__ double a(int64_t m, int64_t k) const { return sums[m * from.inputs + k]; }
  __device__ double b(int64_t j, int64_t k) const { return k < j ? 0 : from.span.inverse[k * from.samples + j]; }
  __device__ void put(int64_t m, int64_t j, double sum) const { rows[m * from.samples + j] = T(sum); }
};
// That times X, or without a span the sums themselves.
template <class T>
struct OnInputs {
  using Sum = T;
  static constexpr bool by_depth = false;
  Directions<T> from;
  int64_t width;
  const double* sums;
  const T* rows;
  double* out;
  __device__ Extent extent() const { return {width, from.inputs, from.spanned() ? from.samples : 0}; }
  __device__ T a(int64_t m, int64_t k) const { return rows[m * from.samples + k]; }
  __device__ T b(int64_t j, int64_t k) const { return from.x[k * from.inputs + j]; }
  __device__ void put(int64_t m, int64_t j, T sum) const {
    out[m * from.inputs + j] = from.spanned() ? double(sum) : sums[m * from.inputs + j];
  }
};

// The drift behind the first layer.
template <class T>
CBK_KERNEL(threads)
sum_rest(Network net, const double* weights, int64_t columns, const T* rest, int64_t draws, bool more, double* out) {
  const int64_t size = net.size() - net.biases(), i = int64_t(blockIdx.x) * threads + threadIdx.x;
  if (i >= size) return;
  double sum = more ? out[i] : 0;
  weights += columns > 1 ? i % columns : 0;
  for (int64_t n = 0; n < draws; ++n) sum = fma(weights[n * columns], double(rest[n * size + i]), sum);
  out[i] = sum;
}

}  // namespace

template <class T>
void Spans<T>::find(const T* x, int64_t inputs, int64_t samples, int64_t first, int64_t count, cudaStream_t stream) {
  Workspace<double> gram(count * samples * samples, stream);
  multiply(Gram<T>{x, samples, inputs, gram.data()}, {samples, samples, inputs}, count, stream);
  const bool in_shared = samples <= most_shared_samples;
  const size_t shared = in_shared ? size_t(samples * (samples + 1) / 2) * sizeof(double) : 0;
  const int64_t at = first * samples_ * samples_;
  if (samples != samples_ && count > 1) throw std::logic_error("spans of smaller batches are found one at a time");
  launch(in_shared ? factorise<true, T> : factorise<false, T>, dim3(unsigned(count)), dim3(factor_threads), shared,
         stream, gram.data(), samples, map_.data() + at, inverse_.data() + at, positive_.data() + first);
}

template <class T>
void Drawn<T>::draw(NoiseKey key, const DrawNumbers<T>* now, const Directions<T>& directions, int64_t count,
                    cudaStream_t stream) const {
  const int64_t items = blocks_for(rank_ * net_.inputs + net_.size() - net_.biases(), 4);
  launch(make_draws<T>, dim3(unsigned(blocks_for(items, threads)), unsigned(count)), dim3(threads), 0, stream, key, now,
         directions, net_, rank_, factor.data(), rest.data());
}

template <class T>
void low_rank_risks(const RiskProblem<T>& problem, const LowRank& noise, bool atoms, const Span<T>* span, double* out,
                    CudaStream on) {
  const cudaStream_t stream = native(on);
  Workspace<T> weights(problem.weights ? problem.samples : 0, stream);
  if (problem.weights) launch_weights(problem, weights.data(), stream);
  CenterMemory<T> memory(problem, stream);
  Lines<T> lines = center_lines(problem, noise.rank, weights.data(), memory, stream);
  lines.out = out, lines.rows = problem.draw->particles;
  for_draws(problem, noise, directions_of(problem, span), problem.samples, stream,
            [&](int64_t first, int64_t count, const Drawn<T>& drawn, const Directions<T>& directions) {
    Workspace<T> along(count * noise.rank * problem.samples, stream);
    multiply(Along<T>{directions, count * noise.rank, along.data()},
             {count * noise.rank, problem.samples, problem.net.inputs}, 1, stream);
    lines.factor = drawn.factor.data(), lines.rest = drawn.rest.data(), lines.along = along.data();
    lines.first = first, lines.draws = count;
    atoms ? launch_atoms(lines, stream) : launch_networks(lines, stream);
  });
}

template <class T>
void low_rank_drift(const RiskProblem<T>& problem, const LowRank& noise, bool atoms, const Span<T>* span,
                    const double* weights, double* out, CudaStream on) {
  const cudaStream_t stream = native(on);
  const Network& net = problem.net;
  const int64_t columns = atoms ? net.width : 1, rest = net.size() - net.biases();
  const Directions<T> plain = directions_of(problem, span);
  Workspace<double> sums(net.width * net.inputs, stream);
  for_draws(problem, noise, plain, 0, stream,
            [&](int64_t first, int64_t count, const Drawn<T>& drawn, const Directions<T>& directions) {
    const double* own = weights + first * columns;
    multiply(Weighted<T>{directions, drawn.factor.data(), own, net.width, columns, noise.rank, count * noise.rank,
                         first > 0, sums.data()},
             {net.width, net.inputs, count * noise.rank}, 1, stream);
    launch(sum_rest<T>, dim3(unsigned(blocks_for(rest, threads))), dim3(threads), 0, stream, net, own, columns,
           static_cast<const T*>(drawn.rest.data()), count, first > 0, out + net.biases());
  });
  Workspace<T> rows(span ? net.width * problem.samples : 0, stream);
  if (span)
    multiply(Solved<T>{plain, net.width, sums.data(), rows.data()}, {net.width, problem.samples, problem.samples}, 1,
             stream);
  multiply(OnInputs<T>{plain, net.width, sums.data(), rows.data(), out}, {net.width, net.inputs, problem.samples}, 1,
           stream);
}

namespace {

// Calls f with the span of the problem's x, or nullptr; whether there is one.
template <class T, class F>
bool with_span(const RiskProblem<T>& problem, const LowRank& noise, cudaStream_t stream, F&& f) {
  if (!Span<T>::there_is(noise, problem.net, problem.samples)) {
    f(static_cast<const Span<T>*>(nullptr));
    return false;
  }
  Spans<T> spans(1, problem.samples);
  spans.find(problem.x, problem.net.inputs, problem.samples, 0, 1, stream);
  const Span<T> span = spans.at(0);
  f(&span);
  int32_t positive = 0;
  check(cudaMemcpyAsync(&positive, span.positive, sizeof positive, cudaMemcpyDeviceToHost, stream), "span");
  check(cudaStreamSynchronize(stream), "span");  // before its memory goes
  return positive;
}

}  // namespace

template <class T>
bool low_rank_risks(const RiskProblem<T>& problem, const LowRank& noise, bool atoms, double* out, CudaStream on) {
  return with_span(problem, noise, native(on),
                   [&](const Span<T>* span) { low_rank_risks(problem, noise, atoms, span, out, on); });
}

template <class T>
void low_rank_drift(const RiskProblem<T>& problem, const LowRank& noise, bool atoms, const double* weights, double* out,
                    CudaStream on) {
  with_span(problem, noise, native(on),
            [&](const Span<T>* span) { low_rank_drift(problem, noise, atoms, span, weights, out, on); });
}

template <class T>
void fit_weights(const RiskProblem<T>& problem, const LowRank& noise, const double* risk, double* weights, double* ess,
                 CudaStream on) {
  with_span(problem, noise, native(on),
            [&](const Span<T>* span) { fit_weights(problem, noise, span, risk, weights, ess, on); });
}

#define CBK_INSTANTIATE(T) \
  template void Spans<T>::find(const T*, int64_t, int64_t, int64_t, int64_t, cudaStream_t); \
  template void Drawn<T>::draw(NoiseKey, const DrawNumbers<T>*, const Directions<T>&, int64_t, cudaStream_t) const; \
  template void low_rank_risks(const RiskProblem<T>&, const LowRank&, bool, const Span<T>*, double*, CudaStream); \
  template void low_rank_drift(const RiskProblem<T>&, const LowRank&, bool, const Span<T>*, const double*, double*, \
                               CudaStream); \
  template bool low_rank_risks(const RiskProblem<T>&, const LowRank&, bool, double*, CudaStream); \
  template void low_rank_drift(const RiskProblem<T>&, const LowRank&, bool, const double*, double*, CudaStream); \
  template void fit_weights(const RiskProblem<T>&, const LowRank&, const double*, double*, double*, CudaStream);
CBK_INSTANTIATE(float)
CBK_INSTANTIATE(double)
#undef CBK_INSTANTIATE

}  // namespace cbk::device
