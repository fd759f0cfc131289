// Entropic transport on the GPU, without the host; the CPU's twin is sinkhorn_cpu.cpp.  A block takes a particle, its warps
// the rows of log-sum-exps.
#include "../cuda/reduce.hpp"
#include "../cuda/rows.hpp"

#include "distance_cuda.hpp"
#include "transport_cuda.hpp"

namespace cbk::device {
namespace {

constexpr int threads = 256, warps = threads / 32;

// A particle and the support, with their potentials in units of the present epsilon; distances are of scaled coordinates.
template <class T>
struct Sides {
  const T *x, *y;  // [count, size], [points, size]
  int64_t count, points, size;
  double *f, *g, scale;
};

// log sum_j exp(potential_j - rate |x - y_j|^2), for a warp; each lane sums relative to the largest term so far.
template <class T>
__device__ double log_sum(const Sides<T>& s, const T* x, const T* y, int64_t count, const double* potential, double rate) {
  double most = -infinity, total = 0;
  for (int64_t j = threadIdx.x % 32; j < count; j += 32) {
    const double term = potential[j] - rate * squared_distance(x, y + j * s.size, s.size, s.scale);
    total = term > most ? total * ::exp(most - term) + 1 : total + ::exp(term - most);
    most = term > most ? term : most;
  }
  const double greatest = -warp_least(-most);
  return greatest + ::log(warp_sum(total * ::exp(most - greatest)));
}

// Potentials at one epsilon; returns the last error of the rows' masses, in every thread.
template <class T>
__device__ double iterate(const Sides<T>& s, double rate, double tolerance, int64_t& left) {
  const int warp = int(threadIdx.x) / 32;
  const bool first = threadIdx.x % 32 == 0;
  while (true) {
    double change = 0;
    for (int64_t i = warp; i < s.count; i += warps) {
      const double f = ::log(double(s.points)) - log_sum(s, s.x + i * s.size, s.y, s.points, s.g, rate);
      if (first) change += fabs(::expm1(s.f[i] - f)), s.f[i] = f;
    }
    const double error = block_sum(change) / double(s.count);
    if (!(error > tolerance) || --left <= 0) return error;
    for (int64_t j = warp; j < s.points; j += warps) {
      const double g = ::log(double(s.count)) - log_sum(s, s.y + j * s.size, s.x, s.count, s.f, rate);
      if (first) s.g[j] = g;
    }
    __syncthreads();
  }
}

// The power of two that brings all coordinates into [-1, 1].
template <class T>
__device__ double scale_of(const Sides<T>& s) {
  double least = 0;
  for (int64_t i = threadIdx.x; i < s.count * s.size; i += threads) least = fmin(least, -fabs(double(s.x[i])));
  for (int64_t i = threadIdx.x; i < s.points * s.size; i += threads) least = fmin(least, -fabs(double(s.y[i])));
  int exponent = 0;
  ::frexp(block_least(least, 0.0), &exponent);
  return ::ldexp(1.0, exponent > -1000 ? -exponent : 1000);
}

// Costs and projections by the rows' weights; the last thing found were f.
template <class T>
__device__ void project(const Sides<T>& s, double rate, double* weight, double* cost, T* projection) {
  double total = 0;
  for (int64_t i = 0; i < s.count; ++i) {
    const double logarithm = ::log(double(s.points)) - s.f[i];
    double row = 0;
    for (int64_t j = threadIdx.x; j < s.points; j += threads) {
      const double distance = squared_distance(s.x + i * s.size, s.y + j * s.size, s.size, s.scale);
      const double w = ::exp(s.g[j] - rate * distance - logarithm);
      weight[j] = w, row += w * distance;
    }
    total += block_sum(row);
    for (int64_t k = int(threadIdx.x) / 32; k < s.size; k += warps) {
      double mean = 0;
      for (int64_t j = threadIdx.x % 32; j < s.points; j += 32) mean += weight[j] * double(s.y[j * s.size + k]);
      mean = warp_sum(mean);
      if (threadIdx.x % 32 == 0) projection[i * s.size + k] = T(mean);
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) *cost = total / (s.scale * s.scale) / double(s.count);
}

template <class T>
CBK_KERNEL(threads) solve_soft(SinkhornArrays<T> p, double* scratch) {
  for (int64_t n = blockIdx.x; n < p.particles; n += gridDim.x) {
    double* f = scratch + blockIdx.x * (p.count + 2 * p.points);
    Sides<T> s{p.atoms + n * p.count * p.size, p.support, p.count, p.points, p.size, f, f + p.count, 1};
    for (int64_t i = threadIdx.x; i < p.count + p.points; i += threads) f[i] = 0;
    int64_t left = p.iterations;
    s.scale = scale_of(s);
    const double last = 1 / (p.epsilon * (s.scale * s.scale));
    double rate = fmin(1.0, last);
    while (rate < last && left > 1) {
      int64_t some = left - 1 < 20 ? left - 1 : 20;
      left -= some;
      iterate(s, rate, 0.1, some);
      left += some > 0 ? some : 0;
      const double next = fmin(4 * rate, last), grow = next / rate;
      __syncthreads();
      for (int64_t i = threadIdx.x; i < p.count + p.points; i += threads) f[i] *= grow;
      __syncthreads();
      rate = next;
    }
    const double error = iterate(s, last, p.tolerance, left);
    if (threadIdx.x == 0) p.error[n] = error;
    project(s, last, s.g + p.points, p.cost + n, p.projection + n * p.count * p.size);
  }
}

}  // namespace

template <class T>
void sinkhorn(const SinkhornArrays<T>& p, CudaStream on) {
  const cudaStream_t stream = native(on);
  const int64_t blocks = std::min(p.particles, held_blocks(solve_soft<T>, threads));
  Workspace<double> scratch(blocks * (p.count + 2 * p.points), stream);
  launch(solve_soft<T>, dim3(unsigned(blocks)), dim3(threads), 0, stream, p, scratch.data());
}

template void sinkhorn(const SinkhornArrays<float>&, CudaStream);
template void sinkhorn(const SinkhornArrays<double>&, CudaStream);

}  // namespace cbk::device
