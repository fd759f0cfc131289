// What the risk kernels share: the work of a block, particles that are stored or drawn, losses of a tile's outputs.
#pragma once

#include "../../cuda/reduce.hpp"
#include "../../cuda/rows.hpp"

#include "../../common/loss.hpp"
#include "../../common/philox.hpp"
#include "../../hopping/hopping.hpp"
#include "losses_cuda.hpp"
#include "risk_cuda.hpp"

namespace cbk::device {

// A block takes `group` particles and `chunk` samples, tile by tile.
template <class T>
struct Batch {
  Network net;
  Loss loss;
  const T* theta;  // [particles, size], or nullptr: drawn, each block into its part of `own`
  int64_t particles, size;
  Draw<T> draw;
  T* own;  // [blocks][group][size]
  const T* x;
  int64_t samples;
  const T* y;
  const int32_t* labels;
  int64_t tasks;
  T* slopes;  // of gradients: [particles][outputs][samples] of dL/dg * factor, else nullptr
  T factor;
  T* hidden;  // of gradients: [particles * net.width][hidden_pitch] of pre-activations, else nullptr
  int64_t hidden_pitch;
  const float* packed;   // for bf16: x [tiles][stages][samples of a tile][8 words of two], zeros behind the last
  int64_t packed_pitch;  // words of one sample
  int access;            // numbers of x or theta that one copy of the tensor cores' kernel takes
  int64_t group, groups, chunk, chunks, tile;
  int64_t pitch;    // of one sample's outputs: odd, so that a warp's samples lie in different banks
  T* outputs;       // [blocks][group][tile][pitch] where shared memory is too small, else nullptr
  double* partial;  // [chunks][particles][tasks], where a block has several tiles or there are several chunks
  double* sums;  // of a block that has all samples: sum / divisor of entry i of [particles, tasks] to sums[i * stride]
  int64_t stride;
  double divisor;
};

template <class T>
Batch<T> batch_of(const RiskProblem<T>& problem) {
  Batch<T> b{};
  b.net = problem.net, b.loss = problem.loss;
  b.theta = problem.draw ? nullptr : problem.theta;
  b.particles = problem.particles, b.size = problem.net.size();
  if (problem.draw) b.draw = *problem.draw;
  b.x = problem.x, b.samples = problem.samples;
  b.y = problem.y, b.labels = problem.labels;
  b.tasks = problem.tasks;
  b.pitch = problem.net.outputs | 1;
  return b;
}

// The first of the block's `count` particles [count, size]; ends with a barrier where they are drawn.
template <class T>
__device__ const T* particles_of(const Batch<T>& b, int64_t first, int64_t count) {
  if (b.theta) return b.theta + first * b.size;
  const unsigned threads = blockDim.x * blockDim.y;
  T* own = b.own + int64_t(blockIdx.x) * b.group * b.size;
  const int64_t half = b.draw.particles / 2, quads = (b.size + 3) / 4;
  const DrawNumbers<T> now = b.draw.now ? *b.draw.now : DrawNumbers<T>{b.draw.spread, b.draw.key.step};
  for (int64_t item = thread_rank(); item < count * quads; item += threads) {
    const int64_t p = item / quads, i = item % quads * 4, n = first + p;
    const bool opposite = b.draw.mirrored && n >= half;
    T z[4];
    normals(Counter{b.draw.key.seed, b.draw.key.stream, now.step,
                    b.draw.key.first_particle + uint32_t(opposite ? n - half : n)},
            uint32_t(i / 4), z);
    for (int j = 0; j < 4 && i + j < b.size; ++j)
      own[p * b.size + i + j] = fma(opposite ? -now.spread : now.spread, z[j], b.draw.center[i + j]);
  }
  __syncthreads();
  return own;
}

// total + the loss of sample s with outputs g on one task; of the fused ones.
template <class T>
__device__ __forceinline__ double add_loss(const Batch<T>& b, double total, const T* g, int64_t task, int64_t s) {
  if (b.loss.kind == LossKind::mse) {
    const T* const y = b.y + (task * b.samples + s) * b.net.outputs;
    total = LossLaw<LossKind::mse>{}.value(total, g, y, b.net.outputs, 1, 1, Counted<T, false>{1, nullptr});
  } else {
    const int32_t label = b.labels[task * b.samples + s];
    total = unsigned(label) >= unsigned(b.net.outputs)
                ? quiet_nan
                : total + double(LossLaw<LossKind::cross_entropy>::of_label(g, int(b.net.outputs), label));
  }
  return total;
}

// The same, with g replaced by dL/dg * factor.
template <class T>
__device__ __forceinline__ double add_loss_slope(const Batch<T>& b, double total, T* g, int64_t s) {
  const Counted<T, false> counted{1, nullptr};
  if (b.loss.kind == LossKind::mse) {
    const T* const y = b.y + s * b.net.outputs;
    total = LossLaw<LossKind::mse>{}.slopes(total, g, 1, y, b.net.outputs, 1, b.factor, counted);
  } else {
    const int32_t label = b.labels[s];
    const T number = T(label);
    total = LossLaw<LossKind::cross_entropy>{}.slopes(total, g, 1, &number, b.net.outputs, 1, b.factor, counted);
    if (label < 0 || label >= b.net.outputs) total = quiet_nan;
  }
  return total;
}

// A tile of a chunk.
struct TileOfChunk {
  int64_t s0, valid, chunk;
  bool first, last;
};

// Adds a tile's sum of losses of entry i of [particles, tasks].
template <class T>
__device__ __forceinline__ void put_losses(const Batch<T>& b, const TileOfChunk& t, int64_t i, double total) {
  const int64_t at = t.chunk * b.particles * b.tasks + i;
  if (!t.first) total = b.partial[at] + total;
  if (t.last && b.sums)
    b.sums[i * b.stride] = total / b.divisor;
  else
    b.partial[at] = total;
}

// Shared memory for sums: a number of each thread, of which a block has `most_threads`, for so many pairs at once.
constexpr unsigned most_threads = 256;
struct Room {
  double* sums;
  unsigned pairs;
};

// The tile's sum of loss(total, pair, sample) for each of `pairs`, the first of which is entry `first`.  Pairs of
// particle and task go to warps.  Where they are few they are the whole block's, and its threads' sums meet in shared
// memory.  Lanes add them in the order in which a warp alone would.
template <class T, class F>
__device__ __forceinline__ void sum_losses(const Batch<T>& b, int64_t first, unsigned pairs, const TileOfChunk& t,
                                           Room room, F&& loss) {
  const unsigned rank = thread_rank(), lane = rank % 32, warp = rank / 32;
  const unsigned threads = blockDim.x * blockDim.y, warps = threads / 32;
  const unsigned valid = unsigned(t.valid);
  const bool scarce = pairs < warps;
  const auto finish = [&](unsigned pair, double total) {
    total = warp_sum(total);
    if (lane == 0) put_losses(b, t, first + pair, total);
  };
  for (unsigned begin = 0; begin < pairs; begin += scarce ? room.pairs : pairs) {
    const unsigned end = scarce ? min(begin + room.pairs, pairs) : pairs;
    for (unsigned pair = scarce ? begin : warp; pair < end; pair += scarce ? 1 : warps) {
      double total = 0;
      for (unsigned s = scarce ? rank : lane; s < valid; s += scarce ? threads : 32) total = loss(total, pair, s);
      if (scarce)
        room.sums[(pair - begin) * threads + rank] = total;
      else
        finish(pair, total);
    }
    if (!scarce) break;
    __syncthreads();
    for (unsigned pair = begin + warp; pair < end; pair += warps) {
      double total = 0;
      for (unsigned w = 0; w < warps; ++w) total += room.sums[(pair - begin) * threads + 32 * w + lane];
      finish(pair, total);
    }
    if (end < pairs) __syncthreads();
  }
}

// Sums of losses over the tile's samples for `count` particles and all tasks; outs holds [count][tile][pitch].
template <class T>
__device__ __forceinline__ void add_losses(const Batch<T>& b, const T* outs, int64_t first, int64_t count,
                                           const TileOfChunk& t, Room room) {
  const unsigned tasks = unsigned(b.tasks);
  sum_losses(b, first * b.tasks, unsigned(count) * tasks, t, room, [&](double total, unsigned pair, unsigned s) {
    const unsigned particle = tasks == 1 ? pair : pair / tasks;  // a division is many instructions
    return add_loss(b, total, outs + (particle * b.tile + s) * b.pitch, pair - particle * tasks, t.s0 + s);
  });
}

// The same for one task, with the slopes to b.slopes.
template <class T>
__device__ __forceinline__ void add_slopes(const Batch<T>& b, T* outs, int64_t first, int64_t count,
                                           const TileOfChunk& t, Room room) {
  sum_losses(b, first, unsigned(count), t, room, [&](double total, unsigned particle, unsigned s) {
    T* g = outs + (particle * b.tile + s) * b.pitch;
    T* to = b.slopes + (first + particle) * b.net.outputs * b.samples + t.s0 + s;
    total = add_loss_slope(b, total, g, t.s0 + s);
    for (int64_t c = 0; c < b.net.outputs; ++c) to[c * b.samples] = g[c];
    return total;
  });
}

// Memory and blocks of a launch.
struct Launch {
  int64_t shared;  // elements of dynamic shared memory
  bool spills;     // outputs lie in global memory
  int64_t blocks;
};

// Outputs to `out` [particles, samples, outputs], or slopes where the batch wants them; and sums of losses over
// samples, divided, entry i of [particles, tasks] to sums[i * stride].
template <class T>
void run_batch(Batch<T> b, T* out, double* sums, int64_t stride, double divisor, Precision precision,
               cudaStream_t stream);

// tensor_cuda.cu: whether tensor cores take a batch, how it is divided, and the launch.
bool on_tensor_cores(const Batch<float>& b);
inline bool on_tensor_cores(const Batch<double>&) { return false; }
Launch plan_tensor(Batch<float>& b);
void launch_tensor(Batch<float> b, const Launch& plan, Precision precision, float* out, cudaStream_t stream);

constexpr int64_t enough_blocks = 512;  // where fewer would leave a card idle, samples are divided; only shapes enter

}  // namespace cbk::device
