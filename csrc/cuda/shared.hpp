// How much shared memory there is.
#pragma once

#include "gpu.hpp"

namespace cbk::device {

// Bytes that a launch may give each block of a kernel on the current device (memory.cu).
size_t most_shared(const void* kernel);

}  // namespace cbk::device
