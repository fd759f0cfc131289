// random.hpp on the GPU: the same numbers, bit for bit.
#pragma once

#include "../cuda/stream.hpp"
#include "random.hpp"

namespace cbk::device {

template <class T>
void standard_normal(T* out, int64_t rows, int64_t columns, NoiseKey key, CudaStream stream);

}  // namespace cbk::device
