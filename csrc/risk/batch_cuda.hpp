// What the risk kernels share: the work of a block, particles that are stored or drawn, losses of a tile's outputs.
#pragma once

#include "../cuda/reduce.hpp"
#include "../cuda/rows.hpp"

#include "../common/loss.hpp"
#include "../common/philox.hpp"
#include "../hopping/hopping.hpp"
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
  T* slopes;        // of gradients: [particles][outputs][samples] of dL/dg * factor, else nullptr
  T factor;
  T* hidden;        // of gradients: [particles * net.width][hidden_pitch] of pre-activations, else nullptr
  int64_t hidden_pitch;
  const float* packed;  // for bf16: x [whole tiles of samples][packed_pitch], two numbers a word, zeros behind the last
  int64_t packed_pitch;
  int access;       // numbers of x or theta that one copy of the tensor cores' kernel takes
  int64_t group, groups, chunk, chunks, tile;
  int64_t pitch;    // of one sample's outputs: odd, so that a warp's samples lie in different banks
  T* outputs;       // [blocks][group][tile][pitch] where shared memory is too small, else nullptr
  double* partial;  // [chunks][particles][tasks], where a block has several tiles or there are several chunks
  double* sums;     // of a block that has all samples: sum / divisor of entry i of [particles, tasks] to sums[i * stride]
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
    normals(Counter{b.draw.key.seed, b.draw.key.stream, now.step, b.draw.key.first_particle + uint32_t(opposite ? n - half : n)},
            uint32_t(i / 4), z);
    for (int j = 0; j < 4 && i + j < b.size; ++j)
      own[p * b.size + i + j] = fma(opposite ? -now.spread : now.spread, z[j], b.draw.center[i + j]);
  }
  __syncthreads();
  return own;
}

// total + the loss of sample s with outputs g on one task.
template <class T>
__device__ __forceinline__ double add_loss(const Batch<T>& b, double total, const T* g, int64_t task, int64_t s) {
  with_loss(b.loss, [&](auto loss) {
    using Law = LossLaw<loss.value>;
    if constexpr (targets_of(loss.value) == Targets::values) {
      total = Law::value(total, g, b.y + (task * b.samples + s) * b.net.outputs, b.net.outputs, 1, 1);
    } else {
      const int32_t label = b.labels[task * b.samples + s];
      const T number = T(label);
      total = label < 0 || label >= b.net.outputs ? quiet_nan : Law::value(total, g, &number, b.net.outputs, 1, 1);
    }
  });
  return total;
}

// The same, with g replaced by dL/dg * factor.
template <class T>
__device__ __forceinline__ double add_loss_slope(const Batch<T>& b, double total, T* g, int64_t s) {
  with_loss(b.loss, [&](auto loss) {
    using Law = LossLaw<loss.value>;
    if constexpr (targets_of(loss.value) == Targets::values) {
      total = Law::slopes(total, g, 1, b.y + s * b.net.outputs, b.net.outputs, 1, 1, b.factor);
    } else {
      const int32_t label = b.labels[s];
      const T number = T(label);
      total = Law::slopes(total, g, 1, &number, b.net.outputs, 1, 1, b.factor);
      if (label < 0 || label >= b.net.outputs) total = quiet_nan;
    }
  });
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

// Sums of losses over the tile's samples for `count` particles and all tasks; outs holds [count][tile][pitch].  Pairs of
// particle and task go to warps, or, where they are few, to the whole block.
template <class T>
__device__ void add_losses(const Batch<T>& b, const T* outs, int64_t first, int64_t count, const TileOfChunk& t) {
  const unsigned rank = thread_rank(), threads = blockDim.x * blockDim.y, warps = threads / 32;
  const unsigned pairs = unsigned(count * b.tasks), tasks = unsigned(b.tasks);
  const bool few = pairs < warps;
  for (unsigned pair = few ? 0 : rank / 32; pair < pairs; pair += few ? 1 : warps) {
    const T* g = outs + pair / tasks * b.tile * b.pitch;
    double total = 0;
    for (int64_t s = few ? rank : rank % 32; s < t.valid; s += few ? threads : 32)
      total = add_loss(b, total, g + s * b.pitch, pair % tasks, t.s0 + s);
    total = few ? block_sum(total) : warp_sum(total);
    if ((few ? rank : rank % 32) == 0) put_losses(b, t, first * b.tasks + pair, total);
  }
}

// The same for one task, with the slopes to b.slopes: a warp takes a particle, a lane a sample.
template <class T>
__device__ void add_slopes(const Batch<T>& b, T* outs, int64_t first, int64_t count, const TileOfChunk& t) {
  const unsigned rank = thread_rank(), warps = blockDim.x * blockDim.y / 32;
  for (int64_t particle = rank / 32; particle < count; particle += warps) {
    T* to = b.slopes + (first + particle) * b.net.outputs * b.samples + t.s0;
    double total = 0;
    for (int64_t s = rank % 32; s < t.valid; s += 32) {
      T* g = outs + (particle * b.tile + s) * b.pitch;
      total = add_loss_slope(b, total, g, t.s0 + s);
      for (int64_t c = 0; c < b.net.outputs; ++c) to[c * b.samples + s] = g[c];
    }
    total = warp_sum(total);
    if (rank % 32 == 0) put_losses(b, t, first + particle, total);
  }
}

// Memory and blocks of a launch.
struct Launch {
  int64_t shared;  // elements of dynamic shared memory
  bool spills;     // outputs lie in global memory
  int64_t blocks;
};

// Outputs to `out` [particles, samples, outputs], or slopes where the batch wants them; and sums of losses over samples,
// divided, entry i of [particles, tasks] to sums[i * stride].
template <class T>
void run_batch(Batch<T> b, T* out, double* sums, int64_t stride, double divisor, Precision precision, cudaStream_t stream);

// tensor_cuda.cu: whether tensor cores take a batch, how it is divided, and the launch.
bool on_tensor_cores(const Batch<float>& b);
inline bool on_tensor_cores(const Batch<double>&) { return false; }
Launch plan_tensor(Batch<float>& b);
void launch_tensor(Batch<float> b, const Launch& plan, Precision precision, float* out, cudaStream_t stream);

constexpr int64_t enough_blocks = 512;  // where fewer would leave a card idle, samples are divided; only shapes enter

}  // namespace cbk::device
