// Memory of a device that Python owns.
#pragma once

#include "device.hpp"

namespace cbk::device {

class OwnedMemory {  // taking it and giving it back wait for the device
 public:
  OwnedMemory(int device, int64_t bytes);
  ~OwnedMemory();
  OwnedMemory(const OwnedMemory&) = delete;
  OwnedMemory& operator=(const OwnedMemory&) = delete;
  void* data() const { return data_; }

 private:
  int device_;
  void* data_;
};

void write_memory(void* to, int64_t bytes, const void* host, CudaStream stream);  // after the stream's work; waits

}  // namespace cbk::device
