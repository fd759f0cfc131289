// Weights and consensus points on the GPU; the CPU's twin is consensus_cpu.cpp.
#include "../cuda/reduce.hpp"
#include "../cuda/rows.hpp"

#include "../common/math.hpp"
#include "consensus_cuda.hpp"
#include "weight_cuda.hpp"

namespace cbk::device {
namespace {

constexpr int threads = 256;
constexpr int64_t weight_parts = 64;  // partial sums of one task at most

// A slice's smallest finite risk, and its sums of weights and their squares relative to that.
struct Part {
  double least, total, squares;
};

struct Risks {
  const double* risk;
  int64_t particles, tasks, slice;
  Alphas alphas;
};

// What is left of a slice's weights where the slices are added.
__device__ __forceinline__ void normalise_slice(const Risks& k, double least, double total, double* weights) {
  const int64_t task = blockIdx.y, begin = blockIdx.x * k.slice;
  const int64_t end = begin + k.slice < k.particles ? begin + k.slice : k.particles;
  const double alpha = alpha_of(k.alphas, task);
  for (int64_t n = begin + threadIdx.x; n < end; n += threads)
    weights[n * k.tasks + task] = unnormalised(k.risk[n * k.tasks + task], least, alpha) / total;
}

__device__ __forceinline__ void tell(const Part& of_all, int64_t task, int64_t tasks, double* ess, double* state) {
  ess[task] = of_all.total > 0 ? of_all.total * of_all.total / of_all.squares : 0;
  if (!state) return;
  state[task] = of_all.least, state[tasks + task] = of_all.total, state[2 * tasks + task] = of_all.squares;
}

// Where a task has one slice, its weights are finished here, and no second kernel is needed.
CBK_KERNEL(threads) weigh_slices(Risks k, Part* parts, double* weights, double* ess, double* state) {
  const double alpha = alpha_of(k.alphas, blockIdx.y);
  const int64_t task = blockIdx.y, begin = blockIdx.x * k.slice;
  const int64_t end = begin + k.slice < k.particles ? begin + k.slice : k.particles;
  double least = infinity;
  for (int64_t n = begin + threadIdx.x; n < end; n += threads) {
    const double r = k.risk[n * k.tasks + task];
    if (is_finite(r) && r < least) least = r;
  }
  least = block_least(least, infinity);
  double total = 0, squares = 0;
  for (int64_t n = begin + threadIdx.x; n < end; n += threads) {
    const double w = unnormalised(k.risk[n * k.tasks + task], least, alpha);
    total += w, squares += w * w;
  }
  total = block_sum(total), squares = block_sum(squares);
  if (gridDim.x == 1) normalise_slice(k, least, total, weights);
  if (threadIdx.x != 0) return;
  if (gridDim.x == 1)
    tell({least, total, squares}, task, k.tasks, ess, state);
  else
    parts[task * gridDim.x + blockIdx.x] = {least, total, squares};
}

// Every block adds the parts anew, in the same order.
CBK_KERNEL(threads) normalise(Risks k, const Part* parts, double* weights, double* ess, double* state) {
  const double alpha = alpha_of(k.alphas, blockIdx.y);
  const int64_t task = blockIdx.y;
  parts += task * gridDim.x;
  double least = infinity, total = 0, squares = 0;
  for (unsigned i = 0; i < gridDim.x; ++i) least = parts[i].least < least ? parts[i].least : least;
  for (unsigned i = 0; i < gridDim.x; ++i) {
    const double factor = unnormalised(parts[i].least, least, alpha);
    total += factor * parts[i].total, squares += factor * factor * parts[i].squares;
  }
  normalise_slice(k, least, total, weights);
  if (blockIdx.x == 0 && threadIdx.x == 0) tell({least, total, squares}, task, k.tasks, ess, state);
}

// sums[slice][task][i] of the slice's particles; those of weight 0 are never read.  A thread has `width` coordinates,
// which one access reads of a particle, and eight particles on their way: the list of those that have a weight comes
// first, so that no branch stands between the reads.
template <class T, int width>
CBK_KERNEL(threads)
average_slices(const T* theta, const double* weights, int64_t particles, int64_t size, int64_t tasks, int64_t slice,
               double* sums) {
  struct alignas(sizeof(T) * width) Span {
    T value[width];
  };
  constexpr int at_once = 8;
  CBK_SHARED(double, w, threads);
  CBK_SHARED(int, row, threads);
  CBK_SHARED(int, counts, threads / 32);
  const unsigned rank = threadIdx.x, lane = rank % 32, warps = blockDim.x / 32;
  const int64_t task = blockIdx.y % tasks, part = blockIdx.y / tasks;
  const int64_t begin = part * slice, end = begin + slice < particles ? begin + slice : particles;
  const int64_t i = (int64_t(blockIdx.x) * blockDim.x + rank) * width;
  double total[width] = {};
  for (int64_t first = begin; first < end; first += blockDim.x) {
    const double mine = first + rank < end ? weights[(first + rank) * tasks + task] : 0;
    const unsigned votes = __ballot_sync(~0u, mine != 0);
    if (lane == 0) counts[rank / 32] = __popc(votes);
    __syncthreads();
    int at = __popc(votes & ((1u << lane) - 1)), all = 0;
    for (unsigned k = 0; k < warps; ++k) at += k < rank / 32 ? counts[k] : 0, all += counts[k];
    if (mine != 0) w[at] = mine, row[at] = int(rank);
    __syncthreads();
    const T* const from = theta + first * size + i;
    const auto read = [&](int j) { return *reinterpret_cast<const Span*>(from + row[j] * size); };
    const auto add = [&](double weight, const Span& v) {
      for (int e = 0; e < width; ++e) total[e] = fma(weight, double(v.value[e]), total[e]);
    };
    int j = 0;
    for (; i < size && j + at_once <= all; j += at_once) {
      Span v[at_once];
      CBK_UNROLL(8)
      for (int u = 0; u < at_once; ++u) v[u] = read(j + u);
      CBK_UNROLL(8)
      for (int u = 0; u < at_once; ++u) add(w[j + u], v[u]);
    }
    for (; i < size && j < all; ++j) add(w[j], read(j));
    __syncthreads();
  }
  for (int e = 0; i < size && e < width; ++e) sums[(part * tasks + task) * size + i + e] = total[e];
}

}  // namespace

void gibbs_weights(const double* risk, int64_t particles, int64_t tasks, Alphas alphas, double* weights, double* ess,
                   CudaStream on, double* state) {
  const cudaStream_t stream = native(on);
  const int64_t slice = std::max(blocks_for(particles, weight_parts), int64_t(1024));
  const Risks k{risk, particles, tasks, slice, alphas};
  const dim3 grid(unsigned(blocks_for(particles, slice)), unsigned(tasks));
  Workspace<Part> parts(int64_t(grid.x) * tasks, stream);
  launch(weigh_slices, grid, dim3(threads), 0, stream, k, parts.data(), weights, ess, state);
  if (grid.x == 1) return;
  launch(normalise, grid, dim3(threads), 0, stream, k, static_cast<const Part*>(parts.data()), weights, ess, state);
}

template <class T, class Out>
void weighted_sums(const T* theta, const double* weights, int64_t particles, int64_t size, int64_t tasks, Out* out,
                   CudaStream on) {
  const cudaStream_t stream = native(on);
  // enough blocks to read at the memory's speed, on any card: of columns as they are where four are read at once
  const auto threads_across = [&](int64_t spans) {
    int64_t across = threads;
    while (across > 32 && blocks_for(spans, across) * across * 7 > spans * 8) across /= 2;
    return across;
  };
  const int64_t quads = blocks_for(size, 4);
  const int64_t wanted = std::max(std::min(1024 * threads / quads, int64_t(65535)) / tasks, int64_t(1));
  const int64_t slice = std::max(blocks_for(blocks_for(particles, wanted), 8) * 8, int64_t(32));
  const int64_t slices = blocks_for(particles, slice);
  Workspace<double> sums(slices * tasks * size, stream);
  const int width = access_width(size, theta);
  const int64_t across = threads_across(size / width), columns = blocks_for(size / width, across);
  const auto start = [&](auto kernel) {
    launch(kernel, dim3(unsigned(columns), unsigned(slices * tasks)), dim3(unsigned(across)), 0, stream, theta, weights,
           particles, size, tasks, slice, sums.data());
  };
  if constexpr (sizeof(T) == 4) {
    if (width == 4) start(average_slices<T, 4>);
  }
  if (width == 2) start(average_slices<T, 2>);
  if (width == 1) start(average_slices<T, 1>);
  launch_add_parts(sums.data(), slices, tasks * size, 1.0, out, int64_t(1), stream);
}

template <class T>
void consensus(const T* theta, const double* risk, int64_t particles, int64_t size, int64_t tasks, Alphas alphas,
               T* point, double* weights, double* ess, CudaStream on) {
  gibbs_weights(risk, particles, tasks, alphas, weights, ess, on);
  weighted_sums(theta, static_cast<const double*>(weights), particles, size, tasks, point, on);
}

template void consensus(const float*, const double*, int64_t, int64_t, int64_t, Alphas, float*, double*, double*,
                        CudaStream);
template void consensus(const double*, const double*, int64_t, int64_t, int64_t, Alphas, double*, double*, double*,
                        CudaStream);
template void weighted_sums(const float*, const double*, int64_t, int64_t, int64_t, double*, CudaStream);
template void weighted_sums(const double*, const double*, int64_t, int64_t, int64_t, double*, CudaStream);

}  // namespace cbk::device
