// Entropic transport on the GPU, without the host; the CPU's twin is sinkhorn_cpu.cpp.  A block takes a particle, its
// warps the rows of log-sum-exps.
#include "../cuda/reduce.hpp"
#include "../cuda/rows.hpp"

#include "distance_cuda.hpp"
#include "sinkhorn.hpp"
#include "transport_cuda.hpp"

namespace cbk::device {
namespace {

constexpr int threads = 256, warps = threads / 32;

// A particle and the support, with their potentials in units of the present epsilon; distances are of scaled
// coordinates.
template <class T>
struct Sides {
  const T *x, *y;  // [count, size], [points, size]
  int64_t count, points, size;
  double *f, *g, scale;
  double *mass, *kept, *lack, *mean, *weight;  // [count], [points], [points], [size], [points]
};

// log sum_j exp(potential_j - rate |x - y_j|^2), for a warp; each lane sums relative to the largest term so far.
template <class T>
__device__ double log_sum(const Sides<T>& s, const T* x, const T* y, int64_t count, const double* potential,
                          double rate) {
  double most = -infinity, total = 0;
  for (int64_t j = threadIdx.x % 32; j < count; j += 32) {
    const double term = potential[j] - rate * squared_distance(x, y + j * s.size, s.size, s.scale);
    total = term > most ? total * ::exp(most - term) + 1 : total + ::exp(term - most);
    most = term > most ? term : most;
  }
  const double greatest = -warp_least(-most);
  return greatest + ::log(warp_sum(total * ::exp(most - greatest)));
}

// Potentials at one epsilon, until the rows' masses change by `tolerance`.
template <class T>
__device__ void iterate(const Sides<T>& s, double rate, double tolerance, int64_t& left) {
  const int warp = int(threadIdx.x) / 32;
  const bool first = threadIdx.x % 32 == 0;
  while (true) {
    double change = 0;
    for (int64_t i = warp; i < s.count; i += warps) {
      const double f = ::log(double(s.points)) - log_sum(s, s.x + i * s.size, s.y, s.points, s.g, rate);
      if (first) change += fabs(::expm1(s.f[i] - f)), s.f[i] = f;
    }
    const double error = block_sum(change) / double(s.count);
    if (!(error > tolerance) || --left <= 0) return;
    for (int64_t j = warp; j < s.points; j += warps) {
      const double g = ::log(double(s.count)) - log_sum(s, s.y + j * s.size, s.x, s.count, s.f, rate);
      if (first) s.g[j] = g;
    }
    __syncthreads();
  }
}

// Sets the scale, that of the CPU's Frame; returns a squared distance that none exceeds.
template <class T>
__device__ double set_scale(Sides<T>& s) {
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  struct Range {
    double low, high;
  };
  const auto range = [&](int64_t k) {
    double low = infinity, high = infinity;  // the latter with the other sign
    for (int64_t i = lane; i < s.count; i += 32)
      low = fmin(low, double(s.x[i * s.size + k])), high = fmin(high, -double(s.x[i * s.size + k]));
    for (int64_t j = lane; j < s.points; j += 32)
      low = fmin(low, double(s.y[j * s.size + k])), high = fmin(high, -double(s.y[j * s.size + k]));
    return Range{warp_least(low), -warp_least(high)};
  };
  double least = 0, squares = 0;
  for (int64_t k = warp; k < s.size; k += warps) {
    const Range r = range(k);
    const bool apart = (r.low > 0 && r.high / 2 <= r.low) || (r.high < 0 && r.low / 2 >= r.high);
    least = fmin(least, apart ? r.low - r.high : fmin(-fabs(r.low), -fabs(r.high)));
  }
  s.scale = unit_scale(-block_least(least, 0.0));
  for (int64_t k = warp; k < s.size; k += warps) {
    const Range r = range(k);
    const double e = (r.high - r.low) * s.scale;
    squares += lane == 0 ? e * e : 0;
  }
  return block_sum(squares);
}

// Atom i's share in point j before its row is divided by its sum: the same bits for rows and for columns.
template <class T>
__device__ double share_of(const Sides<T>& s, int64_t i, int64_t j, double rate) {
  const double distance = squared_distance(s.x + i * s.size, s.y + j * s.size, s.size, s.scale);
  return ::exp(s.g[j] - rate * distance - (::log(double(s.points)) - s.f[i]));
}

// With rows of mass 1/M: how much of each column is kept, and what it lacks [Altschuler, Weed, Rigollet 2017, algorithm
// 2]. Returns the columns' error, and in `spread` the mean squared distance of what they lack from its mean.
template <class T>
__device__ double balance(const Sides<T>& s, double rate, double& spread) {
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  for (int64_t i = warp; i < s.count; i += warps) {
    double total = 0;
    for (int64_t j = lane; j < s.points; j += 32) total += share_of(s, i, j, rate);
    total = warp_sum(total);
    if (lane == 0) s.mass[i] = total;
  }
  __syncthreads();
  double error = 0, lacking = 0;
  for (int64_t j = warp; j < s.points; j += warps) {
    double total = 0;
    for (int64_t i = lane; i < s.count; i += 32) total += share_of(s, i, j, rate) / s.mass[i];
    total = warp_sum(total) * double(s.points) / double(s.count);
    if (lane) continue;
    s.kept[j] = total > 1 ? 1 / total : 1, s.lack[j] = total > 1 ? 0 : 1 - total;
    error += fabs(1 - total), lacking += s.lack[j];
  }
  error = block_sum(error), lacking = block_sum(lacking);
  for (int64_t k = warp; k < s.size; k += warps) {  // of points less the first, scaled
    double mean = 0;
    for (int64_t j = lane; j < s.points; j += 32)
      mean += s.lack[j] * ((double(s.y[j * s.size + k]) - double(s.y[k])) * s.scale);
    mean = warp_sum(mean);
    if (lane == 0) s.mean[k] = lacking > 0 ? mean / lacking : 0;
  }
  __syncthreads();
  spread = 0;
  for (int64_t j = threadIdx.x; j < s.points; j += threads)
    for (int64_t k = 0; k < s.size; ++k) {
      const double d = (double(s.y[j * s.size + k]) - double(s.y[k])) * s.scale - s.mean[k];
      spread += lacking > 0 ? s.lack[j] / lacking * d * d : 0;
    }
  spread = block_sum(spread);
  return error / double(s.points);
}

// The balanced coupling's cost and projection.
template <class T>
__device__ void project(const Sides<T>& s, double rate, double spread, double* cost, T* projection) {
  double total = 0;
  for (int64_t i = 0; i < s.count; ++i) {
    double row = 0, mass = 0, far = 0;
    for (int64_t j = threadIdx.x; j < s.points; j += threads) {
      const double w = share_of(s, i, j, rate) / s.mass[i] * s.kept[j];
      s.weight[j] = w, mass += w;
      if (w > 0) row += w * squared_distance(s.x + i * s.size, s.y + j * s.size, s.size, s.scale);
    }
    for (int64_t k = threadIdx.x; k < s.size; k += threads) {
      const double d = (double(s.x[i * s.size + k]) - double(s.y[k])) * s.scale - s.mean[k];
      far += d * d;
    }
    mass = block_sum(mass);
    const double rest = mass < 1 ? 1 - mass : 0;
    total += block_sum(row) + rest * (block_sum(far) + spread);
    for (int64_t k = int(threadIdx.x) / 32; k < s.size; k += warps) {
      double mean = 0;
      for (int64_t j = threadIdx.x % 32; j < s.points; j += 32) mean += s.weight[j] * double(s.y[j * s.size + k]);
      mean = warp_sum(mean) + rest * (s.mean[k] / s.scale + double(s.y[k]));
      if (threadIdx.x % 32 == 0) projection[i * s.size + k] = T(mean);
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) *cost = total / s.scale / s.scale / double(s.count);
}

// Doubles of a block's memory.
__host__ __device__ constexpr int64_t scratch_of(int64_t count, int64_t points, int64_t size) {
  return 2 * count + 4 * points + size;
}

template <class T>
CBK_KERNEL(threads)
solve_soft(SinkhornProblem<T> p, double* scratch) {
  for (int64_t n = blockIdx.x; n < p.particles; n += gridDim.x) {
    double* f = scratch + blockIdx.x * scratch_of(p.count, p.points, p.size);
    double *mass = f + p.count, *g = mass + p.count, *kept = g + p.points, *lack = kept + p.points;
    Sides<T> s{p.atoms + n * p.count * p.size,
               p.support,
               p.count,
               p.points,
               p.size,
               f,
               g,
               1,
               mass,
               kept,
               lack,
               lack + 2 * p.points,
               lack + p.points};
    for (int64_t i = threadIdx.x; i < p.count; i += threads) s.f[i] = 0;
    for (int64_t j = threadIdx.x; j < p.points; j += threads) s.g[j] = 0;
    int64_t left = p.iterations;
    const double farthest = set_scale(s);
    const double last = fmin(1 / (p.epsilon * s.scale * s.scale), farthest > 0 ? max_rate / farthest : 1);
    double rate = fmin(1.0, last);
    while (rate < last && left > 1) {
      int64_t some = left - 1 < 20 ? left - 1 : 20;
      left -= some;
      iterate(s, rate, 0.1, some);
      left += some > 0 ? some : 0;
      const double next = fmin(4 * rate, last), grow = next / rate;
      __syncthreads();
      for (int64_t i = threadIdx.x; i < p.count; i += threads) s.f[i] *= grow;
      for (int64_t j = threadIdx.x; j < p.points; j += threads) s.g[j] *= grow;
      __syncthreads();
      rate = next;
    }
    iterate(s, last, p.tolerance, left);
    double spread;
    const double error = balance(s, last, spread);
    if (threadIdx.x == 0) p.error[n] = error;
    project(s, last, spread, p.cost + n, p.projection + n * p.count * p.size);
  }
}

}  // namespace

template <class T>
void sinkhorn(const SinkhornProblem<T>& p, CudaStream on) {
  const cudaStream_t stream = native(on);
  const int64_t blocks = std::min(p.particles, held_blocks(solve_soft<T>, threads));
  Workspace<double> scratch(blocks * scratch_of(p.count, p.points, p.size), stream);
  launch(solve_soft<T>, dim3(unsigned(blocks)), dim3(threads), 0, stream, p, scratch.data());
}

template void sinkhorn(const SinkhornProblem<float>&, CudaStream);
template void sinkhorn(const SinkhornProblem<double>&, CudaStream);

}  // namespace cbk::device
