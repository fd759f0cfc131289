// Outputs and risks on the GPU; the CPU's twin is risk_cpu.cpp.
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

template <class Method, class T>
__device__ __forceinline__ void run_block(const Batch<T>& b, T* out, T* shared, T* in_shared) {
  T* outs = b.outputs ? b.outputs + int64_t(blockIdx.x) * b.group * b.tile * b.pitch : in_shared;
  for (int64_t work = blockIdx.x; work < b.groups * b.chunks; work += gridDim.x) {
    const int64_t first = work / b.chunks * b.group, chunk = work % b.chunks;
    const int64_t count = min(b.group, b.particles - first), end = min((chunk + 1) * b.chunk, b.samples);
    Place<T> p{particles_of(b, first, count), count, 0, 0, 0, 0};
    for (p.s0 = chunk * b.chunk; p.s0 < end; p.s0 += b.tile) {
      p.valid = min(b.tile, end - p.s0);
      Method::outputs(b, p, shared, outs);
      if (out) {
        const int64_t outputs = b.net.outputs, items = count * p.valid * outputs;
        for (int64_t item = thread_rank(); item < items; item += blockDim.x * blockDim.y) {
          const int64_t c = item % outputs, s = item / outputs % p.valid, particle = item / outputs / p.valid;
          out[((first + particle) * b.samples + p.s0 + s) * outputs + c] = outs[(particle * b.tile + s) * b.pitch + c];
        }
      } else {
        add_losses(b, outs, first, count, p.s0, p.valid, chunk, p.s0 == chunk * b.chunk);
      }
      __syncthreads();
    }
  }
}

template <class T>
CBK_KERNEL(Tile<T>::threads) tiled_risks(Batch<T> b, T* out) {
  CBK_DYNAMIC_SHARED(T, shared);
  run_block<Tiled>(b, out, shared, shared + Tile<T>::shared);
}

// ... or, with one output and few inputs, by streaming neurons past samples in registers.
template <class T, Activation activation, int inputs>
CBK_KERNEL(direct_threads) direct_risks(Batch<T> b, T* out) {
  CBK_DYNAMIC_SHARED(T, shared);
  run_block<Direct<activation, inputs>>(b, out, shared, shared + direct_neurons * (inputs + 2));
}

template <class T, int inputs>
auto direct_kernel(Activation activation) {
  switch (activation) {
    case Activation::relu: return direct_risks<T, Activation::relu, inputs>;
    case Activation::tanh: return direct_risks<T, Activation::tanh, inputs>;
    case Activation::sigmoid: return direct_risks<T, Activation::sigmoid, inputs>;
    case Activation::gelu: return direct_risks<T, Activation::gelu, inputs>;
    case Activation::softplus: return direct_risks<T, Activation::softplus, inputs>;
    default: return direct_risks<T, Activation::identity, inputs>;
  }
}

template <class T>
void run(Batch<T> b, T* out, double* sums, int64_t stride, CudaStream on) {
  const cudaStream_t stream = native(on);
  const bool direct = b.net.outputs == 1 && b.net.inputs <= 4;
  const int inputs = b.net.inputs == 1 ? 1 : 4;
  int64_t shared = 0;
  if (direct) {
    b.tile = direct_threads * direct_samples, b.group = 1, b.groups = b.particles;
    shared = direct_neurons * (inputs + 2) + b.tile;
  } else {
    shared = plan_tiles(b);
  }
  // a drawn ensemble is drawn once: its blocks take all samples
  const int64_t tiles = blocks_for(b.samples, b.tile);
  const int64_t chunks = b.theta ? std::min(tiles, std::max(blocks_for(enough_blocks * 8, b.groups), int64_t(1))) : 1;
  b.chunk = blocks_for(tiles, chunks) * b.tile, b.chunks = blocks_for(b.samples, b.chunk);
  const bool spills = !direct && shared == Tile<T>::shared;
  const bool bounded = !b.theta || spills;
  const int64_t blocks = std::min(b.groups * b.chunks, bounded ? int64_t(1024) : int64_t(1) << 30);
  const int64_t results = b.particles * b.tasks;
  Workspace<T> own(b.theta ? 0 : blocks * b.group * b.size, stream);
  Workspace<T> outputs(spills ? blocks * b.group * b.tile * b.pitch : 0, stream);
  Workspace<double> partial(b.chunks * results, stream);
  b.own = own.data(), b.outputs = outputs.data(), b.partial = partial.data();
  const auto start = [&](auto kernel, dim3 block) {
    launch(kernel, dim3(unsigned(blocks)), block, size_t(shared) * sizeof(T), stream, b, out);
  };
  if (direct)
    start(inputs == 1 ? direct_kernel<T, 1>(b.net.activation) : direct_kernel<T, 4>(b.net.activation),
          dim3(direct_threads));
  else
    start(tiled_risks<T>, dim3(16, 16));
  if (sums)
    launch(add_chunks<double, double>, dim3(unsigned(blocks_for(results, 256))), dim3(256), 0, stream,
           static_cast<const double*>(partial.data()), b.chunks, results, double(b.samples), sums, stride);
}

}  // namespace

template <class T>
void forward(const RiskProblem<T>& problem, T* out, CudaStream stream) {
  run<T>(batch_of(problem), out, nullptr, 1, stream);
}

template <class T>
void risk(const RiskProblem<T>& problem, double* out, CudaStream stream, int64_t stride) {
  run<T>(batch_of(problem), nullptr, out, stride, stream);
}

template void forward(const RiskProblem<float>&, float*, CudaStream);
template void forward(const RiskProblem<double>&, double*, CudaStream);
template void risk(const RiskProblem<float>&, double*, CudaStream, int64_t);
template void risk(const RiskProblem<double>&, double*, CudaStream, int64_t);

}  // namespace cbk::device
