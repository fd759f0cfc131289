// A step of a small ensemble after its risks; the CPU's twins are consensus_cpu.cpp and update_cpu.cpp.
//
// Every block finds all weights, and then has four coordinates of all particles to itself: their point, their step. The
// first normals depend on no kernel and are made while the one before still runs; the particles are copied into shared
// memory while the weights are found.
#include "small_cuda.hpp"

#include "../cuda/chain.hpp"
#include "../cuda/reduce.hpp"
#include "../cuda/rows.hpp"

#include "../common/philox.hpp"
#include "../consensus/weight_cuda.hpp"
#include "../update/update_law.hpp"
#include "../update/update_math.hpp"

namespace cbk::device {
namespace {

constexpr int threads = 256, columns = 4,
              groups = threads / columns;  // blocks enough for a small ensemble to fill a card
constexpr int64_t most_particles = 1024, most_numbers = int64_t(1) << 20;

template <class T>
struct Small {
  T* theta;
  int64_t particles, size;
  const double* risk;
  Alphas alpha;
  T* point;
  double* ess;
  uint64_t seed;
  const StepNumbers<T>* now;
};

// Into w, in every block; a barrier must follow.
template <class T>
__device__ void weigh(const Small<T>& k, double* w) {
  const double alpha = alpha_of(k.alpha, 0);
  double least = infinity, total = 0, squares = 0;
  for (int64_t n = threadIdx.x; n < k.particles; n += threads)
    if (is_finite(k.risk[n]) && k.risk[n] < least) least = k.risk[n];
  least = block_least(least, infinity);
  for (int64_t n = threadIdx.x; n < k.particles; n += threads) {
    w[n] = unnormalised(k.risk[n], least, alpha);
    total += w[n], squares += w[n] * w[n];
  }
  total = block_sum(total), squares = block_sum(squares);
  for (int64_t n = threadIdx.x; n < k.particles; n += threads) w[n] = w[n] / total;
  if (blockIdx.x == 0 && threadIdx.x == 0) *k.ess = total > 0 ? total * total / squares : 0;
}

// The block's coordinates of the point, of tile [particles, columns]; particles of weight 0 do not count, whatever they
// are.
template <class T>
__device__ void average(const Small<T>& k, const double* w, const T* tile, double* part, T* point) {
  const int column = int(threadIdx.x) % columns, group = int(threadIdx.x) / columns;
  const int64_t i = int64_t(blockIdx.x) * columns + column;
  double total = 0;
  for (int64_t n = group; n < k.particles; n += groups)
    if (w[n] != 0) total = fma(w[n], double(tile[n * columns + column]), total);
  part[threadIdx.x] = total;
  __syncthreads();
  if (group == 0 && i < k.size) {
    total = 0;
    for (int g = 0; g < groups; ++g) total += part[g * columns + column];
    point[column] = T(total);
    k.point[i] = T(total);
  }
  __syncthreads();
}

template <UpdateForm form, class T>
CBK_KERNEL(threads)
step_small(Small<T> k) {
  CBK_SHARED(double, w, most_particles);
  CBK_SHARED(double, part, threads);
  CBK_SHARED(T, point, columns);
  CBK_DYNAMIC_SHARED(T, tile);
  const int64_t i = int64_t(blockIdx.x) * columns, count = k.size - i < columns ? k.size - i : columns;
  const StepNumbers<T> now = *k.now;  // which no kernel writes
  T z[columns] = {};
  const auto draw = [&](int64_t n) {
    if constexpr (draws(form))
      if (n < k.particles) normals(Counter{k.seed, 0, now.step, uint32_t(n)}, uint32_t(blockIdx.x), z);
  };
  draw(threadIdx.x);
  await_previous();
  allow_next();
  for (int at = int(threadIdx.x); at < k.particles * columns; at += threads) {
    const bool there = at % columns < count;
    copy_async<sizeof(T)>(tile + at, k.theta + (there ? at / columns * k.size + i + at % columns : 0), there);
  }
  commit_copies();
  weigh(k, w);
  wait_copies<0>();
  __syncthreads();
  average(k, w, tile, part, point);
  for (int64_t n = threadIdx.x; n < k.particles; n += threads) {
    for (int j = 0; j < columns; ++j) {  // constant indices keep an array in registers
      if (j >= count) continue;
      const T theta = tile[n * columns + j];
      k.theta[n * k.size + i + j] = moved<form>(theta, theta - point[j], z[j], now.a, now.b, now.floor);
    }
    draw(n + threads);
  }
}

}  // namespace

template <class T>
bool is_small(const UpdateProblem<T>& problem, int64_t tasks) {
  return tasks == 1 && !by_distance(problem.noise) && problem.particles <= most_particles &&  // 42 KB of shared memory
         problem.particles * problem.size <= most_numbers;
}

template <class T>
void consensus_and_update(const UpdateProblem<T>& problem, const double* risk, Alphas alpha, T* point, double* ess,
                          CudaStream on, const StepNumbers<T>* now) {
  const Small<T> k{problem.out, problem.particles, problem.size, risk, alpha, point, ess, problem.key.seed, now};
  const auto start = [&](auto kernel) {
    launch_chained(kernel, dim3(unsigned(blocks_for(k.size, columns))), dim3(threads),
                   size_t(k.particles * columns) * sizeof(T), native(on), k);
  };
  with_form(form_of(problem), [&](auto form) {
    if constexpr (form() != UpdateForm::still) start(step_small<form(), T>);  // which no noise has
  });
}

#define CBK_INSTANTIATE(T) \
  template bool is_small(const UpdateProblem<T>&, int64_t); \
  template void consensus_and_update(const UpdateProblem<T>&, const double*, Alphas, T*, double*, CudaStream, \
                                     const StepNumbers<T>*);
CBK_INSTANTIATE(float)
CBK_INSTANTIATE(double)
#undef CBK_INSTANTIATE

}  // namespace cbk::device
