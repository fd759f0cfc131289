// A CUDA stream as the bindings pass it: the headers of the drivers need no CUDA.
#pragma once

#include <cstdint>

namespace cbk::device {

struct CudaStream {
  uintptr_t handle;
};

}  // namespace cbk::device
