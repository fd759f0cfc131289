// Memory in a stream's order.  A pool gives a chunk again to whoever wants as many bytes, once the work before its
// freeing has run; at a synchronisation it gives the system what exceeds its threshold.  Devices and contexts.
#include <algorithm>
#include <deque>

#include "state.hpp"

using namespace cbk::emulation;

struct cbk::emulation::Pool {
  uint64_t threshold = 0, held = 0;
  std::map<void*, size_t> used;
  std::vector<std::pair<void*, size_t>> free;
};

namespace {

std::deque<Pool> pools;

void trim(Pool& pool, uint64_t kept) {
  while (pool.held > kept && !pool.free.empty()) {
    pool.held -= pool.free.back().second;
    give_system(pool.free.back().first);
    pool.free.pop_back();
  }
}

// Memory that a captured call takes is the graph's, which holds it until the last copy of its work is gone.
cudaError_t take_for_graph(void** p, size_t bytes, Stream* stream) {
  if (!machine().options.graph_memory) return not_while_capturing("memory from a pool");
  if (const cudaError_t error = take_system(p, bytes)) return error;
  state().of_graphs.insert(*p);
  const std::shared_ptr<void> owner(*p, [](void* memory) {
    state().of_graphs.erase(memory);
    give_system(memory);
  });
  return enqueue(stream, [owner, bytes] {
    show(owner.get(), bytes);
    return cudaSuccess;
  });
}

thread_local std::vector<int> entered;  // the thread's contexts, the current one last

cudaError_t enter(int device) {
  if (device < 0 || device >= machine().options.devices) return cudaErrorInvalidDevice;
  state().ledger.contexts.insert(device);
  entered.push_back(device);
  return cudaSuccess;
}

}  // namespace

struct CUctx_st {
  int device;
};

namespace cbk::emulation {

int current_device() { return entered.empty() ? 0 : entered.back(); }

Call::Call(const char* name, bool context)
    : lock_(state().mutex), error(state().failing.empty() || state().failing == name ? state().injected : cudaSuccess) {
  if (error) machine().message.clear();
  if (!error && context && entered.empty()) enter(0);
}

void keep_thresholds() {
  for (Pool& pool : pools) trim(pool, pool.threshold);
}

void set_devices(int count) {
  machine().options.devices = count;
  state().ledger.contexts.clear();
  entered.clear();
}
void fail_calls(const std::string& name, cudaError_t error) { state().failing = name, state().injected = error; }
const Ledger& ledger() { return state().ledger; }

}  // namespace cbk::emulation

cudaError_t cudaMemPoolCreate(cudaMemPool_t* pool, const cudaMemPoolProps* properties) {
  take_time();
  CBK_CALL(false);
  if (properties->allocType != cudaMemAllocationTypePinned || properties->location.type != cudaMemLocationTypeDevice ||
      properties->location.id >= machine().options.devices)
    return cudaErrorInvalidValue;
  *pool = &pools.emplace_back();
  ++state().ledger.pools;
  return cudaSuccess;
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value) {
  CBK_CALL(false);
  if (attribute != cudaMemPoolAttrReleaseThreshold) return cudaErrorInvalidValue;
  pool->threshold = *static_cast<uint64_t*>(value);
  return cudaSuccess;
}
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value) {
  CBK_CALL(false);
  *static_cast<uint64_t*>(value) = attribute == cudaMemPoolAttrReleaseThreshold ? pool->threshold : pool->held;
  return cudaSuccess;
}
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, size_t kept) {
  CBK_CALL(false);
  trim(*pool, kept);
  return cudaSuccess;
}

cudaError_t cudaMallocFromPoolAsync(void** p, size_t bytes, cudaMemPool_t pool, cudaStream_t stream) {
  CBK_CALL();
  if (stream && stream->capture) return take_for_graph(p, bytes, stream);
  if (const cudaError_t error = not_while_capturing("memory from a pool")) return error;
  const auto fits =
      std::find_if(pool->free.begin(), pool->free.end(), [&](const auto& chunk) { return chunk.second == bytes; });
  if (fits != pool->free.end()) {
    *p = fits->first;
    pool->free.erase(fits);
    show(*p, bytes);
  } else {
    if (const cudaError_t error = take_system(p, bytes)) return error;
    pool->held += bytes;
  }
  pool->used[*p] = bytes;
  return cudaSuccess;
}

cudaError_t cudaFreeAsync(void* p, cudaStream_t stream) {
  CBK_CALL();
  if (state().of_graphs.count(p)) return cudaSuccess;  // the graph's node
  if (const cudaError_t error = not_while_capturing("cudaFreeAsync")) return error;
  for (Pool& pool : pools) {
    const auto found = pool.used.find(p);
    if (found == pool.used.end()) continue;
    return enqueue(stream, [&pool, p, bytes = found->second] {
      pool.used.erase(p);
      hide(p, bytes);
      pool.free.emplace_back(p, bytes);
      return cudaSuccess;
    });
  }
  return cudaErrorInvalidValue;
}

cudaError_t cudaGetDeviceCount(int* count) {
  CBK_CALL(false);
  *count = machine().options.devices;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  CBK_CALL(false);
  *device = current_device();
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {  // makes the context there: so it is since CUDA 12
  CBK_CALL(false);
  if (const cudaError_t error = enter(device)) return error;
  if (entered.size() > 1) entered.erase(entered.end() - 2);
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  CBK_CALL(false);
  *value = attribute == cudaDevAttrMultiProcessorCount            ? 1
           : attribute == cudaDevAttrMaxSharedMemoryPerBlockOptin ? int(shared_most())
           : attribute == cudaDevAttrComputeCapabilityMinor       ? 0
                                                                  : machine().options.capability;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  CBK_CALL(false);
  *properties = {"emulated card", machine().options.capability, 0};
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) { return *version = 13000, cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaMemGetInfo(size_t* free, size_t* all) {
  CBK_CALL();
  *free = size_t(1) << 30, *all = size_t(2) << 30;
  return cudaSuccess;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext* context, int device) {
  CBK_CALL(false);
  static std::map<int, CUctx_st> contexts;
  if (device < 0 || device >= machine().options.devices) return cudaErrorInvalidDevice;
  *context = &(contexts[device] = {device});
  state().ledger.contexts.insert(device);
  return cudaSuccess;
}
CUresult cuCtxPushCurrent(CUcontext context) {
  CBK_CALL(false);
  return enter(context->device);
}
CUresult cuCtxPopCurrent(CUcontext*) {
  CBK_CALL(false);
  entered.pop_back();
  return cudaSuccess;
}
// The Python tests pass host memory: what is no memory of the emulation's counts as device 0's.
CUresult cuPointerGetAttributes(unsigned, CUpointer_attribute*, void** answers, CUdeviceptr p) {
  CBK_CALL(false);
  auto next = state().memory.upper_bound(reinterpret_cast<const char*>(p));
  const auto found = next == state().memory.begin() ? state().memory.end() : std::prev(next);
  const bool ours =
      found != state().memory.end() && reinterpret_cast<const char*>(p) < found->first + found->second.bytes;
  *static_cast<uint64_t*>(answers[0]) = CU_MEMORYTYPE_DEVICE;
  *static_cast<int*>(answers[2]) = ours ? found->second.device : 0;
  return cudaSuccess;
}
cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned, unsigned long long) {
  const std::string wanted = name;
  *function = wanted == "cuDevicePrimaryCtxRetain" ? reinterpret_cast<void*>(&cuDevicePrimaryCtxRetain)
              : wanted == "cuCtxPushCurrent"       ? reinterpret_cast<void*>(&cuCtxPushCurrent)
              : wanted == "cuCtxPopCurrent"        ? reinterpret_cast<void*>(&cuCtxPopCurrent)
              : wanted == "cuPointerGetAttributes" ? reinterpret_cast<void*>(&cuPointerGetAttributes)
                                                   : nullptr;
  return cudaSuccess;
}
