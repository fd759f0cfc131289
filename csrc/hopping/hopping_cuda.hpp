// hopping.hpp on the GPU; the risks of drawn ensembles are risk_cuda.hpp's.  All arrays are device memory.
#pragma once

#include "../cuda/stream.hpp"
#include "hopping.hpp"

namespace cbk::device {

template <class T>
void atom_risks(const RiskProblem<T>& problem, const T* center, double* out, CudaStream stream);
// Given `now`, in device memory, its step counts and not the key's.
template <class T>
void noise_drift(const double* weights, int64_t rows, int64_t atoms, const int32_t* atom, NoiseKey key, int64_t size,
                 double* out, CudaStream stream, const DrawNumbers<T>* now = nullptr);

}  // namespace cbk::device
