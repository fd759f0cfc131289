// Outputs and risks on the GPU; the CPU's twin is risk_cpu.cpp.
#include "../../cuda/chain.hpp"
#include "direct_cuda.hpp"
#include "risk_cuda.hpp"
#include "tile_cuda.hpp"

namespace cbk::device {
namespace {

// How a block comes by the outputs of its particles on a tile: by products of tiles (any shape) ...
struct Tiled {
  template <class T>
  static __device__ __forceinline__ void outputs(const Batch<T>& b, const Place<T>& p, T* shared, T* outs) {
    T z[Tile<T>::micro][Tile<T>::micro];
    tile_outputs(b, p, shared, outs, z);
  }
};

template <class T, bool spills>
CBK_KERNEL(Tile<T>::threads)
tiled_risks(Batch<T> b, T* out) {
  CBK_DYNAMIC_SHARED(T, shared);
  await_previous();
  allow_next();
  run_block<Tiled, spills>(b, out, shared, shared + Tile<T>::shared, shared, Tile<T>::shared);
}

// ... or, with one output and few inputs, by streaming neurons past samples in registers.
// The activation is a number: nvcc 13 cannot name one that is not in the list.
template <class T, int activation, int inputs>
CBK_KERNEL(direct_threads)
direct_risks(Batch<T> b, T* out) {
  CBK_DYNAMIC_SHARED(T, shared);
  using Streamed = Direct<Activation(activation), inputs>;
  await_previous();
  allow_next();
  constexpr int64_t staged = direct_neurons * Streamed::pitch;
  run_block<Streamed, false>(b, out, shared, shared + staged, shared, staged);
}

template <class T>
using Kernel = void (*)(Batch<T>, T*);
template <class T, int inputs>
Kernel<T> direct_kernel(Activation activation) {
  const auto f = [](auto tag) -> Kernel<T> {
    constexpr Activation own = decltype(tag)::value;
    return direct_risks<T, int(has_kernels<own, false> ? own : any_activation), inputs>;
  };
  using Kind = Activation;
  switch (activation) { CBK_ACTIVATIONS(CBK_KIND_CALL) }
  throw std::logic_error("unknown activation");
}

template <class T>
int most_inputs(const Batch<T>& b) {  // of the kernel that serves these networks
  return b.net.inputs == 1 ? 1 : 4;
}
template <class T>
Launch plan_direct(Batch<T>& b) {
  constexpr int64_t most = direct_threads * direct_samples;
  b.tile = b.samples <= most / 2 ? most / 2 : most, b.group = 1;
  return {direct_neurons * (most_inputs(b) == 1 ? 4 : 8) + b.tile, false, 0};
}

}  // namespace

template <class T>
void run_batch(Batch<T> b, T* out, double* sums, int64_t stride, double divisor, Precision precision,
               cudaStream_t stream) {
  const bool direct = b.net.outputs == 1 && b.net.inputs <= 4;
  const bool tensor = !direct && has_kernels_of_its_own(b.net.activation) && on_tensor_cores(b);
  Launch plan{};
  if constexpr (sizeof(T) == sizeof(float))
    plan = tensor ? plan_tensor(b) : direct ? plan_direct(b) : plan_tiles(b);
  else
    plan = direct ? plan_direct(b) : plan_tiles(b);
  b.groups = blocks_for(b.particles, b.group);
  // a drawn ensemble is drawn once: its blocks take all samples
  const int64_t tiles = blocks_for(b.samples, b.tile);
  const int64_t chunks = b.theta ? std::min(tiles, std::max(blocks_for(enough_blocks * 8, b.groups), int64_t(1))) : 1;
  b.chunk = blocks_for(tiles, chunks) * b.tile, b.chunks = blocks_for(b.samples, b.chunk);
  const Kernel<T> tiled = plan.spills ? tiled_risks<T, true> : tiled_risks<T, false>;
  const Kernel<T> kernel = !direct               ? tiled
                           : most_inputs(b) == 1 ? direct_kernel<T, 1>(b.net.activation)
                                                 : direct_kernel<T, 4>(b.net.activation);
  const dim3 block = direct ? dim3(unsigned(b.tile / direct_samples)) : dim3(16, 16);
  const size_t shared = size_t(plan.shared) * sizeof(T);
  // with memory of its own a block takes one work after another
  const int64_t most = b.theta && !plan.spills ? int64_t(1) << 30
                       : tensor                ? 1024
                                               : held_blocks(kernel, int(block.x * block.y), shared);
  plan.blocks = std::min(b.groups * b.chunks, most);
  const int64_t results = b.particles * b.tasks;
  if (b.chunks == 1) b.sums = sums, b.stride = stride, b.divisor = divisor;
  Workspace<T> own(b.theta ? 0 : plan.blocks * b.group * b.size, stream);
  Workspace<T> outputs(plan.spills ? plan.blocks * b.group * b.tile * b.pitch : 0, stream);
  Workspace<double> partial(b.chunks > 1 || b.samples > b.tile ? b.chunks * results : 0, stream);
  b.own = own.data(), b.outputs = outputs.data(), b.partial = partial.data();
  if (!tensor)
    launch_chained(kernel, dim3(unsigned(plan.blocks)), block, shared, stream, b, out);
  else if constexpr (sizeof(T) == sizeof(float))
    launch_tensor(b, plan, precision, out, stream);
  if (sums && b.chunks > 1) launch_add_parts(partial.data(), b.chunks, results, divisor, sums, stride, stream);
}

template <class T>
void forward(const RiskProblem<T>& problem, T* out, CudaStream stream, Precision precision) {
  run_batch<T>(batch_of(problem), out, nullptr, 1, 1, precision, native(stream));
}

namespace {

// Risks whose losses no block sums.  Outputs go through memory, of some samples of some particles at a time; drawn
// particles all at once, as their draws count them.
template <class T>
void risk_of_outputs(const RiskProblem<T>& problem, double* out, int64_t stride, Precision precision,
                     cudaStream_t stream) {
  const Network& net = problem.net;
  const int64_t room = std::max(output_bytes / (net.outputs * int64_t(sizeof(T))), int64_t(1)), tasks = problem.tasks;
  const int64_t particles =
      problem.draw ? problem.particles : std::clamp(room / problem.samples, int64_t(1), problem.particles);
  const int64_t samples = std::clamp(room / particles, int64_t(1), problem.samples);
  const int64_t parts = blocks_for(problem.samples, samples), results = problem.particles * tasks;
  Workspace<T> weights(problem.weights ? problem.samples : 0, stream),
      outputs(particles * samples * net.outputs, stream);
  Workspace<double> sums(parts * results, stream);
  if (problem.weights) launch_weights(problem, weights.data(), stream);
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t s0 = part * samples;
    Batch<T> b = batch_of(problem);
    b.tasks = 0, b.x += s0 * net.inputs, b.samples = std::min(samples, problem.samples - s0);
    OutputLosses<T> k = losses_at(problem, weights.data(), s0);
    k.g = outputs.data(), k.samples = b.samples;
    for (int64_t n = 0; n < problem.particles; n += particles) {
      b.particles = k.particles = std::min(particles, problem.particles - n);
      if (b.theta) b.theta = problem.theta + n * b.size;
      run_batch<T>(b, outputs.data(), nullptr, 1, 1, precision, stream);
      launch_losses(k, sums.data() + part * results + n * tasks, stream);
    }
  }
  launch_add_parts(sums.data(), parts, results, double(problem.samples), out, stride, stream);
}

}  // namespace

template <class T>
void risk(const RiskProblem<T>& problem, double* out, CudaStream stream, int64_t stride, Precision precision) {
  if (!is_fused(problem)) return risk_of_outputs(problem, out, stride, precision, native(stream));
  run_batch<T>(batch_of(problem), nullptr, out, stride, double(problem.samples), precision, native(stream));
}

#define CBK_INSTANTIATE(T) \
  template void run_batch(Batch<T>, T*, double*, int64_t, double, Precision, cudaStream_t); \
  template void forward(const RiskProblem<T>&, T*, CudaStream, Precision); \
  template void risk(const RiskProblem<T>&, double*, CudaStream, int64_t, Precision);
CBK_INSTANTIATE(float)
CBK_INSTANTIATE(double)
#undef CBK_INSTANTIATE

}  // namespace cbk::device
