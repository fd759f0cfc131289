// Planted bugs that the emulation must find: each runs in a process of its own and must be reported, or the emulation
// has gone blind.  `plain`: the emulation alone must find it, in one of the thread orders; `address`, `thread`: that
// sanitizer's build must.  Without arguments all bugs are tried; with a name that one runs in this process.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "../../csrc/cuda/graph.hpp"
#include "planted.hpp"

namespace {

using namespace cbk::device;
namespace emulation = cbk::emulation;

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
    {"a shuffle in place of a warp's barrier", "thread",
     [](float* x) { launch(shuffle_for_warp_sync, one, warp, 0, nullptr, x); }},
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
