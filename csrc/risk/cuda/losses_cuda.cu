// Losses of outputs that lie in memory; on the CPU all losses are summed where risk_simd.cpp has the outputs.
#include "losses_cuda.hpp"

#include "../../cuda/reduce.hpp"

namespace cbk::device {
namespace {

constexpr int threads = 256;
constexpr int64_t loss_chunk = 4096;  // samples that a block sums; only shapes decide

template <class T>
CBK_KERNEL(threads)
scale_weights(const T* from, int64_t samples, T* to) {
  double total = 0;
  for (int64_t s = threadIdx.x; s < samples; s += threads) {
    const double w = double(from[s]);
    total += w >= 0 && w < infinity ? w : quiet_nan;
  }
  total = block_sum(total);
  const double scale = total == 0 ? 0 : double(samples) / total;
  for (int64_t s = threadIdx.x; s < samples; s += threads) to[s] = T(scale * double(from[s]));
}

// A block takes a chunk of a pair of particle and task: sums [chunks][particles * tasks].
template <bool slopes, class T>
CBK_KERNEL(threads)
sum_output_losses(OutputLosses<T> k, double* sums) {
  const int64_t pair = blockIdx.x, particle = pair / k.tasks, task = pair % k.tasks;
  const int64_t begin = blockIdx.y * loss_chunk, end = min(begin + loss_chunk, k.samples);
  double total = 0;
  for (int64_t s = begin + threadIdx.x; s < end; s += threads) {
    T* const g = k.g + (particle * k.samples + s) * k.outputs;
    const T* const y = k.y ? k.y + (task * k.all + s) * k.outputs : nullptr;
    const int32_t* const label = k.labels ? k.labels + task * k.all + s : nullptr;
    const T weight = k.weights ? k.weights[s] : T(1);
    if constexpr (slopes) {
      total = add_any_loss<true>(k.loss, total, g, k.outputs, y, label, weight, k.factor);
      for (int64_t c = 0; c < k.outputs; ++c) k.slopes[(particle * k.outputs + c) * k.samples + s] = g[c];
    } else {
      total = add_any_loss<false>(k.loss, total, static_cast<const T*>(g), k.outputs, y, label, weight, T(0));
    }
  }
  total = block_sum(total);
  if (threadIdx.x == 0) sums[int64_t(blockIdx.y) * gridDim.x + pair] = total;
}

}  // namespace

template <class T>
void launch_weights(const RiskProblem<T>& problem, T* weights, cudaStream_t stream) {
  launch(scale_weights<T>, dim3(1), dim3(threads), 0, stream, problem.weights, problem.samples, weights);
}

template <class T>
void launch_losses(const OutputLosses<T>& k, double* sums, cudaStream_t stream) {
  const int64_t pairs = k.particles * k.tasks, chunks = blocks_for(k.samples, loss_chunk);
  Workspace<double> partial(chunks > 1 ? chunks * pairs : 0, stream);
  launch(k.slopes ? sum_output_losses<true, T> : sum_output_losses<false, T>, dim3(unsigned(pairs), unsigned(chunks)),
         dim3(threads), 0, stream, k, chunks > 1 ? partial.data() : sums);
  if (chunks > 1) launch_add_parts(partial.data(), chunks, pairs, 1.0, sums, int64_t(1), stream);
}

#define CBK_INSTANTIATE(T) \
  template void launch_weights(const RiskProblem<T>&, T*, cudaStream_t); \
  template void launch_losses(const OutputLosses<T>&, double*, cudaStream_t);
CBK_INSTANTIATE(float)
CBK_INSTANTIATE(double)
#undef CBK_INSTANTIATE

}  // namespace cbk::device
