// The kernels of bugs.cpp.  Most hold a mistake; others are right, and bugs.cpp calls them wrongly.
#pragma once

#include "../../csrc/cuda/chain.hpp"
#include "../../csrc/cuda/grid.hpp"
#include "../../csrc/cuda/ptx.hpp"
#include "../../csrc/cuda/reduce.hpp"
#include "../../csrc/cuda/wgmma.hpp"

namespace cbk::device {
namespace {

constexpr int n = 128;

CBK_KERNEL(n) missing_barrier(float* x) {
  CBK_SHARED(float, s, n);
  s[threadIdx.x] = float(threadIdx.x);
  x[threadIdx.x] = s[n - 1 - threadIdx.x];
}
CBK_KERNEL(n) reused_without_barrier(float* x) {
  CBK_SHARED(float, s, 1);
  for (int i = 0; i < 4; ++i) {
    if (threadIdx.x == unsigned(i)) s[0] = float(i);
    __syncthreads();
    x[threadIdx.x] += s[0];
  }
}
CBK_KERNEL(n) divergent_barrier(float* x) {
  if (threadIdx.x < 64) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  x[threadIdx.x] = 1;
}
CBK_KERNEL(n) early_return(float* x) {
  if (threadIdx.x == 0) return;
  __syncthreads();
  x[threadIdx.x] = 1;
}
CBK_KERNEL(n) missing_grid_sync(float* x) {
  for (int step = 0; step < 3; ++step) {
    const float next = x[(blockIdx.x + 1) % gridDim.x] + 1;
    __syncthreads();
    if (threadIdx.x == 0) x[blockIdx.x] = next;
    __syncthreads();
  }
}
CBK_KERNEL(n) grid_sync_in_plain_launch(float*) { grid_sync(); }
CBK_KERNEL(32) missing_warp_sync(float* x) {
  CBK_SHARED(float, s, 32);
  s[threadIdx.x] = float(threadIdx.x);
  x[threadIdx.x] = s[threadIdx.x ^ 1];
}
CBK_KERNEL(32) shuffle_for_warp_sync(float* x) {
  CBK_SHARED(float, s, 32);
  s[threadIdx.x] = float(threadIdx.x);
  const float zero = __shfl_xor_sync(~0u, 0.0f, 1);
  x[threadIdx.x] = s[threadIdx.x ^ 1] + zero;
}
CBK_KERNEL(32) shuffle_after_exit(float* x) {
  if (threadIdx.x >= 20) return;
  x[threadIdx.x] = __shfl_xor_sync(~0u, x[threadIdx.x], 1);
}
CBK_KERNEL(32) shuffle_outside_mask(float* x) {
  if (threadIdx.x < 16) x[threadIdx.x] = __shfl_xor_sync(0xffffu, x[threadIdx.x], 16);
}
CBK_KERNEL(32) diverged_warp(float* x) {
  if (threadIdx.x & 1)
    __syncwarp();
  else
    __syncthreads();
  x[threadIdx.x] = 1;
}
CBK_KERNEL(n) shared_overrun(float* x) {
  CBK_SHARED(float, s, 32);
  s[threadIdx.x / 2] = 1;
  __syncthreads();
  x[threadIdx.x] = s[threadIdx.x % 32];
}
CBK_KERNEL(n) global_overrun(float* x) { x[blockIdx.x * blockDim.x + threadIdx.x] = 1; }
CBK_KERNEL(n) misaligned_vector(float* x) { x[0] = reinterpret_cast<float4*>(x + 1)[threadIdx.x].x; }
CBK_KERNEL(n) unwritten_shared(float* x) {
  CBK_SHARED(float, s, n);
  x[threadIdx.x] = s[threadIdx.x];
}
CBK_KERNEL(n) racing_writes(float* x) { x[0] = 1; }
CBK_KERNEL(n) racing_blocks(float* x) {
  if (threadIdx.x == 0) x[0] += 1;
}
CBK_KERNEL(n) dynamic_shared(float* x) {
  CBK_DYNAMIC_SHARED(float, s);
  s[threadIdx.x] = 1;
  x[threadIdx.x] = s[threadIdx.x];
}
template <int pending, bool wait>
CBK_KERNEL(32)
pipelined_copy(const float* from, float* x) {
  CBK_SHARED(float4, s, 64);
  for (int stage = 0; stage < 2; ++stage) {
    copy_async<16>(&s[stage * 32 + threadIdx.x], from + (stage * 32 + threadIdx.x) % 32 * 4, true);
    commit_copies();
  }
  wait_copies<pending>();
  x[threadIdx.x] = s[threadIdx.x].x;
  if constexpr (wait) wait_copies<0>();
}
CBK_KERNEL(32) copy_seen_by_others_too_early(const float* from, float* x) {
  CBK_SHARED(float4, s, 32);
  copy_async<16>(&s[threadIdx.x], from + threadIdx.x * 4, true);
  commit_copies();
  wait_copies<0>();
  x[threadIdx.x] = s[threadIdx.x ^ 1].x;  // another thread's copy, with no barrier between
}
// 1 where row and column are equal, from the two numbers that a lane holds of rows g and g + 8, or column g.
CBK_KERNEL(32) wrong_lanes(float* x) {
  const int g = int(threadIdx.x) / 4, t = int(threadIdx.x) % 4;
  const auto one = [](bool here) { return here ? 0x3f800000u : 0u; };
  float sums[4] = {};
  multiply_tf32(sums, {one(g == t), one(g == t + 4), 0, 0}, {one(g == t), one(g == t + 4)});  // a[1] and a[2] exchanged
  x[threadIdx.x] = sums[0] + sums[1];
}
// 64 rows times 128 lines of ones: 8 in each sum; and what else a kernel may do with the tile meanwhile.
template <bool overwrites, bool waits>
CBK_KERNEL(n)
warp_group(float* x) {
  CBK_DYNAMIC_SHARED(float, memory);
  float* const tile = memory + (512 - shared_address(memory) % 512) % 512 / sizeof(float);
  for (int i = int(threadIdx.x); i < 192 * 16; i += n) tile[i] = 1;
  show_to_products();
  __syncthreads();
  GroupSums sums;
  begin_products();
  multiply_group_tf32(sums, tile_descriptor<64>(tile), tile_descriptor<64>(tile + 64 * 16), true);
  commit_products();
  if (overwrites)
    for (int i = int(threadIdx.x); i < 192 * 16; i += n) tile[i] = 0;
  if (waits) wait_products();
  x[threadIdx.x] = sums[15][3];
}
constexpr size_t group_bytes = 192 * 64 + 512;
CBK_KERNEL(n) add_one(float* x) { x[threadIdx.x] += 1; }
CBK_KERNEL(n) add_step(float* x, unsigned step) { x[threadIdx.x] += float(step); }
CBK_KERNEL(n) add_read(float* x, const float* value) { x[threadIdx.x] += *value; }

// Chained kernels: one that does not wait for the one before, one that lets the next start too early.
CBK_KERNEL(n) chained_without_wait(float* x) { x[threadIdx.x] += 1; }
CBK_KERNEL(n) chained_too_early(float* x) {
  allow_next();
  await_previous();
  x[threadIdx.x] += 1;
}
template <class F>
void launch_in_chain(F kernel, float* x) {
  const Chain chain(true);
  launch_chained(kernel, dim3(1), dim3(n), 0, nullptr, x);
}

// Two branches of a graph that share memory.
CBK_KERNEL(n) set_to(float* x, float value) { x[threadIdx.x] = value; }
CBK_KERNEL(n) add_to(const float* from, float* x) { x[threadIdx.x] += from[threadIdx.x]; }

}  // namespace
}  // namespace cbk::device
