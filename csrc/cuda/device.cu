#include <pthread.h>

#include <atomic>
#include <map>
#include <mutex>

#include "gpu.hpp"
#include "owned.hpp"
#include "rows.hpp"

#if defined(__CUDACC__)
#include <cuda.h>
#endif

namespace cbk::device {
namespace {

int attribute(cudaDeviceAttr which) {
  int device = 0, value = 0;
  check(cudaGetDevice(&device), "device");
  check(cudaDeviceGetAttribute(&value, which, device), "device");
  return value;
}

// What the current card is, and what this build has for others.
std::string no_code() {
  int device = 0;
  cudaDeviceProp card{};
  if (cudaGetDevice(&device) || cudaGetDeviceProperties(&card, device)) return "";
  const std::string cc = std::to_string(card.major) + std::to_string(card.minor);
  return std::string("; ") + card.name + " is sm_" + cc + ", and this build has code for " + architectures() +
         ": build cbokernels with CUDAARCHS=" + cc;
}

// Of the driver, what the runtime does not offer.  Its errors bear the runtime's numbers.
struct DriverCalls {
  decltype(&cuDevicePrimaryCtxRetain) retain;
  decltype(&cuCtxPushCurrent) push;
  decltype(&cuCtxPopCurrent) pop;
  decltype(&cuPointerGetAttributes) attributes;
};

template <class F>
void find(const char* name, F& function) {
  void* found = nullptr;
#if CUDART_VERSION >= 12050
  check(cudaGetDriverEntryPointByVersion(name, &found, 12000, cudaEnableDefault), name);
#else
  check(cudaGetDriverEntryPoint(name, &found, cudaEnableDefault), name);
#endif
  if (!found) throw CudaError(std::string("the driver has no ") + name);
  function = reinterpret_cast<F>(found);
}

const DriverCalls& driver() {
  static const DriverCalls calls = [] {
    int count = 0;
    check(cudaGetDeviceCount(&count), "device");  // initialises the driver
    DriverCalls all{};
    find("cuDevicePrimaryCtxRetain", all.retain), find("cuCtxPushCurrent", all.push);
    find("cuCtxPopCurrent", all.pop), find("cuPointerGetAttributes", all.attributes);
    return all;
  }();
  return calls;
}

// The context that the runtime uses too, made where nobody has; kept for the process.
CUcontext context_of(int device) {
  struct Contexts {
    std::mutex mutex;
    std::map<int, CUcontext> of;
  };
  static Contexts& contexts = *new Contexts;
  const std::lock_guard lock(contexts.mutex);
  CUcontext& context = contexts.of[device];
  if (!context) check(cudaError_t(driver().retain(&context, device)), "context");
  return context;
}

std::atomic<bool> forked{false};

}  // namespace

void fail(cudaError_t error, const std::string& what) {
  cudaGetLastError();  // clears it, so that no other library meets it
  std::string words = what + ": " + cudaGetErrorString(error) + " (" + cudaGetErrorName(error) + ")";
  if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorUnsupportedPtxVersion) words += no_code();
  if (error == cudaErrorInitializationError)
    words += "; CUDA does not survive a fork: start workers with multiprocessing's 'spawn' or 'forkserver'";
  else if (error >= cudaErrorIllegalAddress && cudaGetLastError() != cudaSuccess)  // it stays: the context is lost
    words += "; nothing runs on CUDA in this process any more: start a new one";
  throw CudaError(words);
}

bool is_forked() { return forked; }
void before_use() {
  static const int watched = pthread_atfork(nullptr, nullptr, [] { forked = true; });
  if (watched) throw CudaError("forks cannot be watched: pthread_atfork failed");
  if (forked)
    throw CudaError(
        "this process was forked from one that had used CUDA, and CUDA does not survive that: "
        "start workers with multiprocessing's 'spawn' or 'forkserver'");
}

int device_count() {
  int count = 0;  // an old driver's error leaves it untouched
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  cudaGetLastError();
  return 0;
}

bool has_tensor_cores() { return attribute(cudaDevAttrComputeCapabilityMajor) >= 8; }
bool has_warp_groups() {
  return attribute(cudaDevAttrComputeCapabilityMajor) == 9 && attribute(cudaDevAttrComputeCapabilityMinor) == 0;
}
int64_t multiprocessors() { return attribute(cudaDevAttrMultiProcessorCount); }

// Not by the runtime, whose answer makes a context on the current device.
int device_of(uintptr_t address) {
  before_use();
  CUpointer_attribute asked[] = {CU_POINTER_ATTRIBUTE_MEMORY_TYPE, CU_POINTER_ATTRIBUTE_IS_MANAGED,
                                 CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL};
  uint64_t type = 0, managed = 0;  // wider than what is written, whatever the driver takes for a boolean
  int device = -1;
  void* answers[] = {&type, &managed, &device};
  check(cudaError_t(driver().attributes(3, asked, answers, CUdeviceptr(address))), "pointer");
  return type == CU_MEMORYTYPE_DEVICE || managed ? device : -1;
}

void wait_for(CudaStream stream, CudaStream producer) {
  cudaEvent_t event;
  check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "event");
  const cudaError_t recorded = cudaEventRecord(event, native(producer));
  const cudaError_t waited = recorded ? recorded : cudaStreamWaitEvent(native(stream), event, 0);
  cudaEventDestroy(event);
  check(waited, "wait for another stream");
}

void synchronize(CudaStream stream) { check(cudaStreamSynchronize(native(stream)), "wait for a stream"); }

void read_memory(const void* from, int64_t bytes, void* host, CudaStream stream) {
  check(cudaMemcpyAsync(host, from, size_t(bytes), cudaMemcpyDefault, native(stream)), "copy to the host");
  check(cudaStreamSynchronize(native(stream)), "copy to the host");
}

void write_memory(void* to, int64_t bytes, const void* host, CudaStream stream) {
  check(cudaMemcpyAsync(to, host, size_t(bytes), cudaMemcpyDefault, native(stream)), "copy from the host");
  check(cudaStreamSynchronize(native(stream)), "copy from the host");
}

OwnedMemory::OwnedMemory(int device, int64_t bytes) : device_(device) {
  const OnDevice here(device);
  data_ = take_memory(size_t(bytes), false);
}
OwnedMemory::~OwnedMemory() {
  const OnDevice here(device_, std::nothrow);
  cudaFree(data_);
}

void OnDevice::enter(int device) {
  before_use();
  int now = 0;
  check(cudaGetDevice(&now), "device");
  if (device == now) return;
  check(cudaError_t(driver().push(context_of(device))), "device");
  pushed_ = true;
}
OnDevice::OnDevice(int device) { enter(device); }
OnDevice::OnDevice(int device, std::nothrow_t) noexcept {
  try {
    enter(device);
  } catch (const std::exception&) {  // destructors call this, and cannot report it
  }
}
OnDevice::~OnDevice() {
  CUcontext before = nullptr;
  if (pushed_) driver().pop(&before);
}

}  // namespace cbk::device
