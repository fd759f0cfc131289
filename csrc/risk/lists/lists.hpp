// The first layer on a batch with many zeros: each sample is a list of its non-zero inputs, and vectors run over
// neurons.
//
// A block of neurons' weights is transposed once a task, [inputs][block].  Lists are ordered by ranges of inputs so
// narrow that a range's weights stay in L1 while all samples of a tile pass; each range has its own sums, which bounds
// the rounding error as in product.hpp.
#pragma once

#include "../../common/transpose.hpp"
#include "../risk.hpp"

namespace cbk::CBK_ISA {

constexpr int list_vectors = 10;  // of neurons in a block: as many sums hide the latency
template <class T>
constexpr int64_t list_block = list_vectors * lanes<T>;

// z[block] += sum_i value[i] lines[line[i]][block]
template <class T>
CBK_INLINE void add_lines(const T* lines, const int32_t* line, const T* value, int64_t count, T* z) {
  using V = Vector<T>;
  V sum[list_vectors] = {};
  for (int64_t i = 0; i < count; ++i) {
    const V x = splat<V>(value[i]);
    const T* from = lines + int64_t(line[i]) * list_block<T>;
    asm("" : "+r"(from));  // one address with displacements, else GCC keeps ten in registers and on the stack
#pragma GCC unroll 10
    for (int j = 0; j < list_vectors; ++j) sum[j] = mad(x, load(from + j * lanes<T>), sum[j]);
  }
#pragma GCC unroll 10
  for (int j = 0; j < list_vectors; ++j) store(z + j * lanes<T>, load(z + j * lanes<T>) + sum[j]);
}

// A block of neurons, of one particle or of several in turn; those behind the last one have no weights and no bias.
template <class T>
struct NeuronBlock {
  const T* row[list_block<T>];  // each neuron's weights [inputs]
  T bias[list_block<T>];
  T* weights;  // [inputs][block]
};

template <class T>
void gather_block(const Network& net, const T* theta, int64_t first, int64_t neurons, NeuronBlock<T>& block) {
  constexpr int64_t L = lanes<T>;
  for (int64_t i = 0; i < list_block<T>; ++i) {
    const int64_t p = (first + i) / net.width, m = (first + i) % net.width;
    const bool there = first + i < neurons;
    block.row[i] = there ? theta + p * net.size() + m * net.inputs : nullptr;
    block.bias[i] = there ? theta[p * net.size() + net.biases() + m] : T(0);
  }
  for (int64_t k = 0; k < net.inputs; k += L)
    for (int64_t i = 0; i < list_block<T>; i += L)
      transpose_tile(block.row + i, k, net.inputs - k, block.weights + k * list_block<T> + i, list_block<T>);
}

// z[s][block] = w x + b for samples [first, first + count) of the lists.
template <class T>
void list_product(const InputLists<T>& rows, int64_t first, int64_t count, const NeuronBlock<T>& block, int64_t inputs,
                  T* z) {
  for (int64_t s = 0; s < count; ++s) std::memcpy(z + s * list_block<T>, block.bias, sizeof block.bias);
  for (int64_t range = 0, k = 0; k < inputs; ++range, k += rows.range) {
    const int32_t* start = rows.start + range * rows.samples + first;
    for (int64_t s = 0; s < count; ++s)
      if (start[s + 1] > start[s])
        add_lines(block.weights + k * list_block<T>, rows.line + start[s], rows.value + start[s],
                  start[s + 1] - start[s], z + s * list_block<T>);
  }
}

// hidden[neuron][stride] from z[s][block] for a panel of samples; those behind `count` are 0.
template <class T>
void transpose_samples(const T* z, int64_t count, int64_t panel, int64_t stride, T* hidden) {
  constexpr int64_t L = lanes<T>;
  for (int64_t s = 0; s < panel; s += L) {
    const T* row[L];
    for (int64_t i = 0; i < L; ++i) row[i] = s + i < count ? z + (s + i) * list_block<T> : nullptr;
    for (int64_t f = 0; f < list_block<T>; f += L) transpose_tile(row, f, L, hidden + f * stride + s, stride);
  }
}

template <class T>
int64_t list_scratch(const Network& net, int64_t panel) {
  return list_block<T> * (net.inputs + list_tile + panel);
}

}  // namespace cbk::CBK_ISA
