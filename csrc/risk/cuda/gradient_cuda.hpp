// What the parts of gradient_cuda.cu share.
#pragma once

#include "risk_cuda.hpp"
#include "tile_cuda.hpp"

namespace cbk::device {

constexpr int64_t slope_chunk = 1024;  // samples that a warp sums
constexpr int64_t slope_inputs = 16;   // with up to so many inputs, delta x is summed together with delta and e h
constexpr int64_t lane_chunk = 512;    // samples that a lane sums

// slopes_cuda.cu: z, or what gives it, becomes delta, zeros behind the samples, where b.hidden is kept; sums over
// samples of e h for each output, delta, and delta x for `inputs` inputs, to sums [chunks][particles * width][outputs +
// 1 + inputs]. columns: x by inputs, [inputs][b.hidden_pitch].  Returns the number of chunks.
template <class T>
int64_t launch_neuron_slopes(const Batch<T>& b, const T* columns, int64_t inputs, T* sums, cudaStream_t stream);

// lane_slopes_cuda.cu: the same sums for one output and at most slope_inputs inputs, from x as it stands.
template <class T>
int64_t launch_lane_slopes(const Batch<T>& b, T* sums, cudaStream_t stream);

// tensor_cuda.cu: gradient of the first layer = (or += unless fresh) delta times x.
void launch_tensor_slopes(const Batch<float>& b, const float* columns, bool fresh, float* gradient, Precision precision,
                          cudaStream_t stream);

}  // namespace cbk::device
