#include <map>
#include <mutex>

#include "gpu.hpp"
#include "shared.hpp"

namespace cbk::device {
namespace {

int current_device() {
  int device = 0;
  check(cudaGetDevice(&device), "device");
  return device;
}

struct Pools {
  std::mutex mutex;
  std::map<int, cudaMemPool_t> of;  // a device
};
Pools& pools() {
  static Pools& the = *new Pools;  // never destroyed: at exit the driver may be gone already
  return the;
}

cudaMemPool_t make_pool(int device) {
  cudaMemPoolProps properties{};
  properties.allocType = cudaMemAllocationTypePinned;
  properties.location.type = cudaMemLocationTypeDevice;
  properties.location.id = device;
  // the caller may be capturing a stream: this is no part of that, and is not forbidden by it
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  check(cudaThreadExchangeStreamCaptureMode(&mode), "capture");
  cudaMemPool_t pool = nullptr;
  uint64_t kept = kept_bytes;
  cudaError_t error = cudaMemPoolCreate(&pool, &properties);
  if (!error) error = cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &kept);
  check(cudaThreadExchangeStreamCaptureMode(&mode), "capture");
  check(error, "memory pool");
  return pool;
}

// Of the device, or nullptr where none has been needed and is not `wanted`.
cudaMemPool_t pool_of(int device, bool wanted) {
  const std::lock_guard lock(pools().mutex);
  const auto found = pools().of.find(device);
  if (found != pools().of.end()) return found->second;
  return wanted ? pools().of[device] = make_pool(device) : nullptr;
}

[[noreturn]] void lacks(cudaError_t error, const char* what, size_t bytes) {
  std::string words = std::string(what) + " of " + std::to_string(bytes) + " bytes";
  size_t free = 0, all = 0;
  if (error == cudaErrorMemoryAllocation && cudaMemGetInfo(&free, &all) == cudaSuccess)
    words += ", where " + std::to_string(free) + " of " + std::to_string(all) + " are free on device " +
             std::to_string(current_device());
  fail(error, words);
}

struct Allowed {
  std::mutex mutex;
  std::map<std::pair<const void*, int>, size_t> bytes;  // of a kernel on a device
};

}  // namespace

void* take_memory(size_t bytes, bool pinned) {
  const auto take = [&](void** p) { return pinned ? cudaMallocHost(p, bytes) : cudaMalloc(p, bytes); };
  void* data = nullptr;
  cudaError_t error = take(&data);
  if (error == cudaErrorMemoryAllocation && !pinned) {
    cudaGetLastError();
    if (const cudaMemPool_t pool = pool_of(current_device(), false)) cudaMemPoolTrimTo(pool, 0);
    error = take(&data);
  }
  if (error) lacks(error, pinned ? "pinned memory of a run" : "memory of a run", bytes);
  return data;
}

void* take_workspace(size_t bytes, cudaStream_t stream) {
  void* data = nullptr;
  const cudaMemPool_t pool = pool_of(current_device(), true);
  if (const cudaError_t error = cudaMallocFromPoolAsync(&data, bytes, pool, stream)) lacks(error, "workspace", bytes);
  return data;
}

int64_t held_memory(int device) {
  uint64_t bytes = 0;
  if (const cudaMemPool_t pool = pool_of(device, false))
    check(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrReservedMemCurrent, &bytes), "memory pool");
  return int64_t(bytes);
}

void trim_memory(int device) {
  const cudaMemPool_t pool = pool_of(device, false);
  if (!pool) return;
  const OnDevice here(device);
  check(cudaDeviceSynchronize(), "memory pool");  // what work still has, or may have, is not given back
  check(cudaMemPoolTrimTo(pool, 0), "memory pool");
}

size_t most_shared(const void* kernel) {
  cudaFuncAttributes own{};
  int all = 0;
  check(cudaFuncGetAttributes(&own, kernel), "shared memory");
  check(cudaDeviceGetAttribute(&all, cudaDevAttrMaxSharedMemoryPerBlockOptin, current_device()), "shared memory");
  return size_t(all) - own.sharedSizeBytes;
}

void allow_shared(const void* kernel, size_t bytes) {
  static Allowed& allowed = *new Allowed;
  const std::lock_guard lock(allowed.mutex);
  size_t& most = allowed.bytes[{kernel, current_device()}];
  if (bytes <= most) return;
  const size_t given = most_shared(kernel);
  if (bytes > given)
    throw CudaError("shared memory: a block needs " + std::to_string(bytes) + " bytes, and the card has " +
                    std::to_string(given));
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(given)), "shared memory");
  most = given;
}

}  // namespace cbk::device
