// Planted bugs that the emulation must find: each runs in a process of its own and must be reported, or the emulation
// has gone blind.  `plain`: the emulation alone must find it, in one of the thread orders; `address`, `thread`: that
// sanitizer's build must.  Without arguments all bugs are tried; with a name that one runs in this process.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "../../csrc/cuda/chain.hpp"
#include "../../csrc/cuda/graph.hpp"
#include "../../csrc/cuda/grid.hpp"
#include "../../csrc/cuda/ptx.hpp"
#include "../../csrc/cuda/wgmma.hpp"
#include "../../csrc/cuda/reduce.hpp"

namespace {

using namespace cbk::device;
namespace emulation = cbk::emulation;

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

struct Captured {
  cudaStream_t stream;
  Graph graph;
  Captured() { cudaStreamCreate(&stream); }
  ~Captured() { cudaStreamDestroy(stream); }
};

struct Device {
  float* x;
  Device() {
    cudaMalloc(&x, n * sizeof(float));
    const std::vector<float> zero(n);
    cudaMemcpy(x, zero.data(), n * sizeof(float), cudaMemcpyHostToDevice);
  }
  ~Device() { cudaFree(x); }
};

std::vector<float> values(const float* x) {
  std::vector<float> host(n);
  check(cudaMemcpy(host.data(), x, n * sizeof(float), cudaMemcpyDeviceToHost), "copy");
  return host;
}

// The values with which the kernel ends, as if its author had a test.
void expect(const float* x, bool (*right)(int i, float value)) {
  const std::vector<float> host = values(x);
  for (int i = 0; i < n; ++i)
    if (!right(i, host[size_t(i)])) throw CudaError("wrong value at " + std::to_string(i));
}

struct Bug {
  const char* name;
  const char* finders;  // any of plain, address, thread
  void (*run)(float* x);
};

constexpr dim3 one(1), block(n), warp(32);

const Bug bugs[] = {
    {"missing barrier", "plain thread",
     [](float* x) {
  launch(missing_barrier, one, block, 0, nullptr, x);
  expect(x, [](int i, float v) { return v == float(n - 1 - i); });
}},
    {"reused without barrier", "plain thread",
     [](float* x) {
  launch(reused_without_barrier, one, block, 0, nullptr, x);
  expect(x, [](int, float v) { return v == 6; });
}},
    {"divergent barrier", "plain address thread",
     [](float* x) { launch(divergent_barrier, one, block, 0, nullptr, x); }},
    {"early return", "plain address thread", [](float* x) { launch(early_return, one, block, 0, nullptr, x); }},
    {"missing grid sync", "plain thread",
     [](float* x) {
  launch_cooperative(missing_grid_sync, dim3(8), block, 0, nullptr, x);
  expect(x, [](int i, float v) { return v == (i < 8 ? 3 : 0); });
}},
    {"grid sync in a plain launch", "plain address thread",
     [](float* x) { launch(grid_sync_in_plain_launch, one, block, 0, nullptr, x); }},
    {"missing warp sync", "plain thread",
     [](float* x) {
  launch(missing_warp_sync, one, warp, 0, nullptr, x);
  expect(x, [](int i, float v) { return v == (i < 32 ? float(i ^ 1) : 0); });
}},
    {"shuffle after exit", "plain address thread",
     [](float* x) { launch(shuffle_after_exit, one, warp, 0, nullptr, x); }},
    {"shuffle outside its mask", "plain address thread",
     [](float* x) { launch(shuffle_outside_mask, one, warp, 0, nullptr, x); }},
    {"diverged warp", "plain address thread", [](float* x) { launch(diverged_warp, one, warp, 0, nullptr, x); }},
    {"shared memory overrun", "address", [](float* x) { launch(shared_overrun, one, block, 0, nullptr, x); }},
    {"global memory overrun", "address", [](float* x) { launch(global_overrun, dim3(2), block, 0, nullptr, x); }},
    {"misaligned vector", "address", [](float* x) { launch(misaligned_vector, one, dim3(1), 0, nullptr, x); }},
    {"shared memory read before it is written", "plain address thread",
     [](float* x) {
  launch(unwritten_shared, one, block, 0, nullptr, x);
  expect(x, [](int, float v) { return v == v; });
}},
    {"racing writes of equal values", "thread", [](float* x) { launch(racing_writes, one, block, 0, nullptr, x); }},
    {"racing blocks", "thread", [](float* x) { launch(racing_blocks, dim3(8), block, 0, nullptr, x); }},
    {"shared memory above 48 KB", "plain address thread",
     [](float* x) { launch_as(false, dynamic_shared, one, block, 60 << 10, nullptr, x); }},
    {"more shared memory than a block may have", "plain address thread",
     [](float* x) { launch(dynamic_shared, one, block, 300 << 10, nullptr, x); }},
    {"dynamic shared memory of 0 bytes", "plain address thread",
     [](float* x) { launch(dynamic_shared, one, block, 0, nullptr, x); }},
    {"wait for too few copies", "plain address thread",
     [](float* x) {
  launch(pipelined_copy<2, true>, one, warp, 0, nullptr, static_cast<const float*>(x), x);
  expect(x, [](int, float v) { return v == 0; });
}},
    {"copies never waited for", "plain address thread",
     [](float* x) { launch(pipelined_copy<1, false>, one, warp, 0, nullptr, static_cast<const float*>(x), x); }},
    {"another thread's copy", "plain thread",
     [](float* x) {
  launch(copy_seen_by_others_too_early, one, warp, 0, nullptr, static_cast<const float*>(x), x);
  expect(x, [](int, float v) { return v == 0; });
}},
    {"wrong lanes of a fragment", "plain",
     [](float* x) {
  launch(wrong_lanes, one, warp, 0, nullptr, x);
  expect(x, [](int i, float v) { return v == (i < 32 && i / 4 / 2 == i % 4 ? 1 : 0); });
}},
    {"a tile overwritten while a warp group multiplies it", "plain address thread",
     [](float* x) {
  launch(warp_group<true, true>, one, block, group_bytes, nullptr, x);
  expect(x, [](int, float v) { return v == 8; });
}},
    {"a warp group's products never waited for", "plain address thread",
     [](float* x) { launch(warp_group<false, false>, one, block, group_bytes, nullptr, x); }},
    {"host reads device memory", "address", [](float* x) { std::printf("%g\n", double(x[0])); }},
    {"wrong copy kind", "plain address thread",
     [](float* x) {
  float host[n] = {};
  check(cudaMemcpy(host, x, sizeof host, cudaMemcpyHostToDevice), "copy");
}},
    {"stream not waited for", "plain address thread",
     [](float* x) {
  emulation::machine().options.lazy_streams = true;
  cudaStream_t stream;
  float host[n];
  for (float& v : host) v = -1;
  cudaStreamCreate(&stream);
  launch(add_one, one, block, 0, stream, x);
  cudaMemcpyAsync(host, x, sizeof host, cudaMemcpyDeviceToHost, stream);
  const bool early = host[5] == 1;
  cudaStreamDestroy(stream);
  if (!early) throw CudaError("wrong value");
}},
    {"a step's number captured by value", "plain address thread",
     [](float* x) {
  Captured c;
  for (unsigned step = 1; step <= 3; ++step) {
    if (!c.graph) c.graph.capture(c.stream, [&] { launch(add_step, one, block, 0, c.stream, x, step); });
    c.graph.launch(c.stream);
  }
  expect(x, [](int, float v) { return v == 1 + 2 + 3; });
}},
    {"capture taken for a launch", "plain address thread",
     [](float* x) {
  Captured c;
  c.graph.capture(c.stream, [&] { launch(add_one, one, block, 0, c.stream, x); });
  expect(x, [](int, float v) { return v == 1; });
}},
    {"waiting while a stream is captured", "plain address thread",
     [](float* x) {
  Captured c;
  c.graph.capture(c.stream, [&] {
    launch(add_one, one, block, 0, c.stream, x);
    cudaStreamSynchronize(c.stream);
  });
}},
    {"memory taken while a stream is captured", "plain address thread",
     [](float*) {
  Captured c;
  c.graph.capture(c.stream, [&] { const Workspace<float> x(n, c.stream); });
}},
    {"a workspace used after its end", "address",
     [](float*) {
  float* kept = nullptr;
  {
    const Workspace<float> x(n, nullptr);
    kept = x.data();
  }
  launch(add_one, one, block, 0, nullptr, kept);
}},
    {"another device's stream", "plain address thread",
     [](float* x) {
  emulation::machine().options.devices = 2;
  Captured c;
  const OnDevice here(1);
  launch(add_one, one, block, 0, c.stream, x);
}},
    {"a chained kernel that does not wait", "plain address thread",
     [](float* x) { launch_in_chain(chained_without_wait, x); }},
    {"a chained kernel that lets the next start too early", "plain address thread",
     [](float* x) { launch_in_chain(chained_too_early, x); }},
    {"branches of a graph that share memory", "plain address thread",
     [](float* x) {
  Captured c;
  Branch branch;
  DeviceBuffer<float> shared(n);
  c.graph.capture(c.stream, [&] {
    branch.begin(c.stream);
    launch(set_to, one, block, 0, branch.stream(), shared.data(), 1.0f);
    launch(add_to, one, block, 0, branch.stream(), static_cast<const float*>(shared.data()), x);
    launch(set_to, one, block, 0, c.stream, shared.data(), 2.0f);
    branch.end(c.stream);
    launch(add_one, one, block, 0, c.stream, x);
  });
  c.graph.launch(c.stream);
  expect(x, [](int, float v) { return v == 1 + 1; });
}},
    {"a branch that is not joined again", "plain address thread",
     [](float* x) {
  Captured c;
  Branch branch;
  c.graph.capture(c.stream, [&] {
    branch.begin(c.stream);
    launch(add_one, one, block, 0, branch.stream(), x);
  });
}},
    {"a graph's memory freed before its replay", "address",
     [](float*) {
  Captured c;
  {
    const DeviceBuffer<float> x(n);
    c.graph.capture(c.stream, [&] { launch(add_one, one, block, 0, c.stream, x.data()); });
  }
  c.graph.launch(c.stream);
}},
    {"pinned memory changed before its copy has run", "plain address thread",
     [](float* x) {
  emulation::machine().options.lazy_streams = true;
  Captured c;
  const PinnedBuffer<float> host(1);
  const DeviceBuffer<float> value(1);
  for (float v : {1.0f, 2.0f}) {
    *host.data() = v;  // nothing has waited for the copy of the value before
    cudaMemcpyAsync(value.data(), host.data(), sizeof v, cudaMemcpyHostToDevice, c.stream);
    launch(add_read, one, block, 0, c.stream, x, static_cast<const float*>(value.data()));
  }
  cudaStreamSynchronize(c.stream);
  expect(x, [](int, float v) { return v == 1 + 2; });
}},
};

#if defined(CBK_ASAN)
constexpr const char* build = "address";
#elif defined(CBK_TSAN)
constexpr const char* build = "thread";
#else
constexpr const char* build = "plain";
#endif

struct Ordering {
  emulation::Order order;
  uint64_t seed;
};
constexpr Ordering orders[] = {{emulation::Order::forward, 0},
                               {emulation::Order::reverse, 0},
                               {emulation::Order::random, 1},
                               {emulation::Order::random, 2},
                               {emulation::Order::random, 3}};

// Whether the bug made itself known: by an error, a sanitizer's exit code, or a crash.
bool found(const Bug& bug, Ordering ordering) {
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    if (!std::freopen("/dev/null", "w", stderr) || !std::freopen("/dev/null", "w", stdout)) _exit(2);
    emulation::machine().set_order(ordering.order, ordering.seed);
    try {
      Device device;
      bug.run(device.x);
    } catch (const CudaError&) {
      _exit(1);
    }
    std::exit(0);  // ThreadSanitizer sets the code at exit
  }
  int status = 0;
  waitpid(child, &status, 0);
  return !WIFEXITED(status) || WEXITSTATUS(status) != 0;
}

}  // namespace

int main(int count, char** names) {
  int missed = 0, tried = 0;
  for (const Bug& bug : bugs) {
    if (count > 1) {
      if (std::strcmp(names[1], bug.name)) continue;
      Device device;
      bug.run(device.x);
      return 0;
    }
    if (!std::strstr(bug.finders, build)) continue;
    bool seen = false;
    for (const Ordering& ordering : orders) seen = seen || found(bug, ordering);
    ++tried;
    if (!seen) ++missed, std::printf("MISSED: %s\n", bug.name);
  }
  std::printf("%s build: %d of %d planted bugs found\n", build, tried - missed, tried);
  return missed != 0;
}
