// Weights of drawn ensembles on the GPU; the CPU's twin is weights_cpu.cpp.
#include "../cuda/reduce.hpp"
#include "../cuda/rows.hpp"

#include "../consensus/consensus_cuda.hpp"
#include "weights_cuda.hpp"

namespace cbk::device {
namespace {

constexpr int threads = 256;
constexpr int64_t sorted_at_once = 4096, sorting_threads = 1024;  // 48 KB of shared memory

// Each column's risks, sorted chunk by chunk with the rows they are of, in the order (risk, row).  What is not finite
// comes last, as infinity.  A rank is the sum of places in all chunks: nothing is merged, and any number of blocks
// finds ranks.
struct Ranked {
  double* risk;  // [columns][chunks][chunk]
  int32_t* row;
  int64_t chunk, chunks;  // chunk: a power of two
  double* unnormalised;   // [rows / 2]: weights by rank
};

__device__ __forceinline__ bool comes_later(double r, int32_t n, double other, int32_t m) {
  return r > other || (r == other && n > m);
}

// One comparison of the bitonic network [Batcher 1968]: entries i and i + distance of a run that ascends or descends.
__device__ __forceinline__ void exchange(double* risk, int32_t* row, int i, int distance, bool ascends) {
  const int j = i + distance;
  if (comes_later(risk[i], row[i], risk[j], row[j]) != ascends) return;
  const double r = risk[i];
  const int32_t n = row[i];
  risk[i] = risk[j], row[i] = row[j];
  risk[j] = r, row[j] = n;
}

// A block sorts a chunk of a column; those of the first column write the weights too:
// log(rows/2 + 1/2) - log(rank + 1) of the better half.
CBK_KERNEL(sorting_threads) sort_chunks(Ranked k, const double* risks, int64_t rows, int64_t columns) {
  CBK_SHARED(double, risk, sorted_at_once);
  CBK_SHARED(int32_t, row, sorted_at_once);
  const int64_t from = blockIdx.x * k.chunk, to = (blockIdx.y * k.chunks + blockIdx.x) * k.chunk;
  const int chunk = int(k.chunk), step = int(blockDim.x);
  for (int i = int(threadIdx.x); i < chunk; i += step) {
    const double r = from + i < rows ? risks[(from + i) * columns + blockIdx.y] : infinity;
    risk[i] = r - r == 0 ? r : infinity;
    row[i] = int32_t(from + i);
  }
  __syncthreads();
  for (int run = 2; run <= chunk; run *= 2) {
    for (int distance = run / 2; distance > 0; distance /= 2) {
      for (int t = int(threadIdx.x); t < chunk / 2; t += step) {
        const int i = t / distance * 2 * distance + t % distance;
        exchange(risk, row, i, distance, (i & run) == 0);
      }
      __syncthreads();
    }
  }
  for (int i = int(threadIdx.x); i < chunk; i += step) k.risk[to + i] = risk[i], k.row[to + i] = row[i];
  const double top = ::log(double(rows) / 2 + 0.5);
  for (int64_t rank = from + threadIdx.x; blockIdx.y == 0 && rank < from + chunk && rank < rows / 2; rank += step)
    k.unnormalised[rank] = top - ::log(double(rank + 1));
}

// How many of a sorted chunk's risks come before r, equal ones too where `ties`.
__device__ __forceinline__ int64_t place_in(const double* risk, int64_t chunk, double r, bool ties) {
  int64_t at = 0;
  for (int64_t half = chunk / 2; half > 0; half /= 2)
    if (risk[at + half - 1] < r || (ties && risk[at + half - 1] == r)) at += half;
  return at + (risk[at] < r || (ties && risk[at] == r));
}

// The column's particles that weigh, were all risks different, and the sum of their weights.
CBK_KERNEL(threads) add_weights(Ranked k, int64_t rows, int64_t* counts, double* totals) {
  const int64_t column = blockIdx.x;
  double finite = 0;
  for (int64_t c = threadIdx.x; c < k.chunks; c += threads)
    finite += double(place_in(k.risk + (column * k.chunks + c) * k.chunk, k.chunk, infinity, false));
  finite = block_sum(finite);
  const int64_t count = int64_t(finite) < rows / 2 ? int64_t(finite) : rows / 2;
  double total = 0;
  for (int64_t rank = threadIdx.x; rank < count; rank += threads) total += k.unnormalised[rank];
  total = block_sum(total);
  if (threadIdx.x == 0) counts[column] = count, totals[column] = total;
}

// The sum of the weights of ranks [first, last); of many, whose threads would all add them, in closed form.
__device__ __forceinline__ double weight_of_ranks(const double* unnormalised, int64_t rows, int64_t first,
                                                  int64_t last) {
  if (last - first > 1024)
    return double(last - first) * ::log(double(rows) / 2 + 0.5) -
           (::lgamma(double(last) + 1) - ::lgamma(double(first) + 1));
  double total = 0;
  for (int64_t rank = first; rank < last; ++rank) total += unnormalised[rank];
  return total;
}

// Equal risks share the weights of their ranks equally.
CBK_KERNEL(threads)
weigh_ranks(Ranked k, int64_t rows, int64_t columns, const int64_t* counts, const double* totals, double* weights) {
  const int64_t i = int64_t(blockIdx.x) * threads + threadIdx.x, column = blockIdx.y;
  if (i >= k.chunks * k.chunk) return;
  const double* risk = k.risk + column * k.chunks * k.chunk;
  const int64_t row = k.row[column * k.chunks * k.chunk + i], count = counts[column];
  if (row >= rows) return;
  int64_t first = 0, last = 0;
  for (int64_t c = 0; c < k.chunks && first < count; ++c) {
    first += place_in(risk + c * k.chunk, k.chunk, risk[i], false);
    last += place_in(risk + c * k.chunk, k.chunk, risk[i], true);
  }
  double weight = 0;
  if (first < count) {
    const int64_t end = last < count ? last : count;
    const bool all = first == 0 && end == count;  // exactly 1 / rows where all are equal
    weight = (all ? 1 : weight_of_ranks(k.unnormalised, rows, first, end) / totals[column]) / double(last - first);
  }
  weights[row * columns + column] = weight;
}

// Of normalised weights; 0 where there are none.
CBK_KERNEL(threads)
sizes_of(const double* weights, int64_t rows, int64_t columns, const int64_t* counts, double* ess) {
  double squares = 0;
  for (int64_t n = threadIdx.x; n < rows; n += threads) {
    const double w = weights[n * columns + blockIdx.x];
    squares += w * w;
  }
  squares = block_sum(squares);
  if (threadIdx.x == 0) ess[blockIdx.x] = counts[blockIdx.x] > 0 ? 1 / squares : 0;
}

CBK_KERNEL(threads)
weigh_draws(const double* weights, int64_t rows, int64_t columns, bool mirrored, const double* ess, double* out) {
  const int64_t i = int64_t(blockIdx.x) * threads + threadIdx.x, draws = mirrored ? rows / 2 : rows;
  if (i >= draws * columns) return;
  double w = 0;
  if (ess[i % columns] > 0) w = weights[i] - (mirrored ? weights[i + draws * columns] : 1 / double(rows));
  out[i] = w;
}

void weights_by_rank(const double* risk, int64_t rows, int64_t columns, double* weights, double* ess,
                     cudaStream_t stream) {
  int64_t chunk = 2;
  while (chunk < rows && chunk < sorted_at_once) chunk *= 2;
  const int64_t chunks = blocks_for(rows, chunk), places = chunks * chunk;
  Workspace<double> sorted(columns * places, stream), unnormalised(rows / 2, stream), totals(columns, stream);
  Workspace<int32_t> row(columns * places, stream);
  Workspace<int64_t> counts(columns, stream);
  const Ranked k{sorted.data(), row.data(), chunk, chunks, unnormalised.data()};
  const unsigned across = unsigned(columns), sorting = unsigned(std::clamp(chunk / 2, int64_t(32), sorting_threads));
  launch(sort_chunks, dim3(unsigned(chunks), across), dim3(sorting), 0, stream, k, risk, rows, columns);
  launch(add_weights, dim3(across), dim3(threads), 0, stream, k, rows, counts.data(), totals.data());
  launch(weigh_ranks, dim3(unsigned(blocks_for(places, threads)), across), dim3(threads), 0, stream, k, rows, columns,
         static_cast<const int64_t*>(counts.data()), static_cast<const double*>(totals.data()), weights);
  launch(sizes_of, dim3(across), dim3(threads), 0, stream, static_cast<const double*>(weights), rows, columns,
         static_cast<const int64_t*>(counts.data()), ess);
}

}  // namespace

void hopping_weights(const double* risk, int64_t rows, int64_t columns, bool mirrored, const double* target,
                     double* weights, double* ess, double* alphas, CudaStream on) {
  const cudaStream_t stream = native(on);
  Workspace<double> whole(rows * columns, stream);
  if (target) {
    solve_alphas(risk, rows, columns, target, alphas, on);
    gibbs_weights(risk, rows, columns, {0, alphas, 1}, whole.data(), ess, on);
  } else {
    weights_by_rank(risk, rows, columns, whole.data(), ess, stream);
  }
  const int64_t results = (mirrored ? rows / 2 : rows) * columns;
  launch(weigh_draws, dim3(unsigned(blocks_for(results, threads))), dim3(threads), 0, stream,
         static_cast<const double*>(whole.data()), rows, columns, mirrored, static_cast<const double*>(ess), weights);
}

}  // namespace cbk::device
