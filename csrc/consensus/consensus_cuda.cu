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

CBK_KERNEL(threads) weigh_slices(Risks k, Part* parts) {
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
  if (threadIdx.x == 0) parts[task * gridDim.x + blockIdx.x] = {least, total, squares};
}

// Every block adds the parts anew, in the same order.
CBK_KERNEL(threads) normalise(Risks k, const Part* parts, double* weights, double* ess) {
  const double alpha = alpha_of(k.alphas, blockIdx.y);
  const int64_t task = blockIdx.y, begin = blockIdx.x * k.slice;
  const int64_t end = begin + k.slice < k.particles ? begin + k.slice : k.particles;
  parts += task * gridDim.x;
  double least = infinity, total = 0, squares = 0;
  for (unsigned i = 0; i < gridDim.x; ++i) least = parts[i].least < least ? parts[i].least : least;
  for (unsigned i = 0; i < gridDim.x; ++i) {
    const double factor = unnormalised(parts[i].least, least, alpha);
    total += factor * parts[i].total, squares += factor * factor * parts[i].squares;
  }
  for (int64_t n = begin + threadIdx.x; n < end; n += threads)
    weights[n * k.tasks + task] = unnormalised(k.risk[n * k.tasks + task], least, alpha) / total;
  if (blockIdx.x == 0 && threadIdx.x == 0) ess[task] = total > 0 ? total * total / squares : 0;
}

// A block finds its task's alpha: the bisection of alpha_for_ess, every thread with the same sums.
CBK_KERNEL(threads) bisect(const double* risk, int64_t particles, int64_t tasks, const double* target, double* alphas) {
  const int64_t task = blockIdx.x;
  const double wanted = *target;
  double least = infinity, greatest = -infinity;
  for (int64_t n = threadIdx.x; n < particles; n += blockDim.x) {
    const double r = risk[n * tasks + task];
    if (is_finite(r)) least = r < least ? r : least, greatest = r > greatest ? r : greatest;
  }
  least = block_least(least, infinity), greatest = -block_least(-greatest, infinity);
  const double range = greatest - least;
  const auto ess_at = [&](double alpha) {
    double total = 0, squares = 0;
    for (int64_t n = threadIdx.x; n < particles; n += blockDim.x) {
      const double w = unnormalised(risk[n * tasks + task], least, alpha);
      total += w, squares += w * w;
    }
    total = block_sum(total), squares = block_sum(squares);
    return total * total / squares;
  };
  double alpha = infinity;
  if (range > 0 && ess_at(infinity) < wanted) {
    alpha = 0;
    if (ess_at(0) > wanted) {
      double low = -30, high = 2;
      for (double step = 4; ess_at(::exp(high) / range) > wanted && high < 600; step *= 2) low = high, high += step;
      for (int i = 0; i < 60 && high - low > 1e-12; ++i) {
        const double middle = 0.5 * (low + high);
        const bool more = ess_at(::exp(middle) / range) > wanted;
        low = more ? middle : low, high = more ? high : middle;
      }
      alpha = ::exp(0.5 * (low + high)) / range;
    }
  }
  if (threadIdx.x == 0) alphas[task] = alpha;
}

// sums[slice][task][i] of the slice's particles; those of weight 0 are never read.
template <class T>
CBK_KERNEL(threads) average_slices(const T* theta, const double* weights, int64_t particles, int64_t size, int64_t tasks,
                                   int64_t slice, double* sums) {
  constexpr int at_once = 8;
  CBK_SHARED(double, w, threads);
  const int64_t task = blockIdx.y % tasks, part = blockIdx.y / tasks;
  const int64_t begin = part * slice, end = begin + slice < particles ? begin + slice : particles;
  const int64_t i = int64_t(blockIdx.x) * threads + threadIdx.x;
  double total = 0;
  for (int64_t first = begin; first < end; first += threads) {
    const int64_t n = first + threadIdx.x;
    const double mine = n < end ? weights[n * tasks + task] : 0;
    w[threadIdx.x] = mine;
    const bool any = __syncthreads_or(mine != 0);
    const int limit = end - first < threads ? int(end - first) : threads;
    for (int j = 0; any && i < size && j < limit; j += at_once) {
      T v[at_once];
      for (int u = 0; u < at_once; ++u) v[u] = w[j + u] != 0 ? theta[(first + j + u) * size + i] : T(0);
      for (int u = 0; u < at_once; ++u) total = fma(w[j + u], double(v[u]), total);
    }
    __syncthreads();
  }
  if (i < size) sums[(part * tasks + task) * size + i] = total;
}

template <class T>
CBK_KERNEL(threads) add_slices(const double* sums, int64_t parts, int64_t count, T* point) {
  const int64_t i = int64_t(blockIdx.x) * threads + threadIdx.x;
  if (i >= count) return;
  double total = 0;
  for (int64_t part = 0; part < parts; ++part) total += sums[part * count + i];
  point[i] = T(total);
}

}  // namespace

void solve_alphas(const double* risk, int64_t particles, int64_t tasks, const double* target, double* alphas,
                  CudaStream stream) {
  // a warp of its own needs no other to wait for
  launch(bisect, dim3(unsigned(tasks)), dim3(particles > 1024 ? threads : 32), 0, native(stream), risk, particles, tasks, target, alphas);
}

void gibbs_weights(const double* risk, int64_t particles, int64_t tasks, Alphas alphas, double* weights, double* ess,
                   CudaStream on) {
  const cudaStream_t stream = native(on);
  const int64_t slice = std::max(blocks_for(particles, weight_parts), int64_t(1024));
  const Risks k{risk, particles, tasks, slice, alphas};
  const dim3 grid(unsigned(blocks_for(particles, slice)), unsigned(tasks));
  Workspace<Part> parts(int64_t(grid.x) * tasks, stream);
  launch(weigh_slices, grid, dim3(threads), 0, stream, k, parts.data());
  launch(normalise, grid, dim3(threads), 0, stream, k, static_cast<const Part*>(parts.data()), weights, ess);
}

template <class T>
void consensus(const T* theta, const double* risk, int64_t particles, int64_t size, int64_t tasks, Alphas alphas, T* point,
               double* weights, double* ess, CudaStream on) {
  const cudaStream_t stream = native(on);
  gibbs_weights(risk, particles, tasks, alphas, weights, ess, on);

  // enough blocks to read at the memory's speed, on any card
  const int64_t columns = blocks_for(size, threads);
  const int64_t wanted = std::min(std::max(2048 / (columns * tasks), int64_t(1)), std::max(65535 / tasks, int64_t(1)));
  const int64_t slice = std::max(blocks_for(blocks_for(particles, wanted), 8) * 8, int64_t(32));
  const int64_t slices = blocks_for(particles, slice);
  Workspace<double> sums(slices * tasks * size, stream);
  launch(average_slices<T>, dim3(unsigned(columns), unsigned(slices * tasks)), dim3(threads), 0, stream, theta,
         static_cast<const double*>(weights), particles, size, tasks, slice, sums.data());
  launch(add_slices<T>, dim3(unsigned(blocks_for(tasks * size, threads))), dim3(threads), 0, stream,
         static_cast<const double*>(sums.data()), slices, tasks * size, point);
}

template void consensus(const float*, const double*, int64_t, int64_t, int64_t, Alphas, float*, double*, double*, CudaStream);
template void consensus(const double*, const double*, int64_t, int64_t, int64_t, Alphas, double*, double*, double*, CudaStream);

}  // namespace cbk::device
