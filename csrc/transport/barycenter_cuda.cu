// Barycenters on the GPU, without the host: every iteration is done; the CPU's twin is transport_cpu.cpp.
#include "../common/interrupt.hpp"
#include "../cuda/reduce.hpp"
#include "../cuda/rows.hpp"

#include "distance_cuda.hpp"
#include "transport_cuda.hpp"

namespace cbk::device {
namespace {

// beta = weights / their sum, NaN where one is negative or not finite or all are 0; the support starts at the heaviest
// particle, the first of equals, where none is given.
template <class T>
CBK_KERNEL(256)
begin_barycenter(BarycenterArrays<T> b, double* beta) {
  double least = infinity, total = 0;
  for (int64_t n = threadIdx.x; n < b.particles; n += 256) {
    const double w = b.weights[n];
    least = -w < least ? -w : least;
    total += w >= 0 && w < infinity ? 0 : quiet_nan;
  }
  const double wrong = block_sum(total), largest = -block_least(least, infinity);
  int64_t heaviest = b.particles - 1;
  total = 0;
  for (int64_t n = threadIdx.x; n < b.particles; n += 256) {
    total += b.weights[n] / largest;  // whose sum cannot overflow
    if (b.weights[n] == largest && n < heaviest) heaviest = n;
  }
  total = block_sum(total) + wrong;
  heaviest = block_least(heaviest, b.particles - 1);
  for (int64_t n = threadIdx.x; n < b.particles; n += 256) beta[n] = b.weights[n] / largest / total;
  const int64_t length = b.count * b.size;
  for (int64_t i = threadIdx.x; !b.start && i < length; i += 256) b.support[i] = b.atoms[heaviest * length + i];
}

// A warp takes a coordinate of all supports.
template <class T>
CBK_KERNEL(128)
average(Coupling<T> c, const int32_t* partner) {
  const int64_t at = int64_t(blockIdx.x) * 4 + threadIdx.x / 32, length = c.count * c.size;
  if (at >= c.tasks * length) return;  // the whole warp
  const int64_t task = at / length, i = at % length, j = i / c.size;
  double total = 0;
  for (int64_t n = threadIdx.x % 32; n < c.particles; n += 32) {
    const int64_t pair = n * c.tasks + task;
    if (c.weights[pair] != 0)
      total = fma(c.weights[pair], double(c.atoms[(n * c.count + partner[pair * c.count + j]) * c.size + i % c.size]),
                  total);
  }
  total = warp_sum(total);
  if (threadIdx.x % 32 == 0) c.support[at] = T(total);
}

// A block takes a pair.
template <class T>
CBK_KERNEL(128)
costs_of(Coupling<T> c, const int64_t* match, const double* only, double* cost) {
  const int64_t pair = blockIdx.x, n = pair / c.tasks, task = pair % c.tasks;
  if (only && !(only[pair] > 0)) {
    if (threadIdx.x == 0) cost[pair] = 0;
    return;  // the whole block
  }
  const T *x = c.atoms + n * c.count * c.size, *y = c.support + task * c.count * c.size;
  const auto mean = [&](double scale) {
    double total = 0;
    for (int64_t i = threadIdx.x; i < c.count; i += 128)
      total += squared_distance(x + i * c.size, y + match[pair * c.count + i] * c.size, c.size, scale);
    return block_sum(total) / double(c.count);
  };
  double found = mean(1);
  if (sizeof(T) == 8 &&
      !(found > 0x1p-900 && found < infinity)) {  // its terms may over- or underflow where it does not
    double least = 0;
    for (int64_t i = threadIdx.x; i < c.count * c.size; i += 128)
      least = fmin(least, -fmax(fabs(double(x[i])), fabs(double(y[i]))));
    const double scale = unit_scale(-block_least(least, 0.0));
    found = mean(scale) / scale / scale;
  }
  if (threadIdx.x == 0) cost[pair] = found;
}

CBK_KERNEL(256)
add_objective(const double* weights, const double* cost, int64_t count, double* history, double* objective) {
  double total = 0;
  for (int64_t n = threadIdx.x; n < count; n += 256) total += weights[n] * cost[n];
  total = block_sum(total);
  if (threadIdx.x == 0) *history = *objective = total;
}

}  // namespace

template <class T>
void average_partners(const Coupling<T>& c, const int32_t* partner, CudaStream stream) {
  launch(average<T>, dim3(unsigned(blocks_for(c.tasks * c.count * c.size, 4))), dim3(128), 0, native(stream), c,
         partner);
}

template <class T>
void coupling_costs(const Coupling<T>& c, const int64_t* match, const double* only, double* cost, CudaStream stream) {
  launch(costs_of<T>, dim3(unsigned(c.particles * c.tasks)), dim3(128), 0, native(stream), c, match, only, cost);
}

template <class T>
void barycenter(const BarycenterArrays<T>& b, CudaStream on) {
  const cudaStream_t stream = native(on);
  const int64_t atoms = b.particles * b.count;
  Workspace<double> beta(b.particles, stream), duals(atoms, stream), cost(b.particles, stream);
  Workspace<int32_t> partner(atoms, stream);
  check(cudaMemsetAsync(duals.data(), 0, size_t(atoms) * sizeof(double), stream), "zeros");
  check(cudaMemsetAsync(partner.data(), 0, size_t(atoms) * sizeof(int32_t), stream), "zeros");
  const double* weights = beta.data();
  launch(begin_barycenter<T>, dim3(1), dim3(256), 0, stream, b, beta.data());
  const Coupling<T> coupling{b.atoms, b.support, b.particles, 1, b.count, b.size, weights};
  const Measures<T> measures{b.atoms, b.support, b.particles, 1, b.count, b.size};
  for (int64_t i = 0; i < b.iterations; ++i) {
    poll();
    Assigned to;
    to.match = b.match, to.guess = i > 0, to.duals = duals.data(), to.partner = partner.data(), to.only = weights;
    assign(measures, to, on);
    if (i + 1 == b.iterations) {  // those that do not move the support are assigned once
      to.guess = false, to.duals = nullptr, to.positive = false;
      assign(measures, to, on);
    }
    average_partners(coupling, static_cast<const int32_t*>(partner.data()), on);
    coupling_costs(coupling, static_cast<const int64_t*>(b.match), weights, cost.data(), on);
    launch(add_objective, dim3(1), dim3(256), 0, stream, weights, static_cast<const double*>(cost.data()), b.particles,
           b.history + i, b.objective);
  }
}

#define CBK_INSTANTIATE(T) \
  template void average_partners(const Coupling<T>&, const int32_t*, CudaStream); \
  template void coupling_costs(const Coupling<T>&, const int64_t*, const double*, double*, CudaStream); \
  template void barycenter(const BarycenterArrays<T>&, CudaStream);
CBK_INSTANTIATE(float)
CBK_INSTANTIATE(double)
#undef CBK_INSTANTIATE

}  // namespace cbk::device
