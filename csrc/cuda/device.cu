#include "gpu.hpp"

#include "device.hpp"
#include "rows.hpp"

namespace cbk::device {

int device_count() {
  int count = 0;  // an old driver's error leaves it untouched
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  cudaGetLastError();
  return 0;
}

namespace {
int attribute(cudaDeviceAttr which) {
  int device = 0, value = 0;
  check(cudaGetDevice(&device), "device");
  check(cudaDeviceGetAttribute(&value, which, device), "device");
  return value;
}
}  // namespace

bool has_tensor_cores() { return attribute(cudaDevAttrComputeCapabilityMajor) >= 8; }
bool has_warp_groups() {
  return attribute(cudaDevAttrComputeCapabilityMajor) == 9 && attribute(cudaDevAttrComputeCapabilityMinor) == 0;
}
int64_t multiprocessors() { return attribute(cudaDevAttrMultiProcessorCount); }

int device_of(uintptr_t address) {
  cudaPointerAttributes attributes{};
  if (cudaPointerGetAttributes(&attributes, reinterpret_cast<const void*>(address)) != cudaSuccess) {
    cudaGetLastError();
    return -1;
  }
  return attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged ? attributes.device : -1;
}

void wait_for(CudaStream stream, CudaStream producer) {
  cudaEvent_t event;
  check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "event");
  const cudaError_t recorded = cudaEventRecord(event, native(producer));
  const cudaError_t waited = recorded ? recorded : cudaStreamWaitEvent(native(stream), event, 0);
  cudaEventDestroy(event);
  check(waited, "wait for another stream");
}

void read_memory(const void* from, int64_t bytes, void* host, CudaStream stream) {
  check(cudaMemcpyAsync(host, from, size_t(bytes), cudaMemcpyDefault, native(stream)), "copy to the host");
  check(cudaStreamSynchronize(native(stream)), "copy to the host");
}

OnDevice::OnDevice(int device) : device_(device) {
  check(cudaGetDevice(&before_), "device");
  if (device_ != before_) check(cudaSetDevice(device_), "device");
}
OnDevice::~OnDevice() {
  if (device_ != before_) cudaSetDevice(before_);
}

}  // namespace cbk::device
