// Minibatches, and the row of history that an epoch leaves.
#include "report_cuda.hpp"

#include "../cuda/reduce.hpp"
#include "../cuda/rows.hpp"
#include "../consensus/weight_cuda.hpp"
#include "training_cuda.hpp"

namespace cbk::device {
namespace {

constexpr int threads = 256;
template <class... P>
dim3 grid_for(void (*kernel)(P...), int64_t count) {
  return strided_grid(kernel, blocks_for(count, threads), threads);
}

template <class U, class I>
__device__ __forceinline__ void take_entry(const Rows<U>& k, I i, const int64_t* order, int64_t samples, I count,
                                           I batch) {
  const I tasks = I(k.tasks), columns = I(k.columns), first = i / (batch * tasks * columns) * batch;
  const I own = batch < count - first ? batch : count - first, rest = i - first * tasks * columns, row = rest / columns;
  const int64_t task = row / own, sample = order[first + row % own];
  k.to[i] = k.from[(task * samples + sample) * k.columns + rest % columns];
}

// I: what counts the entries; a card divides 32 bits many times faster than 64.
template <class U, class V, class I>
CBK_KERNEL(threads)
take_rows(Rows<U> x, Rows<V> y, const int64_t* order, int64_t samples, I count, I batch) {
  const int64_t of_x = int64_t(count) * x.tasks * x.columns, all = of_x + int64_t(count) * y.tasks * y.columns;
  for (int64_t at = int64_t(blockIdx.x) * threads + threadIdx.x; at < all; at += int64_t(gridDim.x) * threads)
    if (at < of_x)
      take_entry(x, I(at), order, samples, count, batch);
    else
      take_entry(y, I(at - of_x), order, samples, count, batch);
}

CBK_KERNEL(threads)
find_troubles(const double* risk, int64_t steps, int64_t particles, int64_t tasks, const double* ess,
              const uint32_t* first_step, Troubles* troubles) {
  const int64_t stride = int64_t(gridDim.x) * threads, first = int64_t(blockIdx.x) * threads + threadIdx.x;
  int count = 0;
  for (int64_t row = first; row < steps * particles; row += stride) {
    bool finite = true;
    for (int64_t t = 0; t < tasks; ++t) finite = finite && is_finite(risk[row * tasks + t]);
    count += !finite;
  }
  count = block_sum(count);
  if (threadIdx.x == 0 && count > 0) atomicAdd(&troubles->not_finite, static_cast<unsigned long long>(count));
  for (int64_t i = first; ess && i < steps * tasks; i += stride)
    if (ess[i] == 0)
      atomicMin(&troubles->failure, static_cast<unsigned long long>(*first_step + i / tasks) << 32 |
                                        static_cast<unsigned long long>(i % tasks + 1));
}

constexpr int columns_of = 32, rows_of = 8;  // of a block

// Sums over a slice of particles of a coordinate's distances to particle 0 and their squares: sums[slice][2][size].
template <class T>
CBK_KERNEL(columns_of* rows_of)
sum_slices(const T* theta, int64_t particles, int64_t size, int64_t slice, double* sums) {
  CBK_SHARED(double, part, 2 * columns_of * rows_of);
  const int64_t i = int64_t(blockIdx.x) * columns_of + threadIdx.x, begin = blockIdx.y * slice;
  const int64_t end = begin + slice < particles ? begin + slice : particles;
  double total = 0, squares = 0;
  if (i < size) {
    const double origin = double(theta[i]);
    for (int64_t n = begin + threadIdx.y; n < end; n += rows_of) {
      const double distance = double(theta[n * size + i]) - origin;
      total += distance, squares += distance * distance;
    }
  }
  const int at = int(threadIdx.y) * columns_of + int(threadIdx.x);
  part[at] = total, part[columns_of * rows_of + at] = squares;
  __syncthreads();
  if (threadIdx.y < 2 && i < size) {
    double sum = 0;
    for (int j = 0; j < rows_of; ++j) sum += part[(int(threadIdx.y) * rows_of + j) * columns_of + int(threadIdx.x)];
    sums[(blockIdx.y * 2 + threadIdx.y) * size + i] = sum;
  }
}

template <class T>
CBK_KERNEL(threads)
add_coordinates(const T* theta, const double* sums, int64_t slices, int64_t particles, int64_t size,
                const double* limit, double* parts, double* mean) {
  const double n = double(particles), least = *limit * *limit * n;
  double total = 0, frozen = 0;
  for (int64_t i = int64_t(blockIdx.x) * threads + threadIdx.x; i < size; i += int64_t(gridDim.x) * threads) {
    double sum = 0, squares = 0;
    for (int64_t s = 0; s < slices; ++s) sum += sums[2 * s * size + i], squares += sums[(2 * s + 1) * size + i];
    const double about = squares - sum * sum / n;  // to the mean
    total += about < 0 ? 0 : about;
    frozen += about <= least;
    if (mean) mean[i] = double(theta[i]) + sum / n;
  }
  total = block_sum(total), frozen = block_sum(frozen);
  if (threadIdx.x == 0) parts[2 * blockIdx.x] = total, parts[2 * blockIdx.x + 1] = frozen;
}

CBK_KERNEL(threads) fill_row(RowSource k, double* row) {
  const int64_t alphas = k.count, ess = alphas + k.tasks, rest = ess + k.tasks, extras = rest + 5;
  for (int64_t i = threadIdx.x; i < k.count; i += threads) row[i] = k.risks[i * k.stride];
  for (int64_t t = threadIdx.x; t < k.tasks; t += threads) {
    row[alphas + t] = k.alphas.at[t * k.alphas.stride];
    row[ess + t] = k.ess ? k.ess[t] : quiet_nan;
  }
  for (int64_t i = threadIdx.x; i < k.extra_count; i += threads) row[extras + i] = k.extras[i];
  if (threadIdx.x != 0) return;
  double total = 0, frozen = 0;
  for (int64_t p = 0; p < k.parts; ++p) total += k.spread[2 * p], frozen += k.spread[2 * p + 1];
  row[rest] = total / (2 * double(k.particles)), row[rest + 1] = frozen / double(k.size);
  const Troubles t = *k.troubles;
  row[rest + 2] = double(t.not_finite);
  row[rest + 3] = t.failure == no_failure ? -1 : double(t.failure >> 32);
  row[rest + 4] = t.failure == no_failure ? -1 : double(t.failure & 0xffffffffu) - 1;
  *k.troubles = {0, no_failure};
}

template <class F>
CBK_KERNEL(threads)
count_entries(int64_t count, F is_bad, unsigned long long* total) {
  int bad = 0;
  for (int64_t i = int64_t(blockIdx.x) * threads + threadIdx.x; i < count; i += int64_t(gridDim.x) * threads)
    bad += is_bad(i);
  bad = block_sum(bad);
  if (threadIdx.x == 0 && bad > 0) atomicAdd(total, static_cast<unsigned long long>(bad));
}

template <class T>
struct NotFinite {
  const T* values;
  __device__ __forceinline__ int operator()(int64_t i) const { return !(values[i] - values[i] == 0); }
};
struct Outside {
  const int32_t* values;
  int64_t end;
  __device__ __forceinline__ int operator()(int64_t i) const { return values[i] < 0 || values[i] >= end; }
};

template <class F>
int64_t count_bad(int64_t count, F is_bad, CudaStream on) {
  const cudaStream_t stream = native(on);
  const DeviceBuffer<unsigned long long> total(1);
  unsigned long long found = 0;
  check(cudaMemsetAsync(total.data(), 0, sizeof found, stream), "count");
  launch(count_entries<F>, grid_for(count_entries<F>, count), dim3(threads), 0, stream, count, is_bad, total.data());
  check(cudaMemcpyAsync(&found, total.data(), sizeof found, cudaMemcpyDeviceToHost, stream), "count");
  check(cudaStreamSynchronize(stream), "count");
  return int64_t(found);
}

}  // namespace

template <class U, class V>
void gather(const Rows<U>& x, const Rows<V>& y, const int64_t* order, int64_t samples, int64_t count, int64_t batch,
            cudaStream_t stream) {
  const int64_t columns_x = x.tasks * x.columns, columns_y = y.tasks * y.columns;
  const auto start = [&](auto kernel) {
    launch(kernel, grid_for(kernel, count * (columns_x + columns_y)), dim3(threads), 0, stream, x, y, order, samples,
           count, batch);
  };
  if (std::max(count, batch) * std::max(columns_x, columns_y) < int64_t(1) << 32)
    start(take_rows<U, V, uint32_t>);
  else
    start(take_rows<U, V, int64_t>);
}

void look_for_troubles(const double* risk, int64_t steps, int64_t particles, int64_t tasks, const double* ess,
                       const uint32_t* first_step, Troubles* troubles, cudaStream_t stream) {
  launch(find_troubles, grid_for(find_troubles, steps * particles), dim3(threads), 0, stream, risk, steps, particles,
         tasks, ess, first_step, troubles);
}

template <class T>
int64_t spread(const T* theta, int64_t particles, int64_t size, const double* limit, double* parts, double* mean,
               cudaStream_t stream) {
  const int64_t across = blocks_for(size, columns_of), wanted = std::max(1024 / across, int64_t(1));
  const int64_t slice = std::max(blocks_for(particles, wanted), int64_t(4 * rows_of)),
                slices = blocks_for(particles, slice);
  Workspace<double> sums(slices * 2 * size, stream);
  launch(sum_slices<T>, dim3(unsigned(across), unsigned(slices)), dim3(columns_of, rows_of), 0, stream, theta,
         particles, size, slice, sums.data());
  const unsigned blocks = unsigned(std::min(blocks_for(size, threads), spread_parts));  // which decide the sum's order
  launch(add_coordinates<T>, dim3(blocks), dim3(threads), 0, stream, theta, static_cast<const double*>(sums.data()),
         slices, particles, size, limit, parts, mean);
  return blocks;
}

void write_row(const RowSource& source, double* row, cudaStream_t stream) {
  launch(fill_row, dim3(1), dim3(threads), 0, stream, source, row);
}

template <class T>
int64_t count_not_finite(const T* values, int64_t count, CudaStream stream) {
  return count_bad(count, NotFinite<T>{values}, stream);
}
int64_t count_outside(const int32_t* values, int64_t count, int64_t end, CudaStream stream) {
  return count_bad(count, Outside{values, end}, stream);
}

#define CBK_INSTANTIATE(T, V) \
  template void gather(const Rows<T>&, const Rows<V>&, const int64_t*, int64_t, int64_t, int64_t, cudaStream_t);
CBK_INSTANTIATE(float, float)
CBK_INSTANTIATE(double, double)
CBK_INSTANTIATE(float, int32_t)
CBK_INSTANTIATE(double, int32_t)
#undef CBK_INSTANTIATE
template int64_t spread(const float*, int64_t, int64_t, const double*, double*, double*, cudaStream_t);
template int64_t spread(const double*, int64_t, int64_t, const double*, double*, double*, cudaStream_t);
template int64_t count_not_finite(const float*, int64_t, CudaStream);
template int64_t count_not_finite(const double*, int64_t, CudaStream);

}  // namespace cbk::device
