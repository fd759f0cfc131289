// Barycenters on the GPU, without the host: every iteration is done; the CPU's twin is transport_cpu.cpp.
#include "../cuda/reduce.hpp"
#include "../cuda/rows.hpp"

#include "distance_cuda.hpp"
#include "transport_cuda.hpp"

namespace cbk::device {
namespace {

// beta = weights / their sum, NaN where one is negative or not finite or all are 0; the support starts at the heaviest
// particle, the first of equals, where none is given.
template <class T>
CBK_KERNEL(256) begin_barycenter(BarycenterArrays<T> b, double* beta) {
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

// support_j = sum_n beta_n x_{n, partner(n, j)}: a warp takes a coordinate.  A particle of weight 0 is not read.
template <class T>
CBK_KERNEL(128) average_partners(BarycenterArrays<T> b, const double* beta, const int32_t* partner) {
  const int64_t i = int64_t(blockIdx.x) * 4 + threadIdx.x / 32, j = i / b.size;
  if (j >= b.count) return;  // the whole warp
  double total = 0;
  for (int64_t n = threadIdx.x % 32; n < b.particles; n += 32)
    if (beta[n] != 0)
      total = fma(beta[n], double(b.atoms[(n * b.count + partner[n * b.count + j]) * b.size + i % b.size]), total);
  total = warp_sum(total);
  if (threadIdx.x % 32 == 0) b.support[i] = T(total);
}

// Each particle's part of the objective: a block takes a particle.
template <class T>
CBK_KERNEL(128) objective_parts(BarycenterArrays<T> b, const double* beta, double* parts) {
  const int64_t n = blockIdx.x;
  double total = 0;
  for (int64_t i = threadIdx.x; beta[n] != 0 && i < b.count; i += 128)
    total += squared_distance(b.atoms + (n * b.count + i) * b.size, b.support + b.match[n * b.count + i] * b.size, b.size);
  total = block_sum(total);
  if (threadIdx.x == 0) parts[n] = beta[n] * total / double(b.count);
}

CBK_KERNEL(256) add_objective(const double* parts, int64_t count, double* history, double* objective) {
  double total = 0;
  for (int64_t n = threadIdx.x; n < count; n += 256) total += parts[n];
  total = block_sum(total);
  if (threadIdx.x == 0) *history = *objective = total;
}

}  // namespace

template <class T>
void barycenter(const BarycenterArrays<T>& b, CudaStream on) {
  const cudaStream_t stream = native(on);
  const int64_t atoms = b.particles * b.count;
  Workspace<double> beta(b.particles, stream), duals(atoms, stream), parts(b.particles, stream);
  Workspace<int32_t> partner(atoms, stream);
  check(cudaMemsetAsync(duals.data(), 0, size_t(atoms) * sizeof(double), stream), "zeros");
  check(cudaMemsetAsync(partner.data(), 0, size_t(atoms) * sizeof(int32_t), stream), "zeros");
  const double* weights = beta.data();
  launch(begin_barycenter<T>, dim3(1), dim3(256), 0, stream, b, beta.data());
  const Measures<T> measures{b.atoms, b.support, b.particles, 1, b.count, b.size};
  for (int64_t i = 0; i < b.iterations; ++i) {
    Assigned to;
    to.match = b.match, to.guess = i > 0, to.duals = duals.data(), to.partner = partner.data(), to.only = weights;
    assign(measures, to, on);
    if (i + 1 == b.iterations) {  // those that do not move the support are assigned once
      to.guess = false, to.duals = nullptr, to.positive = false;
      assign(measures, to, on);
    }
    launch(average_partners<T>, dim3(unsigned(blocks_for(b.count * b.size, 4))), dim3(128), 0, stream, b, weights,
           static_cast<const int32_t*>(partner.data()));
    launch(objective_parts<T>, dim3(unsigned(b.particles)), dim3(128), 0, stream, b, weights, parts.data());
    launch(add_objective, dim3(1), dim3(256), 0, stream, static_cast<const double*>(parts.data()), b.particles, b.history + i,
           b.objective);
  }
}

template void barycenter(const BarycenterArrays<float>&, CudaStream);
template void barycenter(const BarycenterArrays<double>&, CudaStream);

}  // namespace cbk::device
