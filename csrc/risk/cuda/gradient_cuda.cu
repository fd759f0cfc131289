// Gradients of risks on the GPU; the CPU's twin is gradient_cpu.cpp, formulas stand in gradient_simd.cpp.
//
// In passes over particles and samples: the risks' kernel leaves the slopes e of the losses and, where they are not
// cheap to form anew, the pre-activations z; warps turn these into the neurons' slopes delta = scale (sum_c c_cm e_cs)
// sigma'(z) and sum over samples what has few terms (e h, delta, and delta x where inputs are few); many inputs are a
// product delta x of tiles, whose sums stay in registers.  With one output and few inputs a lane has a neuron and forms
// z anew. Each number of the gradient is written once a pass.
#include "gradient_cuda.hpp"

namespace cbk::device {
namespace {

// rows [count, length] to columns [length, pitch], zeros behind count.
template <class T>
CBK_KERNEL(256)
transpose(const T* rows, int64_t count, int64_t length, int64_t pitch, T* columns) {
  CBK_SHARED(T, tile, 32 * 33);
  const int64_t r0 = int64_t(blockIdx.x) * 32, k0 = int64_t(blockIdx.y) * 32;
  const int lane = int(threadIdx.x) % 32, line = int(threadIdx.x) / 32;
  for (int i = line; i < 32; i += 8)
    tile[i * 33 + lane] = r0 + i < count && k0 + lane < length ? rows[(r0 + i) * length + k0 + lane] : T(0);
  __syncthreads();
  for (int i = line; i < 32; i += 8)
    if (k0 + i < length && r0 + lane < pitch) columns[(k0 + i) * pitch + r0 + lane] = tile[lane * 33 + i];
}

// Sum over samples of the slopes of an output's bias: a warp each.
template <class T>
CBK_KERNEL(128)
output_bias_sums(Batch<T> b, bool fresh, T* gradient) {
  const int64_t item = int64_t(blockIdx.x) * 4 + threadIdx.x / 32;
  if (item >= b.particles * b.net.outputs) return;
  T total = 0;
  for (int64_t s = threadIdx.x % 32; s < b.samples; s += 32) total += b.slopes[item * b.samples + s];
  total = warp_sum(total);
  T& to = gradient[item / b.net.outputs * b.size + b.net.output_biases() + item % b.net.outputs];
  if (threadIdx.x % 32 == 0) to = fresh ? total : to + total;
}

// gradient += the parts of the chunks' sums, which stand [chunks][particles * width][lines].
template <class T>
CBK_KERNEL(256)
add_line_sums(Batch<T> b, const T* sums, int64_t chunks, int64_t inputs, bool fresh, T* gradient) {
  const int64_t lines = b.net.outputs + 1 + inputs, count = b.particles * b.net.width * lines;
  const int64_t i = int64_t(blockIdx.x) * 256 + threadIdx.x;
  if (i >= count) return;
  T total = 0;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) total += sums[chunk * count + i];
  const int64_t line = i % lines, q = i / lines, m = q % b.net.width, outputs = b.net.outputs;
  T* own = gradient + q / b.net.width * b.size;
  T& to = line < outputs    ? own[b.net.output_weights() + line * b.net.width + m]
          : line == outputs ? own[b.net.biases() + m]
                            : own[m * b.net.inputs + line - outputs - 1];
  to = fresh ? total : to + total;
}

// gradient of the first layer += delta [particles * width][pitch] times x, given by columns.
template <class T>
CBK_KERNEL(Tile<T>::threads)
tiled_products(Batch<T> b, const T* columns, bool fresh, T* gradient) {
  using K = Tile<T>;
  CBK_DYNAMIC_SHARED(T, shared);
  const int64_t q0 = int64_t(blockIdx.x) * K::side, k0 = int64_t(blockIdx.y) * K::side, d = b.net.inputs;
  const int64_t neurons = b.particles * b.net.width;
  T z[K::micro][K::micro];
  tile_product([&](int r) -> const T* { return q0 + r < neurons ? b.hidden + (q0 + r) * b.hidden_pitch : nullptr; },
               [&](int r) -> const T* { return k0 + r < d ? columns + (k0 + r) * b.hidden_pitch : nullptr; }, b.samples,
               shared, z);
  CBK_UNROLL(8)
  for (int i = 0; i < K::micro; ++i) {
    CBK_UNROLL(8)
    for (int j = 0; j < K::micro; ++j) {
      const int64_t q = q0 + K::row(int(threadIdx.y), i), k = k0 + K::row(int(threadIdx.x), j);
      if (q >= neurons || k >= d) continue;
      T& to = gradient[q / b.net.width * b.size + q % b.net.width * d + k];
      to = fresh ? z[i][j] : to + z[i][j];
    }
  }
}

template <class T>
void multiply_slopes(const Batch<T>& b, const T* columns, bool fresh, T* gradient, Precision precision,
                     cudaStream_t stream) {
  const int64_t neurons = b.particles * b.net.width;
  if constexpr (sizeof(T) == sizeof(float))
    if (on_tensor_cores(b)) return launch_tensor_slopes(b, columns, fresh, gradient, precision, stream);
  launch(tiled_products<T>,
         dim3(unsigned(blocks_for(neurons, Tile<T>::side)), unsigned(blocks_for(b.net.inputs, Tile<T>::side))),
         dim3(16, 16), size_t(Tile<T>::shared) * sizeof(T), stream, b, columns, fresh, gradient);
}

// How many particles and samples a pass takes.
struct Passes {
  int64_t particles, samples;
};
Passes passes_of(const Network& net, int64_t particles, int64_t samples, bool keeps, bool fused, int64_t number) {
  const int64_t room = gradient_bytes / ((net.outputs * (fused ? 1 : 2) + (keeps ? net.width : 0)) * number);
  const int64_t most = std::clamp(room / samples, int64_t(1), particles);
  const int64_t some = std::max(room / slope_chunk * slope_chunk, slope_chunk);
  return {blocks_for(particles, blocks_for(particles, most)), std::min(samples, some)};
}

}  // namespace

template <class T>
void risk_gradient(const RiskProblem<T>& problem, double* out, T* gradient, CudaStream on, Precision precision) {
  const cudaStream_t stream = native(on);
  const Network& net = problem.net;
  const int64_t d = net.inputs, summed = d <= slope_inputs ? d : 0, lines = net.outputs + 1 + summed;
  const bool lanes = net.outputs == 1 && d <= slope_inputs, keeps = !lanes && d > 4;
  const bool fused = is_fused(problem);
  const Passes pass = passes_of(net, problem.particles, problem.samples, keeps, fused, sizeof(T));
  const int64_t pitch = blocks_for(pass.samples, 4) * 4, neurons = pass.particles * net.width;
  const int64_t parts = blocks_for(problem.samples, pass.samples);
  const int64_t chunks = blocks_for(pass.samples, lanes ? lane_chunk : slope_chunk);
  Workspace<T> hidden(keeps ? neurons * pitch : 0, stream), slopes(pass.particles * net.outputs * pass.samples, stream);
  Workspace<T> columns(lanes ? 0 : d * pitch, stream), sums(chunks * neurons * lines, stream);
  Workspace<double> losses(parts * problem.particles, stream);
  Workspace<T> outputs(fused ? 0 : pass.particles * net.outputs * pass.samples, stream);
  Workspace<T> weights(problem.weights ? problem.samples : 0, stream);
  if (problem.weights) launch_weights(problem, weights.data(), stream);
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t s0 = part * pass.samples;
    Batch<T> b = batch_of(problem);
    b.samples = std::min(pass.samples, problem.samples - s0), b.factor = T(1) / T(problem.samples);
    b.x += s0 * d;
    if (b.y) b.y += s0 * net.outputs;
    if (b.labels) b.labels += s0;
    b.slopes = slopes.data(), b.hidden = hidden.data(), b.hidden_pitch = blocks_for(b.samples, 4) * 4;
    if (!lanes)
      launch(transpose<T>, dim3(unsigned(blocks_for(b.hidden_pitch, 32)), unsigned(blocks_for(d, 32))), dim3(256), 0,
             stream, b.x, b.samples, d, b.hidden_pitch, columns.data());
    for (int64_t n = 0; n < problem.particles; n += pass.particles) {
      const bool fresh = part == 0;
      T* own = gradient + n * b.size;
      b.theta = problem.theta + n * b.size, b.particles = std::min(pass.particles, problem.particles - n);
      double* const sums_of_losses = losses.data() + part * problem.particles + n;
      if (fused) {
        run_batch<T>(b, nullptr, sums_of_losses, 1, 1, precision, stream);
      } else {
        Batch<T> plain = b;
        plain.slopes = nullptr, plain.tasks = 0;
        run_batch<T>(plain, outputs.data(), nullptr, 1, 1, precision, stream);
        OutputLosses<T> k = losses_at(problem, weights.data(), s0);
        k.g = outputs.data(), k.particles = b.particles, k.samples = b.samples;
        k.slopes = b.slopes, k.factor = b.factor;
        launch_losses(k, sums_of_losses, stream);
      }
      const T* x = columns.data();
      const int64_t own_chunks =
          lanes ? launch_lane_slopes(b, sums.data(), stream) : launch_neuron_slopes(b, x, summed, sums.data(), stream);
      launch(add_line_sums<T>, dim3(unsigned(blocks_for(b.particles * net.width * lines, 256))), dim3(256), 0, stream,
             b, static_cast<const T*>(sums.data()), own_chunks, summed, fresh, own);
      if (!summed) multiply_slopes(b, x, fresh, own, precision, stream);
      if (net.output_bias)
        launch(output_bias_sums<T>, dim3(unsigned(blocks_for(b.particles * net.outputs, 4))), dim3(128), 0, stream, b,
               fresh, own);
    }
  }
  launch_add_parts(losses.data(), parts, problem.particles, double(problem.samples), out, int64_t(1), stream);
}

template void risk_gradient(const RiskProblem<float>&, double*, float*, CudaStream, Precision);
template void risk_gradient(const RiskProblem<double>&, double*, double*, CudaStream, Precision);

}  // namespace cbk::device
