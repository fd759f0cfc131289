// The part of the CUDA runtime's host interface that this project calls.  Device memory is host memory that the host
// may not touch: AddressSanitizer guards it outside of kernels and copies.  Streams run at once, or, with lazy_streams,
// at a synchronisation only.  Capture records a stream's work with the arguments it had, and that of streams that join
// it; a graph replays just that, in one of the orders that its dependences leave open.
//
// Tests let calls fail, and ask what contexts were made and how often the system was asked for memory.
#pragma once

#include <set>
#include <tuple>

#include "device.hpp"

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInitializationError = 3,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInsufficientDriver = 35,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorNoKernelImageForDevice = 209,
  cudaErrorUnsupportedPtxVersion = 222,
  cudaErrorInvalidResourceHandle = 400,
  cudaErrorIllegalAddress = 700,
  cudaErrorLaunchFailure = 719,
  cudaErrorCooperativeLaunchTooLarge = 720,
  cudaErrorStreamCaptureUnsupported = 900,
  cudaErrorStreamCaptureInvalidated = 901,
  cudaErrorStreamCaptureUnjoined = 904,
  cudaErrorStreamCaptureIsolation = 905,
  cudaErrorIllegalState = 401
};
enum cudaMemcpyKind {
  cudaMemcpyHostToHost,
  cudaMemcpyHostToDevice,
  cudaMemcpyDeviceToHost,
  cudaMemcpyDeviceToDevice,
  cudaMemcpyDefault
};
enum cudaMemAllocationType { cudaMemAllocationTypePinned = 1 };
enum cudaMemLocationType { cudaMemLocationTypeDevice = 1 };
struct cudaMemPoolProps {
  cudaMemAllocationType allocType;
  struct {
    cudaMemLocationType type;
    int id;
  } location;
};
enum cudaMemPoolAttr { cudaMemPoolAttrReleaseThreshold = 4, cudaMemPoolAttrReservedMemCurrent = 5 };
struct cudaDeviceProp {
  char name[256];
  int major, minor;
};
struct cudaFuncAttributes {
  size_t sharedSizeBytes;
};
#define CUDART_VERSION 13000
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97
};

namespace cbk::emulation {

struct Node {
  std::function<cudaError_t()> work;
  std::vector<size_t> after;  // nodes before it in the graph
};
using Work = std::vector<Node>;

struct Capture {
  Work nodes;
  bool invalidated = false;  // something that cannot be recorded was asked for meanwhile
};

struct Stream {
  std::deque<std::function<void()>> work;
  std::shared_ptr<Capture> capture;  // what is recorded instead of run; streams that joined share it
  std::vector<size_t> last;          // the nodes that the next one follows
  int device = 0;
};
struct Pool;

struct Ledger {
  int system_allocations = 0, pools = 0;
  int shared_settings = 0;  // calls of cudaFuncSetAttribute
  std::set<int> contexts;   // devices that have one
};
const Ledger& ledger();
void set_devices(int count);  // whose contexts are forgotten
// From now on the call of this name, or with "" every call, fails; with cudaSuccess none.
void fail_calls(const std::string& name, cudaError_t error);

struct Event {
  std::shared_ptr<bool> done = std::make_shared<bool>(true);  // whether what was recorded has run
  Stream* on = nullptr;
  std::weak_ptr<Capture> capture;  // or where it stands in a capture
  std::vector<size_t> nodes;
};

// What the program has asked of the runtime, for tests that count; work of replayed graphs too.
struct Counts {
  size_t allocations = 0, instantiations = 0, graph_launches = 0, graph_nodes = 0, kernels = 0, chained = 0,
         copies_to_device = 0, copies_to_host = 0;
};
inline Counts counts;

constexpr size_t shared_default = 48 << 10;
inline size_t shared_most() {  // sm_75's, sm_86's, sm_90's
  const int major = machine().options.capability;
  return size_t(major < 8 ? 64 : major < 9 ? 99 : 227) << 10;
}

// Runs work, now or later, or records it; its error is the call's where it runs at once.
cudaError_t enqueue(Stream* stream, std::function<cudaError_t()> work);
cudaError_t launch(const void* kernel, dim3 grid, dim3 block, size_t dynamic_bytes, Stream* stream, bool cooperative,
                   std::function<void()> body);

}  // namespace cbk::emulation

using cudaStream_t = cbk::emulation::Stream*;
using cudaEvent_t = cbk::emulation::Event*;
using cudaMemPool_t = cbk::emulation::Pool*;
using cudaGraph_t = cbk::emulation::Work*;
using cudaGraphExec_t = cbk::emulation::Work*;
enum cudaStreamCaptureMode {
  cudaStreamCaptureModeGlobal,
  cudaStreamCaptureModeThreadLocal,
  cudaStreamCaptureModeRelaxed
};
constexpr unsigned cudaEventDisableTiming = 2, cudaStreamNonBlocking = 1;

const char* cudaGetErrorString(cudaError_t error);
const char* cudaGetErrorName(cudaError_t error);
cudaError_t cudaGetLastError();  // of lazy work too; forgets it
cudaError_t cudaMalloc(void** p, size_t bytes);
cudaError_t cudaFree(void* p);
cudaError_t cudaMallocFromPoolAsync(void** p, size_t bytes, cudaMemPool_t pool, cudaStream_t stream);
cudaError_t cudaFreeAsync(void* p, cudaStream_t stream);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream = nullptr);
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind);
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream = nullptr);
cudaError_t cudaMallocHost(void** p, size_t bytes);
cudaError_t cudaFreeHost(void* p);
cudaError_t cudaStreamCreate(cudaStream_t* stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaDeviceSynchronize();
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaRuntimeGetVersion(int* version);
cudaError_t cudaMemGetInfo(size_t* free, size_t* all);
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* kernel);
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int bytes);

cudaError_t cudaMemPoolCreate(cudaMemPool_t* pool, const cudaMemPoolProps* properties);
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value);
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value);
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, size_t kept);
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* kernel, int threads,
                                                          size_t dynamic_bytes);

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);

template <class T>
cudaError_t cudaMalloc(T** p, size_t bytes) {
  return cudaMalloc(reinterpret_cast<void**>(p), bytes);
}

// The driver's own interface, as far as it is used.
using CUresult = cudaError_t;
using CUcontext = struct CUctx_st*;
using CUdeviceptr = uintptr_t;
enum CUpointer_attribute {
  CU_POINTER_ATTRIBUTE_MEMORY_TYPE = 2,
  CU_POINTER_ATTRIBUTE_IS_MANAGED = 8,
  CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL = 9
};
constexpr uint64_t CU_MEMORYTYPE_DEVICE = 2, cudaEnableDefault = 0;
CUresult cuDevicePrimaryCtxRetain(CUcontext* context, int device);
CUresult cuCtxPushCurrent(CUcontext context);
CUresult cuCtxPopCurrent(CUcontext* context);
CUresult cuPointerGetAttributes(unsigned count, CUpointer_attribute* asked, void** answers, CUdeviceptr p);
cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned version,
                                             unsigned long long flags);
