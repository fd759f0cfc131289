// The emulated runtime: memory, copies, launches, streams and events.
#include "state.hpp"

#include <malloc.h>

#include <algorithm>
#include <cstdlib>

namespace cbk::emulation {

State& state() {
  static State& the = *new State;
  return the;
}

void open_device_memory([[maybe_unused]] bool open) {
#if defined(CBK_ASAN)
  for (const auto& [p, memory] : state().memory)
    open ? __asan_unpoison_memory_region(p, memory.bytes) : __asan_poison_memory_region(p, memory.bytes);
#endif
}

void show(void* p, size_t bytes) {
  state().memory[static_cast<char*>(p)] = {bytes, current_device()};
  open_device_memory(true);
  std::memset(p, 0xff, bytes);
  open_device_memory(false);
}
void hide(const void* p, [[maybe_unused]] size_t bytes) {
  state().memory.erase(static_cast<const char*>(p));
#if defined(CBK_ASAN)
  __asan_poison_memory_region(p, bytes);
#endif
}

cudaError_t take_system(void** p, size_t bytes) {
  if (posix_memalign(p, 256, std::max(bytes, size_t(1)))) return cudaErrorMemoryAllocation;
  ++state().ledger.system_allocations;
  show(*p, bytes);
  return cudaSuccess;
}
void give_system(void* p) {
  state().memory.erase(static_cast<char*>(p));
#if defined(CBK_ASAN)
  __asan_unpoison_memory_region(p, malloc_usable_size(p));
#endif
  std::free(p);
}

namespace {

bool on_device(const void* p, size_t bytes) {
  const char* at = static_cast<const char*>(p);
  auto next = state().memory.upper_bound(at);
  if (next == state().memory.begin()) return false;
  --next;
  return at + bytes <= next->first + next->second.bytes;
}

}  // namespace

void drain(Stream* stream, const bool* until) {
  while (stream && !stream->work.empty() && !(until && *until)) {
    const std::function<void()> work = std::move(stream->work.front());
    stream->work.pop_front();
    work();
  }
}

void drain_all() {
  for (Stream* stream : state().streams) drain(stream);
}

// What waits for the device cannot be part of a capture, and ends it.  Memory can, and is only where a test wants it
// (Options::graph_memory): a run's workspaces come from its arena (cuda/memory.hpp).
cudaError_t not_while_capturing(const char* what) {
  cudaError_t error = cudaSuccess;
  for (Stream* stream : state().streams) {
    if (!stream->capture) continue;
    stream->capture->invalidated = true;
    machine().message = std::string(what) + " while a stream is captured";
    error = cudaErrorStreamCaptureUnsupported;
  }
  return error;
}

namespace {

cudaError_t run(size_t allowed, dim3 grid, dim3 block, size_t dynamic_bytes, bool cooperative,
                std::function<void()> body) {
  Machine& m = machine();
  const size_t blocks = size_t(grid.x) * grid.y * grid.z, threads = size_t(block.x) * block.y * block.z;
  if (!blocks || !threads || threads > 1024 || block.z > 64 || grid.y > 65535 || grid.z > 65535) {
    m.message = "invalid launch configuration";
    return cudaErrorInvalidConfiguration;
  }
  if (dynamic_bytes > std::max(shared_default, allowed)) {
    m.message = "more than 48 KB of dynamic shared memory without cudaFuncSetAttribute";
    return cudaErrorInvalidValue;
  }
  if (cooperative && blocks > m.options.cooperative_limit) return cudaErrorCooperativeLaunchTooLarge;
  ++counts.kernels;
  open_device_memory(true);
  const bool good = m.run(grid, block, dynamic_bytes, cooperative, std::move(body));
  open_device_memory(false);
  return good ? cudaSuccess : cudaErrorLaunchFailure;
}

}  // namespace

cudaError_t enqueue(Stream* stream, std::function<cudaError_t()> work) {
  if (stream && stream->device != current_device()) {
    machine().message = "the stream is another device's";
    return cudaErrorInvalidResourceHandle;
  }
  if (stream && stream->capture) {
    if (stream->capture->invalidated) return cudaErrorStreamCaptureInvalidated;
    Work& nodes = stream->capture->nodes;
    nodes.push_back({std::move(work), std::exchange(stream->last, {nodes.size()})});
    return cudaSuccess;
  }
  if (!stream)
    if (const cudaError_t error = not_while_capturing("the legacy default stream")) return error;
  if (!machine().options.lazy_streams) return work();
  if (stream) {
    stream->work.push_back([work = std::move(work)] {
      if (const cudaError_t error = work()) state().failure = error;
    });
    return cudaSuccess;
  }
  drain_all();  // the legacy default stream waits for all others
  return work();
}

cudaError_t launch(const void* kernel, dim3 grid, dim3 block, size_t dynamic_bytes, Stream* stream, bool cooperative,
                   std::function<void()> body) {
  const Call call("cudaLaunchKernel");
  if (call.error) return call.error;
  const size_t allowed = std::min(state().dynamic_allowed[{kernel, current_device()}], shared_most());
  return enqueue(stream,
                 [=, body = std::move(body)] { return run(allowed, grid, block, dynamic_bytes, cooperative, body); });
}

}  // namespace cbk::emulation

using namespace cbk::emulation;

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorMemoryAllocation: return "out of memory";
    default: return machine().message.empty() ? "error" : machine().message.c_str();
  }
}
const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorInitializationError: return "cudaErrorInitializationError";
    case cudaErrorNoKernelImageForDevice: return "cudaErrorNoKernelImageForDevice";
    case cudaErrorLaunchFailure: return "cudaErrorLaunchFailure";
    default: return "cudaErrorOther";
  }
}

cudaError_t cudaGetLastError() {
  CBK_CALL(false);
  return std::exchange(state().failure, cudaSuccess);
}

cudaError_t cudaMalloc(void** p, size_t bytes) {
  CBK_CALL();
  if (const cudaError_t error = not_while_capturing("cudaMalloc")) return error;
  ++counts.allocations;
  return take_system(p, bytes);
}

cudaError_t cudaFree(void* p) {
  CBK_CALL();
  if (!p) return cudaSuccess;
  if (const cudaError_t error = not_while_capturing("cudaFree")) return error;
  drain_all();
  if (!state().memory.count(static_cast<char*>(p))) return cudaErrorInvalidValue;
  give_system(p);
  return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  CBK_CALL();
  attributes->sharedSizeBytes = 0;
  return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int bytes) {
  take_time();
  CBK_CALL();
  ++state().ledger.shared_settings;
  if (bytes < 0 || size_t(bytes) > shared_most()) return cudaErrorInvalidValue;
  state().dynamic_allowed[{kernel, current_device()}] = size_t(bytes);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  CBK_CALL();
  const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  if (kind != cudaMemcpyDefault && (on_device(to, bytes) != to_device || on_device(from, bytes) != from_device)) {
    machine().message = "cudaMemcpy: the kind does not fit the pointers";
    return cudaErrorInvalidValue;
  }
  return enqueue(stream, [=] {
    counts.copies_to_device += kind == cudaMemcpyHostToDevice, counts.copies_to_host += kind == cudaMemcpyDeviceToHost;
    if (on_device(to, bytes) != on_device(from, bytes))
      (on_device(to, bytes) ? state().bytes_to_device : state().bytes_to_host) += bytes;
    open_device_memory(true);
    if (bytes > 0) std::memmove(to, from, bytes);  // of nothing, from nowhere, is allowed on a card
    open_device_memory(false);
    return cudaSuccess;
  });
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  CBK_CALL();
  if (const cudaError_t error = not_while_capturing("cudaMemcpy")) return error;
  return cudaMemcpyAsync(to, from, bytes, kind, nullptr);
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  CBK_CALL();
  return enqueue(stream, [=] {
    open_device_memory(true);
    std::memset(to, value, bytes);
    open_device_memory(false);
    return cudaSuccess;
  });
}

cudaError_t cudaMallocHost(void** p, size_t bytes) {
  CBK_CALL();
  if (const cudaError_t error = not_while_capturing("cudaMallocHost")) return error;
  ++counts.allocations;
  *p = std::malloc(std::max(bytes, size_t(1)));
  return *p ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaFreeHost(void* p) {
  CBK_CALL();
  if (const cudaError_t error = not_while_capturing("cudaFreeHost")) return error;
  drain_all();
  std::free(p);
  return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  CBK_CALL();
  state().streams.push_back(*stream = new Stream);
  (*stream)->device = current_device();
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) { return cudaStreamCreate(stream); }

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  CBK_CALL();
  drain(stream);
  std::erase(state().streams, stream);
  delete stream;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  CBK_CALL();
  if (const cudaError_t error = not_while_capturing("cudaStreamSynchronize")) return error;
  drain(stream);
  keep_thresholds();
  return cudaGetLastError();
}

cudaError_t cudaDeviceSynchronize() {
  CBK_CALL();
  if (const cudaError_t error = not_while_capturing("cudaDeviceSynchronize")) return error;
  drain_all();
  keep_thresholds();
  return cudaGetLastError();
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  CBK_CALL();
  *event = new Event;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  CBK_CALL();
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  CBK_CALL();
  *event = {std::make_shared<bool>(false), stream, {}, {}};
  if (stream && stream->capture) {
    event->capture = stream->capture, event->nodes = stream->last;
    return cudaSuccess;
  }
  return enqueue(stream, [done = event->done] {
    *done = true;
    return cudaSuccess;
  });
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  CBK_CALL();
  if (const cudaError_t error = not_while_capturing("cudaEventSynchronize")) return error;
  if (!*event->done) drain_all();
  keep_thresholds();
  return cudaGetLastError();
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  CBK_CALL();
  if (const std::shared_ptr<Capture> capture = event->capture.lock()) {  // the stream joins it
    if (!stream->capture) stream->capture = capture, stream->last.clear();
    if (stream->capture != capture) return cudaErrorStreamCaptureIsolation;
    for (const size_t node : event->nodes)
      if (std::find(stream->last.begin(), stream->last.end(), node) == stream->last.end()) stream->last.push_back(node);
    return cudaSuccess;
  }
  if (stream && stream->capture) {
    stream->capture->invalidated = true;
    machine().message = "a captured stream waits for work that is not captured";
    return cudaErrorStreamCaptureIsolation;
  }
  return enqueue(stream, [done = event->done, on = event->on] {
    if (!*done) drain(on, done.get());  // of all orders that satisfy the wait, one
    return cudaSuccess;
  });
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void*, int threads, size_t) {
  CBK_CALL();
  *blocks = 2048 / threads;  // as if threads alone were short
  return cudaSuccess;
}
