// Whether kernels can run here, and if not, why: facts for python/cbokernels/cuda.py.
#include "gpu.hpp"

#if defined(__CUDACC__)
#include <dlfcn.h>
#endif

#if !defined(CBK_ARCHITECTURES)
#define CBK_ARCHITECTURES "the emulation"
#endif

namespace cbk::device {
namespace {

constexpr int answer = 42;
CBK_KERNEL(32) write_answer(int* to) {
  if (threadIdx.x == 0) *to = answer;
}

// Why a kernel does not run on a device; empty where it does.
std::string try_kernel(int device) {
  try {
    const OnDevice here(device);
    const DeviceBuffer<int> memory(1);
    int found = 0;
    launch(write_answer, dim3(1), dim3(32), 0, nullptr, memory.data());
    check(cudaMemcpy(&found, memory.data(), sizeof found, cudaMemcpyDeviceToHost), "kernel");
    return found == answer ? "" : "a kernel ran and gave a wrong result";
  } catch (const CudaError& error) {
    return error.what();
  }
}

}  // namespace

const char* architectures() { return CBK_ARCHITECTURES; }

Findings look(bool launch) {
  Findings found{};
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  found.error = int(error), found.name = cudaGetErrorName(error), found.words = cudaGetErrorString(error);
  if (cudaDriverGetVersion(&found.driver)) found.driver = 0;
  if (cudaRuntimeGetVersion(&found.runtime)) found.runtime = 0;
  cudaGetLastError();
  if (error) return found;
  before_use();
  for (int device = 0; device < count; ++device) {
    cudaDeviceProp card{};
    check(cudaGetDeviceProperties(&card, device), "device");
    found.cards.push_back({card.name, card.major, card.minor, launch ? try_kernel(device) : ""});
  }
  return found;
}

// Nothing here initialises the driver, as the runtime's functions do: a process that has not may still fork.
Driver driver_state() {
#if defined(__CUDACC__)
  void* const library = dlopen("libcuda.so.1", RTLD_LAZY);
  using Count = int (*)(int*);
  const Count devices = library ? reinterpret_cast<Count>(dlsym(library, "cuDeviceGetCount")) : nullptr;
  if (!devices) return Driver::absent;
  int count = 0;
  return devices(&count) == cudaErrorInitializationError ? Driver::idle : Driver::in_use;
#else
  return Driver::in_use;
#endif
}

}  // namespace cbk::device
