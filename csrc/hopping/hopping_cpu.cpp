#include "hopping.hpp"

#include <omp.h>

#include <algorithm>

#include "../common/isa.hpp"
#include "../common/parallel.hpp"
#include "../risk/packing.hpp"

namespace cbk {

template <class T>
void draw_particle(const Draw<T>& draw, int64_t n, int64_t size, T* out) {
  const int64_t half = draw.particles / 2;
  const bool opposite = draw.mirrored && n >= half;
  UpdateRow<T> row{};
  row.theta = row.point = draw.center;
  row.out = out;
  row.end = size;
  row.b = opposite ? -draw.spread : draw.spread;
  isa_table().update<T>().row(UpdateForm::added, row, draw.key, uint32_t(opposite ? n - half : n));
}

template <class T>
void draw_ensemble(const Draw<T>& draw, int64_t size, T* out, int num_threads) {
#pragma omp parallel for schedule(static) num_threads(thread_count(num_threads, draw.particles))
  for (int64_t n = 0; n < draw.particles; ++n) draw_particle(draw, n, size, out + n * size);
}

template <class T>
void atom_risks(const RiskProblem<T>& problem, const T* center, double* out, int num_threads) {
  const Network& net = problem.net;
  const HoppingKernels<T>& kernels = isa_table().hopping<T>();
  const int64_t panel = 2 * kernels.lanes, size = net.size(), rows = target_columns(net, problem.loss);
  const int64_t row = net.inputs + rows + net.width + net.outputs;
  const int64_t chunk_size =
      round_up(std::clamp((int64_t(4) << 20) / (row * int64_t(sizeof(T))), int64_t(1), std::min(problem.samples, int64_t(8192))),
               panel);
  const int threads = thread_count(num_threads, problem.particles);
  const int64_t scratch_size = round_up(kernels.scratch_size(net, panel) + (problem.draw ? size : 0), 64);
  Buffer<T> packed(chunk_size * row), scratch(threads * scratch_size);
  T *x = packed.data(), *y = x + chunk_size * net.inputs, *hidden = y + chunk_size * rows,
    *outputs = hidden + chunk_size * net.width;

  std::fill_n(out, problem.particles * net.width, 0.0);
  for (int64_t first = 0; first < problem.samples; first += chunk_size) {
    const Chunk<T> chunk{first, std::min(chunk_size, problem.samples - first), x, y};
    pack_chunk(problem, panel, chunk);
    const PackedChunk<T> batch{chunk.samples, x, y};
    kernels.base(net, center, panel, batch, hidden, outputs);
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (int64_t n = 0; n < problem.particles; ++n) {
      T* own = scratch.data() + omp_get_thread_num() * scratch_size;
      const T* theta = problem.theta + n * size;
      if (problem.draw) {
        draw_particle(*problem.draw, n, size, own);
        theta = own, own += size;
      }
      kernels.atoms({&net, problem.loss, panel, theta, center, batch, hidden, outputs, own, out + n * net.width});
    }
  }
  for (int64_t i = 0; i < problem.particles * net.width; ++i) out[i] /= double(problem.samples);
}

template <class T>
void noise_drift(const double* weights, int64_t rows, int64_t atoms, const int32_t* atom, NoiseKey key, int64_t size,
                 double* out, int num_threads) {
  const HoppingKernels<T>& kernels = isa_table().hopping<T>();
  // pieces of rows times blocks of coordinates; only shapes decide, and the pieces are added in order
  const int64_t blocks = divide_up(size, noise_sum_block);
  const int64_t most = std::max((int64_t(1) << 20) / (size * int64_t(sizeof(double))), int64_t(1));
  const int64_t pieces = std::clamp(divide_up(rows, 64), int64_t(1), most), length = divide_up(rows, pieces);
  Buffer<double> partial(pieces * size);
  std::fill_n(partial.data(), pieces * size, 0.0);
#pragma omp parallel for schedule(dynamic, 1) num_threads(thread_count(num_threads, pieces * blocks))
  for (int64_t i = 0; i < pieces * blocks; ++i) {
    const int64_t piece = i / blocks, begin = i % blocks * noise_sum_block;
    kernels.noise_sum(key, std::min(piece * length, rows), std::min((piece + 1) * length, rows), weights, atoms, atom,
                      begin, std::min(begin + noise_sum_block, size), partial.data() + piece * size + begin);
  }
  std::fill_n(out, size, 0.0);
  for (int64_t piece = 0; piece < pieces; ++piece)
    for (int64_t i = 0; i < size; ++i) out[i] += partial.data()[piece * size + i];
}

#define CBK_INSTANTIATE(T)                                                                          \
  template void draw_particle(const Draw<T>&, int64_t, int64_t, T*);                                \
  template void draw_ensemble(const Draw<T>&, int64_t, T*, int);                                    \
  template void atom_risks(const RiskProblem<T>&, const T*, double*, int);                          \
  template void noise_drift<T>(const double*, int64_t, int64_t, const int32_t*, NoiseKey, int64_t, double*, int);
CBK_INSTANTIATE(float)
CBK_INSTANTIATE(double)
#undef CBK_INSTANTIATE

}  // namespace cbk
