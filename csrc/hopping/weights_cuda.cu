// Weights of drawn ensembles on the GPU; the CPU's twin is weights_cpu.cpp.
#include "../cuda/reduce.hpp"
#include "../cuda/rows.hpp"

#include "../consensus/consensus_cuda.hpp"
#include "weights_cuda.hpp"

namespace cbk::device {
namespace {

constexpr int threads = 256;
constexpr int64_t sorted_at_once = 1024;

// Risks and the rows they are of, in the order (risk, row); what is not finite comes last, as infinity.
struct Ranked {
  double* risk;  // [columns][padded]
  int32_t* row;
  int64_t padded;  // a power of two
};

CBK_KERNEL(threads) fill_ranks(Ranked k, const double* risk, int64_t rows, int64_t columns) {
  const int64_t i = int64_t(blockIdx.x) * threads + threadIdx.x, column = blockIdx.y;
  if (i >= k.padded) return;
  const double r = i < rows ? risk[i * columns + column] : infinity;
  k.risk[column * k.padded + i] = r - r == 0 ? r : infinity;
  k.row[column * k.padded + i] = int32_t(i);
}

__device__ __forceinline__ bool comes_later(double r, int32_t n, double other, int32_t m) {
  return r > other || (r == other && n > m);
}

// One comparison of the bitonic network [Batcher 1968]: entries i and i + distance of a run that ascends or descends.
__device__ __forceinline__ void exchange(double* risk, int32_t* row, int64_t i, int64_t distance, bool ascends) {
  const int64_t j = i + distance;
  if (comes_later(risk[i], row[i], risk[j], row[j]) != ascends) return;
  const double r = risk[i];
  const int32_t n = row[i];
  risk[i] = risk[j], row[i] = row[j];
  risk[j] = r, row[j] = n;
}

CBK_KERNEL(threads) exchange_far(Ranked k, int64_t run, int64_t distance) {
  const int64_t t = int64_t(blockIdx.x) * threads + threadIdx.x, column = blockIdx.y;
  if (t >= k.padded / 2) return;
  const int64_t i = t / distance * 2 * distance + t % distance;
  exchange(k.risk + column * k.padded, k.row + column * k.padded, i, distance, (i & run) == 0);
}

// Within shared memory: all runs up to `chunk` from `first_run` on (the whole sort), or the end of one longer run.
CBK_KERNEL(sorted_at_once / 2) exchange_near(Ranked k, int64_t chunk, int64_t first_run, int64_t last_run) {
  CBK_SHARED(double, risk, sorted_at_once);
  CBK_SHARED(int32_t, row, sorted_at_once);
  const int64_t from = int64_t(blockIdx.y) * k.padded + blockIdx.x * chunk, start = blockIdx.x * chunk;
  for (int64_t i = threadIdx.x; i < chunk; i += chunk / 2) risk[i] = k.risk[from + i], row[i] = k.row[from + i];
  __syncthreads();
  for (int64_t run = first_run; run <= last_run; run *= 2) {
    for (int64_t distance = (run < chunk ? run : chunk) / 2; distance > 0; distance /= 2) {
      const int64_t t = threadIdx.x, i = t / distance * 2 * distance + t % distance;
      exchange(risk, row, i, distance, ((start + i) & run) == 0);
      __syncthreads();
    }
  }
  for (int64_t i = threadIdx.x; i < chunk; i += chunk / 2) k.risk[from + i] = risk[i], k.row[from + i] = row[i];
}

// A block writes its column's weights: log(rows/2 + 1/2) - log(rank + 1) of the better half, normalised.
CBK_KERNEL(threads) weigh_ranks(Ranked k, int64_t rows, int64_t columns, double* weights, double* ess) {
  const int64_t column = blockIdx.x;
  const double* risk = k.risk + column * k.padded;
  const int32_t* row = k.row + column * k.padded;
  double finite = 0;
  for (int64_t i = threadIdx.x; i < rows; i += threads) finite += risk[i] < infinity;
  finite = block_sum(finite);
  const int64_t count = int64_t(finite) < rows / 2 ? int64_t(finite) : rows / 2;
  const double top = ::log(double(rows) / 2 + 0.5);
  double total = 0, squares = 0;
  for (int64_t rank = threadIdx.x; rank < count; rank += threads) {
    const double w = top - ::log(double(rank + 1));
    total += w, squares += w * w;
  }
  total = block_sum(total), squares = block_sum(squares);
  for (int64_t rank = threadIdx.x; rank < k.padded; rank += threads)
    if (row[rank] < rows)
      weights[row[rank] * columns + column] = rank < count ? (top - ::log(double(rank + 1))) / total : 0;
  if (threadIdx.x == 0) ess[column] = count > 0 ? total * total / squares : 0;
}

CBK_KERNEL(threads) weigh_draws(const double* weights, int64_t rows, int64_t columns, bool mirrored, const double* ess,
                                double* out) {
  const int64_t i = int64_t(blockIdx.x) * threads + threadIdx.x, draws = mirrored ? rows / 2 : rows;
  if (i >= draws * columns) return;
  double w = 0;
  if (ess[i % columns] > 0) w = weights[i] - (mirrored ? weights[i + draws * columns] : 1 / double(rows));
  out[i] = w;
}

void sort(const Ranked& k, int64_t columns, cudaStream_t stream) {
  const int64_t chunk = std::min(k.padded, sorted_at_once);
  const dim3 near(unsigned(k.padded / chunk), unsigned(columns)), block(static_cast<unsigned>(chunk / 2));
  const dim3 far(unsigned(blocks_for(k.padded / 2, threads)), unsigned(columns));
  launch(exchange_near, near, block, 0, stream, k, chunk, int64_t(2), chunk);
  for (int64_t run = 2 * chunk; run <= k.padded; run *= 2) {
    for (int64_t distance = run / 2; distance >= chunk; distance /= 2)
      launch(exchange_far, far, dim3(threads), 0, stream, k, run, distance);
    launch(exchange_near, near, block, 0, stream, k, chunk, run, run);
  }
}

}  // namespace

void hopping_weights(const double* risk, int64_t rows, int64_t columns, bool mirrored, const double* target, double* weights,
                     double* ess, double* alphas, CudaStream on) {
  const cudaStream_t stream = native(on);
  Workspace<double> whole(rows * columns, stream);
  if (target) {
    solve_alphas(risk, rows, columns, target, alphas, on);
    gibbs_weights(risk, rows, columns, {0, alphas, 1}, whole.data(), ess, on);
  } else {
    int64_t padded = 2;
    while (padded < rows) padded *= 2;
    Workspace<double> keys(columns * padded, stream);
    Workspace<int32_t> row(columns * padded, stream);
    const Ranked k{keys.data(), row.data(), padded};
    launch(fill_ranks, dim3(unsigned(blocks_for(padded, threads)), unsigned(columns)), dim3(threads), 0, stream, k, risk, rows,
           columns);
    sort(k, columns, stream);
    launch(weigh_ranks, dim3(unsigned(columns)), dim3(threads), 0, stream, k, rows, columns, whole.data(), ess);
  }
  const int64_t results = (mirrored ? rows / 2 : rows) * columns;
  launch(weigh_draws, dim3(unsigned(blocks_for(results, threads))), dim3(threads), 0, stream,
         static_cast<const double*>(whole.data()), rows, columns, mirrored, static_cast<const double*>(ess), weights);
}

}  // namespace cbk::device
