// What the bindings need of the CUDA runtime, without its headers.
#pragma once

#include "stream.hpp"

namespace cbk::device {

bool has_tensor_cores();  // the current device: of tf32 and bf16, sm_80 and later
bool has_warp_groups();   // that multiply together: sm_90 alone
int64_t multiprocessors();  // of the current device
int device_count();  // 0 without a driver
int device_of(uintptr_t address);  // of CUDA memory; -1 for any other
void wait_for(CudaStream stream, CudaStream producer);  // what `stream` does next follows what `producer` has been given
void read_memory(const void* from, int64_t bytes, void* host, CudaStream stream);  // after the stream's work; waits

// The calling thread's device, for as long as this lives.
class OnDevice {
 public:
  explicit OnDevice(int device);
  ~OnDevice();
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int before_ = 0, device_;
};

}  // namespace cbk::device
