// Risks of single neurons and the drift of drawn ensembles on the GPU; the CPU's twin is hopping_cpu.cpp.
#include "../risk/cuda/tile_cuda.hpp"

#include "../risk/cuda/risk_cuda.hpp"
#include "hopping_cuda.hpp"

namespace cbk::device {
namespace {

template <class T>
struct Center {
  const T* theta;    // [size]
  const T* hidden;   // [samples][width]: sigma(w x + b)
  const T* outputs;  // [samples][outputs]
  const T* weights;  // [samples], or nullptr
};

template <class T>
CBK_KERNEL(256)
center_hidden(Network net, const T* theta, const T* x, int64_t samples, T* hidden) {
  const int64_t i = int64_t(blockIdx.x) * 256 + threadIdx.x, m = i % net.width, s = i / net.width;
  if (s >= samples) return;
  T z = 0;
  for (int64_t k = 0; k < net.inputs; ++k) z = mad(x[s * net.inputs + k], theta[m * net.inputs + k], z);
  z = z + theta[net.biases() + m];
  with_activation(net.activation, [&](auto sigma) { hidden[i] = sigma(z); });
}

// Sums over the round's samples of the losses with one neuron exchanged: a warp takes a neuron, a lane a sample.
template <bool fused, class T>
__device__ void add_exchanged(const Batch<T>& b, const Center<T>& center, const Place<T>& p, const T* held, int round,
                              T* g, double* sums, bool fresh) {
  using K = Tile<T>;
  const int64_t outputs = b.net.outputs, width = b.net.width;
  const int lane = int(thread_rank() % 32), s = held_sample<T>(round, lane);
  const T *c_new = p.theta + b.net.output_weights(), *c_old = center.theta + b.net.output_weights();
  const T scale = T(b.net.scale);
  g += thread_rank() * b.pitch;
  for (int64_t column = thread_rank() / 32; column < p.neurons; column += K::threads / 32) {
    const int64_t m = p.q0 + column;
    double total = 0;
    if (s < p.valid) {
      const T h_new = held[lane * K::held_pitch + column], h_old = center.hidden[(p.s0 + s) * width + m];
      const T* base = center.outputs + (p.s0 + s) * outputs;
      for (int64_t c = 0; c < outputs; ++c) {
        const T now = scale * c_new[c * width + m], before = scale * c_old[c * width + m];
        g[c] = base[c] + (now * h_new - before * h_old);
      }
      if constexpr (fused) {
        total = add_loss(b, total, g, 0, p.s0 + s);
      } else {
        const T* const y = b.y ? b.y + (p.s0 + s) * outputs : nullptr;
        const int32_t* const label = b.labels ? b.labels + p.s0 + s : nullptr;
        const T weight = center.weights ? center.weights[p.s0 + s] : T(1);
        total = add_any_loss<false>(b.loss, total, static_cast<const T*>(g), outputs, y, label, weight, T(0));
      }
    }
    total = warp_sum(total);
    if (lane == 0) sums[m] = fresh ? total : sums[m] + total;
  }
}

template <bool fused, class T>
CBK_KERNEL(Tile<T>::threads)
exchanged_risks(Batch<T> b, Center<T> center) {
  using K = Tile<T>;
  CBK_DYNAMIC_SHARED(T, shared);
  T* g = b.outputs ? b.outputs + int64_t(blockIdx.x) * K::threads * b.pitch : shared + K::shared;
  for (int64_t work = blockIdx.x; work < b.groups * b.chunks; work += gridDim.x) {
    const int64_t n = work / b.chunks, chunk = work % b.chunks, end = min((chunk + 1) * b.chunk, b.samples);
    double* sums = b.partial + (chunk * b.particles + n) * b.net.width;
    Place<T> p{particles_of(b, n, int64_t(1)), 1, 0, 0, 0, 0};
    for (p.s0 = chunk * b.chunk; p.s0 < end; p.s0 += b.tile) {
      p.valid = int(min(b.tile, end - p.s0));
      for (p.q0 = 0; p.q0 < b.net.width; p.q0 += K::side) {
        p.neurons = int(min(b.net.width - p.q0, int64_t(K::side)));
        T z[K::micro][K::micro];
        tile_sums(b, p, shared, z);
        for (int round = 0; round < K::rounds; ++round) {
          with_activation(b.net.activation, [&](auto sigma) {
            hold_round(round, z, shared, [&](T v, int column, int) { return sigma(v + bias_of(b, p, column)); });
          });
          __syncthreads();
          add_exchanged<fused>(b, center, p, shared, round, g, sums, round == 0 && p.s0 == chunk * b.chunk);
          __syncthreads();
        }
      }
    }
  }
}

template <class T>
CBK_KERNEL(256)
noise_sums(const double* weights, int64_t rows, int64_t atoms, const int32_t* atom, NoiseKey key,
           const DrawNumbers<T>* now, int64_t size, int64_t piece, double* sums) {
  const int64_t i = 4 * (int64_t(blockIdx.x) * 256 + threadIdx.x);
  if (i >= size) return;
  const int64_t begin = blockIdx.y * piece, end = begin + piece < rows ? begin + piece : rows;
  const int count = size - i < 4 ? int(size - i) : 4;
  const uint32_t step = now ? now->step : key.step;
  double total[4] = {};
  for (int64_t n = begin; n < end; ++n) {
    const double* w = weights + n * atoms;
    if (!atom && w[0] == 0) continue;
    T z[4];
    normals(Counter{key.seed, key.stream, step, key.first_particle + uint32_t(n)}, uint32_t(i / 4), z);
    for (int j = 0; j < 4; ++j)
      if (j < count) total[j] = fma(w[atom ? atom[i + j] : 0], double(z[j]), total[j]);
  }
  for (int j = 0; j < 4; ++j)  // constant indices keep an array in registers
    if (j < count) sums[blockIdx.y * size + i + j] = total[j];
}

}  // namespace

template <class T>
void atom_risks(const RiskProblem<T>& problem, const T* center, double* out, CudaStream on) {
  const cudaStream_t stream = native(on);
  const Network& net = problem.net;
  Workspace<T> hidden(problem.samples * net.width, stream), outputs(problem.samples * net.outputs, stream);
  Workspace<T> weights(problem.weights ? problem.samples : 0, stream);
  if (problem.weights) launch_weights(problem, weights.data(), stream);
  launch(center_hidden<T>, dim3(unsigned(blocks_for(problem.samples * net.width, 256))), dim3(256), 0, stream, net,
         center, problem.x, problem.samples, hidden.data());
  RiskProblem<T> one = problem;
  one.tasks = 0, one.theta = center, one.particles = 1, one.draw = nullptr;
  forward(one, outputs.data(), on);

  Batch<T> b = batch_of(problem);
  b.tile = Tile<T>::side, b.group = 1, b.groups = b.particles;
  const int64_t tiles = blocks_for(b.samples, b.tile), g_size = Tile<T>::threads * b.pitch;
  const int64_t chunks = b.theta ? std::min(tiles, std::max(blocks_for(enough_blocks * 8, b.groups), int64_t(1))) : 1;
  b.chunk = blocks_for(tiles, chunks) * b.tile, b.chunks = blocks_for(b.samples, b.chunk);
  const bool spills = g_size * int64_t(sizeof(T)) > Tile<T>::outputs_bytes;
  const int64_t shared = Tile<T>::shared + (spills ? 0 : g_size);
  const auto kernel = is_fused(problem) ? exchanged_risks<true, T> : exchanged_risks<false, T>;
  // with memory of its own a block takes one work after another
  const int64_t most = !b.theta || spills ? held_blocks(kernel, 256, size_t(shared) * sizeof(T)) : int64_t(1) << 30;
  const int64_t blocks = std::min(b.groups * b.chunks, most), results = b.particles * net.width;
  Workspace<T> own(b.theta ? 0 : blocks * b.size, stream), spilled(spills ? blocks * g_size : 0, stream);
  Workspace<double> partial(b.chunks * results, stream);
  b.own = own.data(), b.outputs = spilled.data(), b.partial = partial.data();
  launch(kernel, dim3(unsigned(blocks)), dim3(16, 16), size_t(shared) * sizeof(T), stream, b,
         Center<T>{center, hidden.data(), outputs.data(), weights.data()});
  launch_add_parts(partial.data(), b.chunks, results, double(b.samples), out, int64_t(1), stream);
}

template <class T>
void noise_drift(const double* weights, int64_t rows, int64_t atoms, const int32_t* atom, NoiseKey key, int64_t size,
                 double* out, CudaStream on, const DrawNumbers<T>* now) {
  const cudaStream_t stream = native(on);
  const int64_t across = blocks_for(size, 4 * 256);
  const int64_t pieces = std::clamp(std::min(blocks_for(rows, 32), 4096 / across), int64_t(1), int64_t(65535));
  const int64_t piece = blocks_for(rows, pieces), count = blocks_for(rows, piece);
  Workspace<double> sums(count * size, stream);
  launch(noise_sums<T>, dim3(unsigned(across), unsigned(count)), dim3(256), 0, stream, weights, rows, atoms, atom, key,
         now, size, piece, sums.data());
  launch_add_parts(sums.data(), count, size, 1.0, out, int64_t(1), stream);
}

#define CBK_INSTANTIATE(T) \
  template void atom_risks(const RiskProblem<T>&, const T*, double*, CudaStream); \
  template void noise_drift<T>(const double*, int64_t, int64_t, const int32_t*, NoiseKey, int64_t, double*, \
                               CudaStream, const DrawNumbers<T>*);
CBK_INSTANTIATE(float)
CBK_INSTANTIATE(double)
#undef CBK_INSTANTIATE

}  // namespace cbk::device
