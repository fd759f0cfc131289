// A step of a small ensemble after its risks; the CPU's twins are consensus_cpu.cpp and update_cpu.cpp.
//
// Every block finds all weights, and then has `columns` coordinates of all particles to itself: their point, their step.
#include "small_cuda.hpp"

#include "../cuda/reduce.hpp"
#include "../cuda/rows.hpp"

#include "../common/philox.hpp"
#include "../consensus/weight_cuda.hpp"
#include "../update/update_law.hpp"
#include "../update/update_math.hpp"

namespace cbk::device {
namespace {

constexpr int threads = 256, columns = 8, groups = threads / columns;  // blocks enough for a small ensemble to fill a card
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

// Into w, in every block.
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
  __syncthreads();
}

// The block's coordinates of the point; particles of weight 0 are never read.
template <class T>
__device__ void average(const Small<T>& k, const double* w, double* part, T* point) {
  const int column = int(threadIdx.x) % columns, group = int(threadIdx.x) / columns;
  const int64_t i = int64_t(blockIdx.x) * columns + column;
  double total = 0;
  for (int64_t n = group; i < k.size && n < k.particles; n += groups)
    if (w[n] != 0) total = fma(w[n], double(k.theta[n * k.size + i]), total);
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
CBK_KERNEL(threads) step_small(Small<T> k) {
  CBK_SHARED(double, w, most_particles);
  CBK_SHARED(double, part, threads);
  CBK_SHARED(T, point, columns);
  const StepNumbers<T> now = *k.now;
  weigh(k, w);
  average(k, w, part, point);
  constexpr int quads = columns / 4;
  const int quad = int(threadIdx.x) % quads;
  const int64_t i = int64_t(blockIdx.x) * columns + 4 * quad, count = k.size - i < 4 ? k.size - i : 4;
  for (int64_t n = threadIdx.x / quads; i < k.size && n < k.particles; n += threads / quads) {
    T z[4] = {};
    if constexpr (form != UpdateForm::quiet) normals(Counter{k.seed, 0, now.step, uint32_t(n)}, uint32_t(i / 4), z);
    T* theta = k.theta + n * k.size + i;
    for (int j = 0; j < count; ++j)
      theta[j] = moved<form>(theta[j], theta[j] - point[4 * quad + j], z[j], now.a, now.b, now.floor);
  }
}

}  // namespace

template <class T>
bool is_small(const UpdateProblem<T>& problem, int64_t tasks) {
  return tasks == 1 && !by_distance(problem.noise) && problem.particles <= most_particles &&
         problem.particles * problem.size <= most_numbers;
}

template <class T>
void consensus_and_update(const UpdateProblem<T>& problem, const double* risk, Alphas alpha, T* point, double* ess,
                          CudaStream on, const StepNumbers<T>* now) {
  const Small<T> k{problem.out, problem.particles, problem.size, risk, alpha, point, ess, problem.key.seed, now};
  const auto start = [&](auto kernel) {
    launch(kernel, dim3(unsigned(blocks_for(k.size, columns))), dim3(threads), 0, native(on), k);
  };
  switch (form_of(problem.noise, problem.diffusion, problem.floor)) {
    case UpdateForm::multiplied: return start(step_small<UpdateForm::multiplied, T>);
    case UpdateForm::floored: return start(step_small<UpdateForm::floored, T>);
    case UpdateForm::added: return start(step_small<UpdateForm::added, T>);
    default: return start(step_small<UpdateForm::quiet, T>);
  }
}

#define CBK_INSTANTIATE(T)                                                                                          \
  template bool is_small(const UpdateProblem<T>&, int64_t);                                                        \
  template void consensus_and_update(const UpdateProblem<T>&, const double*, Alphas, T*, double*, CudaStream, const StepNumbers<T>*);
CBK_INSTANTIATE(float)
CBK_INSTANTIATE(double)
#undef CBK_INSTANTIATE

}  // namespace cbk::device
