// The centre's values on the samples, and the risks of draws around it.
#pragma once

#include "spans_cuda.hpp"

namespace cbk::device {

// Directions b, or the numbers e that make them.
template <class T>
struct Directions {
  T* numbers;  // [draws * rank][inputs], of each row the first `length`
  const T* x;
  int64_t samples, inputs;
  Span<T> span;  // no pointers: none

  __device__ __forceinline__ bool spanned() const { return span.positive && *span.positive; }
  __device__ __forceinline__ int64_t length() const { return spanned() ? samples : inputs; }
};

// Samples lie side by side: a thread has one.
template <class T>
struct Lines {
  Network net;
  Loss loss;
  const T* center;
  int64_t samples;
  const T* y;
  const int32_t* labels;
  const T* weights;  // of mean 1, or nullptr
  T *z, *hidden;     // [width][samples]: w x + b, sigma of it
  T* outputs;        // [outputs][samples]
  T *excess,
      *highest;  // cross entropy: [outputs][samples] exp(out_k - out_label), 0 at the label; the largest difference
  bool mirrored;
  T spread;
  const DrawNumbers<T>* now;  // or nullptr: `spread`
  int64_t rank;
  // some draws
  int64_t first, draws;
  const T *factor, *along, *rest;  // [draws][rank][width], [draws][rank][samples], [draws][rest_size]
  // all of them
  int64_t rows;
  double* out;  // [rows] or [rows][width]

  __host__ __device__ int64_t signs() const { return mirrored ? 2 : 1; }
  __device__ __forceinline__ T current_spread() const { return now ? now->spread : spread; }
  // Where the risk of draw p is, with its sign.
  __host__ __device__ int64_t row(int64_t p, int64_t sign) const { return sign * (rows / 2) + first + p; }
  __device__ __forceinline__ const T* rest_of(int64_t p) const { return rest + p * (net.size() - net.biases()); }
};

template <class T>
struct CenterMemory {
  Workspace<T> z, hidden, outputs, excess, highest;
  CenterMemory(const RiskProblem<T>& problem, cudaStream_t stream)
      : z(problem.net.width * problem.samples, stream),
        hidden(problem.net.width * problem.samples, stream),
        outputs(problem.net.outputs * problem.samples, stream),
        excess(problem.labels ? problem.net.outputs * problem.samples : 0, stream),
        highest(problem.labels ? problem.samples : 0, stream) {}
};

template <class T>
Lines<T> center_lines(const RiskProblem<T>& problem, int64_t rank, const T* weights, const CenterMemory<T>& memory,
                      cudaStream_t stream);
// Mean losses of the draws at hand, of the centre with one neuron replaced or of whole networks.
template <class T>
void launch_atoms(const Lines<T>& lines, cudaStream_t stream);
template <class T>
void launch_networks(const Lines<T>& lines, cudaStream_t stream);

}  // namespace cbk::device
