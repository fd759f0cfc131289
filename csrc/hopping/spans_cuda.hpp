// Spans of batches, found before the steps that use them, and the steps' kernels.
//
// A step's kernels read the number of the step and the spread from device memory where the draw says so, and so they do
// of a span: the host does not know whether the Gram matrix was positive.  Where it was not the kernels take free
// directions by themselves.  Draws are made where they are needed, some MB of them at a time.
#pragma once

#include "../cuda/gpu.hpp"
#include "low_rank_cuda.hpp"

namespace cbk::device {

inline int64_t drawn_numbers = int64_t(1) << 24;  // of draws that are kept at a time

// A batch's span.
template <class T>
struct Span {
  const T* map;             // [samples][samples]: X b at sample s is sum_j map[s, j] e_j
  const double* inverse;    // [samples][samples]: L^-1, its upper triangle undefined
  const int32_t* positive;  // or 0: there is no span, and directions are free

  static bool there_is(const LowRank& noise, const Network& net, int64_t samples) {
    return noise.batch && samples < net.inputs;
  }
};

// The spans of some batches of up to `samples` samples.
template <class T>
class Spans {
 public:
  Spans() = default;
  Spans(int64_t batches, int64_t samples)
      : batches_(batches),
        samples_(samples),
        map_(batches * samples * samples),
        inverse_(batches * samples * samples),
        positive_(batches) {}

  static int64_t bytes(int64_t samples) { return samples * samples * int64_t(sizeof(T) + 2 * sizeof(double)); }
  int64_t batches() const { return batches_; }
  Span<T> at(int64_t i) const {
    const int64_t first = i * samples_ * samples_;
    return {map_.data() + first, inverse_.data() + first, positive_.data() + i};
  }
  // Of the `count` batches x [count][samples][inputs] from number `first` on, at once.
  void find(const T* x, int64_t inputs, int64_t samples, int64_t first, int64_t count, cudaStream_t stream);

 private:
  int64_t batches_ = 0, samples_ = 0;
  DeviceBuffer<T> map_;
  DeviceBuffer<double> inverse_;
  DeviceBuffer<int32_t> positive_;
};

// As in low_rank_cuda.hpp.  span: nullptr, or that of the problem's x where there_is one.
template <class T>
void low_rank_risks(const RiskProblem<T>& problem, const LowRank& noise, bool atoms, const Span<T>* span, double* out,
                    CudaStream stream);
template <class T>
void low_rank_drift(const RiskProblem<T>& problem, const LowRank& noise, bool atoms, const Span<T>* span,
                    const double* weights, double* out, CudaStream stream);
template <class T>
void fit_weights(const RiskProblem<T>& problem, const LowRank& noise, const Span<T>* span, const double* risk,
                 double* weights, double* ess, CudaStream stream);

}  // namespace cbk::device
