#include "hopping.hpp"

#include <omp.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "../common/isa.hpp"
#include "../common/parallel.hpp"
#include "../risk/packing.hpp"

namespace cbk {

template <class T>
void draw_rows(const Draw<T>& draw, int64_t first, int64_t count, int64_t size, T* out) {
  const auto kernel = isa_table().hopping<T>().draw;
  const int64_t end = first + count;
  for (int64_t n = first; n < end;) {
    T* row = out + (n - first) * size;
    if (!draw.mirrored) {
      kernel(draw.key, uint32_t(n++), draw.center, draw.spread, size, row, nullptr);
    } else if (n % 2 == 0) {
      kernel(draw.key, uint32_t(n / 2), draw.center, draw.spread, size, row, n + 1 < end ? row + size : nullptr);
      n += 2;
    } else {
      kernel(draw.key, uint32_t(n++ / 2), draw.center, -draw.spread, size, row, nullptr);
    }
  }
}

namespace {

// Rows of few numbers: the noise of several is drawn at a time, and c + s xi is formed as of one long row.
template <class T>
void draw_short(const Draw<T>& draw, int64_t draws, int64_t size, T* out, int num_threads) {
  const int64_t together = std::min(rows_drawn(size), draws), groups = divide_up(draws, together);
  const int64_t length = round_up(together * size, 64);
  const int threads = thread_count(num_threads, groups, nanoseconds(3, draws, size));
  Buffer<T> memory((3 + threads) * length);
  T *const centers = memory.data(), *const plus = centers + length, *const minus = plus + length;
  for (int64_t i = 0; i < together; ++i) std::copy_n(draw.center, size, centers + i * size);
  std::fill_n(plus, length, draw.spread), std::fill_n(minus, length, -draw.spread);
  parallel_for(groups, threads, [&](int64_t group) {
    const int64_t first = group * together, count = std::min(together, draws - first);
    T* const noise = minus + (1 + omp_get_thread_num()) * length;
    uint32_t particle[drawn_blocks];
    std::iota(particle, particle + count, uint32_t(first));
    isa_table().random<T>().short_rows(draw.key, particle, count, size, noise);
    UpdateRow<T> row{};
    row.theta = row.point = centers, row.end = count * size, row.out = out + first * size;
    isa_table().update<T>().drawn(UpdateForm::added, row, noise, plus);
    row.out += draws * size;
    if (draw.mirrored) isa_table().update<T>().drawn(UpdateForm::added, row, noise, minus);
  }, short_tasks(together * size));
}

}  // namespace

template <class T>
void draw_ensemble(const Draw<T>& draw, int64_t size, T* out, int num_threads) {
  const auto kernel = isa_table().hopping<T>().draw;
  const int64_t draws = draw.mirrored ? draw.particles / 2 : draw.particles;
  if (size < short_row) return draw_short(draw, draws, size, out, num_threads);
  const auto row = [&](int64_t n) {
    kernel(draw.key, uint32_t(n), draw.center, draw.spread, size, out + n * size,
           draw.mirrored ? out + (draws + n) * size : nullptr);
  };
  parallel_for(draws, thread_count(num_threads, draws, nanoseconds(1, draws, size)), row, short_tasks(size));
}

template <class T>
void round_rows(const T* scale, T most, int64_t rows, int64_t size, T* theta, int num_threads) {
  const auto kernel = isa_table().hopping<T>().round;
  const auto row = [&](int64_t n) { kernel(scale, most, size, theta + n * size); };
  parallel_for(rows, thread_count(num_threads, rows, nanoseconds(0.2, rows, size)), row, short_tasks(size / 8));
}

template <class T>
void atom_risks(const RiskProblem<T>& problem, const T* center, double* out, int num_threads) {
  const Network& net = problem.net;
  const HoppingKernels<T>& kernels = isa_table().hopping<T>();
  const int64_t panel = 2 * kernels.lanes, size = net.size(), rows = target_columns(net, problem.loss);
  const int64_t row = net.inputs + rows + net.width * net.outputs + (problem.weights ? 1 : 0);
  const double scale = problem.weights ? weight_scale(problem) : 0;
  const int64_t chunk_size = round_up(
      std::clamp((int64_t(2) << 20) / (row * int64_t(sizeof(T))), int64_t(1), std::min(problem.samples, int64_t(8192))),
      panel);
  const int64_t units = divide_up(problem.particles, 2);  // two particles: a pair is drawn at once
  const double work = nanoseconds(0.02, problem.particles, problem.samples, net.width, net.inputs + net.outputs + 4);
  const int threads = thread_count(num_threads, units, work);
  const int64_t work_size = kernels.scratch_size(net, panel);
  const int64_t scratch_size = round_up(work_size + (problem.draw ? 2 * size : 0), 64);
  Buffer<T> packed(chunk_size * row + (net.width + net.outputs) * panel), scratch(threads * scratch_size);
  T *x = packed.data(), *y = x + chunk_size * net.inputs, *weights = y + chunk_size * rows;
  T* const rest = problem.weights ? weights + chunk_size : std::exchange(weights, nullptr);

  std::fill_n(out, problem.particles * net.width, 0.0);
  for (int64_t first = 0; first < problem.samples; first += chunk_size) {
    const Chunk<T> chunk{first, std::min(chunk_size, problem.samples - first), x, y, weights};
    pack_inputs(problem, panel, chunk);
    pack_targets(problem, panel, chunk);
    if (weights) pack_weights(problem, scale, panel, chunk);
    const PackedChunk<T> batch{chunk.samples, x, y, weights};
    kernels.rest(net, problem.loss, center, panel, batch, packed.data() + chunk_size * row, rest);
    parallel_for(units, threads, [&](int64_t unit) {
      T* own = scratch.data() + omp_get_thread_num() * scratch_size;
      const int64_t n0 = 2 * unit, count = std::min(problem.particles - n0, int64_t(2));
      const T* theta = problem.draw ? own + work_size : problem.theta + n0 * size;
      if (problem.draw) draw_rows(*problem.draw, n0, count, size, own + work_size);
      for (int64_t i = 0; i < count; ++i)
        kernels.atoms({&net, problem.loss, panel, theta + i * size, batch, rest, own, out + (n0 + i) * net.width});
    }, short_tasks(2 * chunk.samples * net.width * (net.inputs + net.outputs + 8) / 16));
  }
  for (int64_t i = 0; i < problem.particles * net.width; ++i) out[i] /= double(problem.samples);
}

namespace {

// sum[i] += w[atom[i]] noise[k][i], row after row; the sums of at most four coordinates stay in registers.
template <int few, class T>
void add_noise(const T* noise, const uint32_t* particle, int64_t count, const double* weights, int64_t atoms,
               const int32_t* atom, int64_t size, double* sum) {
  if constexpr (few > 0) {
    if (size == few) {
      double own[few];
      std::copy_n(sum, few, own);
      for (int64_t k = 0; k < count; ++k, noise += few) {
        const double* w = weights + particle[k] * atoms;
        const double whole = w[0];
        for (int i = 0; i < few; ++i) own[i] += (atom ? w[atom[i]] : whole) * double(noise[i]);
      }
      std::copy_n(own, few, sum);
      return;
    }
    add_noise<few - 1>(noise, particle, count, weights, atoms, atom, size, sum);
  } else {
    for (int64_t k = 0; k < count; ++k, noise += size) {
      const double* w = weights + particle[k] * atoms;
      for (int64_t i = 0; i < size; ++i) sum[i] += w[atom ? atom[i] : 0] * double(noise[i]);
    }
  }
}

// HoppingKernels::noise_sum of rows of few numbers.  The noise of several is drawn at a time, also of several pieces;
// the rows of a piece, `length` of them, are added to sums of their own: partial [pieces, size].
template <class T>
void short_noise_sum(NoiseKey key, int64_t first, int64_t last, int64_t length, const double* weights, int64_t atoms,
                     const int32_t* atom, int64_t size, double* partial) {
  T noise[4 * drawn_blocks];
  uint32_t particle[drawn_blocks];
  for (int64_t n = first; n < last;) {
    int64_t count = 0;
    for (; n < last && count < rows_drawn(size); ++n) {
      particle[count] = uint32_t(n);
      count += atom || weights[n * atoms] != 0;
    }
    isa_table().random<T>().short_rows(key, particle, count, size, noise);
    for (int64_t k = 0, end; k < count; k = end) {
      const int64_t piece = particle[k] / length;
      end = std::lower_bound(particle + k, particle + count, (piece + 1) * length) - particle;
      add_noise<4>(noise + k * size, particle + k, end - k, weights, atoms, atom, size, partial + piece * size);
    }
  }
}

}  // namespace

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
  // of short rows a task has as many pieces as one draw holds
  const int64_t together = size < short_row ? std::max(rows_drawn(size) / length, int64_t(1)) : 1;
  const int64_t tasks = divide_up(pieces, together) * blocks;
  parallel_for(tasks, thread_count(num_threads, tasks, nanoseconds(1, rows, size)), [&](int64_t i) {
    const int64_t group = i / blocks, begin = i % blocks * noise_sum_block, taken = together * length;
    const int64_t first = std::min(group * taken, rows), last = std::min(first + taken, rows);
    if (size < short_row)
      return short_noise_sum<T>(key, first, last, length, weights, atoms, atom, size, partial.data());
    kernels.noise_sum(key, first, last, weights, atoms, atom, begin, std::min(begin + noise_sum_block, size),
                      partial.data() + group * size + begin);
  });
  std::fill_n(out, size, 0.0);
  for (int64_t piece = 0; piece < pieces; ++piece)
    for (int64_t i = 0; i < size; ++i) out[i] += partial.data()[piece * size + i];
}

#define CBK_INSTANTIATE(T) \
  template void draw_rows(const Draw<T>&, int64_t, int64_t, int64_t, T*); \
  template void draw_ensemble(const Draw<T>&, int64_t, T*, int); \
  template void round_rows(const T*, T, int64_t, int64_t, T*, int); \
  template void atom_risks(const RiskProblem<T>&, const T*, double*, int); \
  template void noise_drift<T>(const double*, int64_t, int64_t, const int32_t*, NoiseKey, int64_t, double*, int);
CBK_INSTANTIATE(float)
CBK_INSTANTIATE(double)
#undef CBK_INSTANTIATE

}  // namespace cbk
