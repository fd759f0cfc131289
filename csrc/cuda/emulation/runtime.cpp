#include "runtime.hpp"

#include <algorithm>
#include <cstdlib>
#include <map>

namespace cbk::emulation {
namespace {

std::map<const char*, size_t> device_memory;
std::map<const void*, size_t> dynamic_allowed;
std::vector<Stream*> streams;
cudaError_t failure = cudaSuccess;  // of work that ran later than it was asked for

// The host may read and write device memory, or not.
void open_device_memory([[maybe_unused]] bool open) {
#if defined(CBK_ASAN)
  for (const auto& [p, bytes] : device_memory)
    open ? __asan_unpoison_memory_region(p, bytes) : __asan_poison_memory_region(p, bytes);
#endif
}

bool on_device(const void* p, size_t bytes) {
  const char* at = static_cast<const char*>(p);
  auto next = device_memory.upper_bound(at);
  if (next == device_memory.begin()) return false;
  --next;
  return at + bytes <= next->first + next->second;
}

void drain(Stream* stream) {
  while (stream && !stream->work.empty()) {
    const std::function<void()> work = std::move(stream->work.front());
    stream->work.pop_front();
    work();
  }
}

void drain_all() {
  for (Stream* stream : streams) drain(stream);
}

cudaError_t run(const void* kernel, dim3 grid, dim3 block, size_t dynamic_bytes, bool cooperative,
                std::function<void()> body) {
  Machine& m = machine();
  const size_t blocks = size_t(grid.x) * grid.y * grid.z, threads = size_t(block.x) * block.y * block.z;
  if (!blocks || !threads || threads > 1024 || block.z > 64 || grid.y > 65535 || grid.z > 65535) {
    m.message = "invalid launch configuration";
    return cudaErrorInvalidConfiguration;
  }
  const auto allowed = dynamic_allowed.find(kernel);
  if (dynamic_bytes > shared_default && (allowed == dynamic_allowed.end() || dynamic_bytes > allowed->second)) {
    m.message = "more than 48 KB of dynamic shared memory without cudaFuncSetAttribute";
    return cudaErrorInvalidValue;
  }
  if (cooperative && blocks > m.options.cooperative_limit) return cudaErrorCooperativeLaunchTooLarge;
  open_device_memory(true);
  const bool good = m.run(grid, block, dynamic_bytes, cooperative, std::move(body));
  open_device_memory(false);
  return good ? cudaSuccess : cudaErrorLaunchFailure;
}

}  // namespace

void enqueue(Stream* stream, std::function<void()> work) {
  if (!machine().options.lazy_streams) return work();
  if (stream) return stream->work.push_back(std::move(work));
  drain_all();  // the legacy default stream waits for all others
  work();
}

cudaError_t launch(const void* kernel, dim3 grid, dim3 block, size_t dynamic_bytes, Stream* stream, bool cooperative,
                   std::function<void()> body) {
  const bool later = machine().options.lazy_streams && stream;
  cudaError_t now = cudaSuccess;
  enqueue(stream, [=, &now, body = std::move(body)] {
    const cudaError_t error = run(kernel, grid, block, dynamic_bytes, cooperative, body);
    if (error) (later ? failure : now) = error;
  });
  return now;
}

cudaError_t allow_dynamic_shared(const void* kernel, int bytes) {
  if (bytes < 0 || size_t(bytes) > shared_most()) return cudaErrorInvalidValue;
  dynamic_allowed[kernel] = size_t(bytes);
  return cudaSuccess;
}

}  // namespace cbk::emulation

using namespace cbk::emulation;

const char* cudaGetErrorString(cudaError_t error) {
  if (!error) return "no error";
  return machine().message.empty() ? "error" : machine().message.c_str();
}

cudaError_t cudaGetLastError() { return std::exchange(failure, cudaSuccess); }

cudaError_t cudaMalloc(void** p, size_t bytes) {
  if (posix_memalign(p, 256, std::max(bytes, size_t(1)))) return cudaErrorMemoryAllocation;
  std::memset(*p, 0xff, bytes);  // NaN
  device_memory[static_cast<char*>(*p)] = bytes;
  open_device_memory(false);
  return cudaSuccess;
}

cudaError_t cudaFree(void* p) {
  if (!p) return cudaSuccess;
  drain_all();
  const auto found = device_memory.find(static_cast<char*>(p));
  if (found == device_memory.end()) return cudaErrorInvalidValue;
  open_device_memory(true);
  device_memory.erase(found);
  std::free(p);
  open_device_memory(false);
  return cudaSuccess;
}

cudaError_t cudaMallocAsync(void** p, size_t bytes, cudaStream_t) { return cudaMalloc(p, bytes); }

cudaError_t cudaFreeAsync(void* p, cudaStream_t stream) {
  enqueue(stream, [=] {
    open_device_memory(true);
    device_memory.erase(static_cast<char*>(p));
    std::free(p);
    open_device_memory(false);
  });
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  if (kind != cudaMemcpyDefault && (on_device(to, bytes) != to_device || on_device(from, bytes) != from_device)) {
    machine().message = "cudaMemcpy: the kind does not fit the pointers";
    return cudaErrorInvalidValue;
  }
  enqueue(stream, [=] {
    open_device_memory(true);
    std::memmove(to, from, bytes);
    open_device_memory(false);
  });
  return cudaSuccess;
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  return cudaMemcpyAsync(to, from, bytes, kind, nullptr);
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  enqueue(stream, [=] {
    open_device_memory(true);
    std::memset(to, value, bytes);
    open_device_memory(false);
  });
  return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  streams.push_back(*stream = new Stream);
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  drain(stream);
  streams.erase(std::remove(streams.begin(), streams.end(), stream), streams.end());
  delete stream;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  drain(stream);
  return cudaGetLastError();
}

cudaError_t cudaDeviceSynchronize() {
  drain_all();
  return cudaGetLastError();
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new std::shared_ptr<bool>;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  *event = std::make_shared<bool>(false);
  enqueue(stream, [done = *event] { *done = true; });
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  enqueue(stream, [done = *event] {
    if (!*done) drain_all();  // of all orders that satisfy the wait, one
  });
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = machine().options.capability;
  return cudaSuccess;
}
// The Python tests pass host memory: all memory counts as the one device's.
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void*) {
  *attributes = {cudaMemoryTypeDevice, 0};
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidDevice; }
