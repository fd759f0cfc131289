// transport.hpp on the GPU.  Assignments are solved in float64 by one block each, from a cold start.  Where a cost is not
// finite, the match is the identity and the cost NaN; a match outside [0, count) makes its atom NaN.
#pragma once

#include "../cuda/stream.hpp"
#include "../random/random.hpp"

namespace cbk::device {

// Measure a of `first` against measure b of `second`: pair a * seconds + b.
template <class T>
struct Measures {
  const T* first;   // [firsts, count, size]
  const T* second;  // [seconds, count, size]
  int64_t firsts, seconds, count, size;
};

// match [pairs, count], or nullptr; cost [pairs], means over atoms.
template <class T>
void assign(const Measures<T>& measures, int64_t* match, double* cost, CudaStream stream);

template <class T>
void transport_update(const T* atoms, const T* support, const int32_t* match, T* out, int64_t particles, int64_t count,
                      int64_t size, double drift, double diffusion, double dt, NoiseKey key, CudaStream stream);

}  // namespace cbk::device
