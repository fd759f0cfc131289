// Outputs and risks of N two-layer networks on one batch.
//
//   forward  out[n, s, c] = g_c(x_s; theta_n)
//   risk     R[n, t] = (1/S) sum_s L(y_ts, g(x_s; theta_n)),  t over tasks that share x
//            L: common/loss.hpp; with weights R[n, t] = sum_s w_s L / sum_s w_s, or 0 where all of them are 0
//
// Hidden activations live in registers and a few KB of L1, never in an array over particles or samples.  Products are
// summed in the particles' type, in blocks of at most 256 terms; losses are summed over samples in float64.  The
// division of the work depends on shapes alone, so the bits do not depend on the number of threads.
#pragma once

#include <cstdint>

#include "../network/network.hpp"

namespace cbk {

constexpr int64_t direct_inputs = 48;  // above, products are as fast

// The ways to outputs, risks and gradients, a folder for each; plan_cpu.cpp chooses.
enum class Path {
  knots,     // sums between the knots of piecewise linear networks, without a pass over the samples
  direct,    // one output and at most direct_inputs: neurons are streamed past samples held in registers
  lists,     // products of the inputs that are not zero
  products,  // products of matrices
};

// How a batch is divided.  Samples are packed in panels, [panel][input][panel_samples].  A chunk of panels and a group
// of particles make one task.  A task walks through the neurons in ranges whose weights stay in L2.
struct RiskPlan {
  Path path;       // not knots, which have no use for a plan
  int64_t panel;   // samples in a panel
  int64_t chunk;   // samples in a chunk, a multiple of panel
  int64_t chunks;  // chunks that are packed at once
  int64_t group;   // particles in a task
  int64_t range;   // neurons in a range
};

constexpr int64_t neuron_block = 64;  // neurons of which one panel is held in L1
constexpr int64_t list_tile = 128;    // samples whose sums lists.hpp holds, whole panels

// The non-zero inputs of a chunk's samples, in ranges of inputs.
template <class T>
struct InputLists {
  int64_t range;  // inputs in a range
  int64_t samples;
  const int32_t* start;  // [ranges * samples + 1]: where each list starts, range by range
  const int32_t* line;   // the input, counted within its range
  const T* value;
};

template <class T>
struct PackedChunk {
  int64_t samples;          // those that count; the last panel is padded with zeros
  const T* x;               // [panels][inputs][panel]
  const T* y;               // [tasks][panels][target rows][panel]; labels as numbers
  const T* weights;         // nullptr, or [panels][panel]: of mean 1 over all samples, padded with zeros
  InputLists<T> rows = {};  // in place of x where the path is by lists
};

template <class T>
struct RiskTask {
  const Network* net;
  const RiskPlan* plan;
  Loss loss;
  int64_t tasks;
  const T* theta;  // the group's first particle
  int64_t particles;
  PackedChunk<T> chunk;
  T* scratch;    // scratch_size elements
  double* sums;  // [particles][tasks]: sums of losses are added here
  T* outputs;    // nullptr, or [particles][outputs_stride / outputs][outputs] of the chunk's first sample
  int64_t outputs_stride;
};

// One instruction set's part.
template <class T>
struct RiskKernels {
  int64_t lanes;
  int64_t list_block;  // neurons that lists.hpp takes at a time
  int64_t (*scratch_size)(const Network& net, const RiskPlan& plan);
  void (*evaluate)(const RiskTask<T>& task);
  // packed [columns][count] of so many rows, whole vectors, zeros for a nullptr; lines are `stride` numbers apart.  The
  // same in float64 where wide is not nullptr.
  void (*pack)(const T* const* rows, int64_t count, int64_t columns, T* packed, double* wide, int64_t stride);
};

// Gradients: one particle (a group on lists) and one chunk a task.  Hidden activations are kept between the passes
// forward and backward, so that every product is computed once (but not where wide); sums over samples run over a chunk
// in the particles' type.
struct GradientPlan {
  Path path;            // not knots
  bool wide;            // where direct: too many neurons to keep anything of the first pass
  bool forward_direct;  // products on the way back alone: of one output and at most direct_inputs
  int64_t group;        // particles in a task; 1 unless on lists
  int64_t panel;        // samples in a panel
  int64_t tile;         // samples that go backward together, a multiple of panel
  int64_t chunk;        // samples in a chunk, a multiple of tile
  int64_t chunks;       // chunks that are packed at once
};

template <class T>
struct GradientTask {
  const Network* net;
  const GradientPlan* plan;
  Loss loss;
  const T* theta;  // the group's first particle
  int64_t particles;
  PackedChunk<T> chunk;
  InputLists<T> columns;  // on lists: for each tile of samples and each input, the samples where it is not zero
  const T* strips;        // [ceil(inputs / strip)][chunk][strip]: x by columns, strip = 2 lanes (for products)
  T factor;               // 1 / S
  T* scratch;
  double* sum;      // [particles]: the losses' sums are added here
  T* gradient;      // [particles][size]
  bool accumulate;  // add to what stands there
};

template <class T>
struct GradientKernels {
  int64_t lanes;
  int64_t list_block;
  int64_t (*scratch_size)(const Network& net, const GradientPlan& plan);
  void (*evaluate)(const GradientTask<T>& task);
};

template <class T>
struct Draw;  // hopping/hopping.hpp

// y: [tasks, samples, outputs] where the loss compares with values; labels: [tasks, samples] where with labels.
template <class T>
struct RiskProblem {
  Network net;
  Loss loss;
  const T* theta;  // [particles, net.size()], or unused where the particles are drawn
  int64_t particles;
  const T* x;  // [samples, net.inputs]
  int64_t samples;
  const T* y;
  const int32_t* labels;
  int64_t tasks;                  // 0: outputs alone are wanted
  const T* weights = nullptr;     // [samples], not negative, of whatever sum; or nullptr: all alike
  const int64_t* rows = nullptr;  // low_rank_gradient alone: sample s has inputs x[rows[s]]; nullptr: x[s]
  const Draw<T>* draw = nullptr;  // an ensemble that is never stored: each group of particles is drawn where it is used

  const T* inputs_of(int64_t s) const { return x + (rows ? rows[s] : s) * net.inputs; }
};

template <class T>
void forward(const RiskProblem<T>& problem, T* out, int num_threads);
template <class T>
void risk(const RiskProblem<T>& problem, double* out, int num_threads);
// Particle n on task n of N alone: out [N].  Its x stand at x + n x_stride, which is 0 where all share them.
template <class T>
void own_risks(const RiskProblem<T>& problem, int64_t x_stride, double* out, int num_threads);
// One task: out [N] and gradient [N, size] of the risks.
template <class T>
void risk_gradient(const RiskProblem<T>& problem, double* out, T* gradient, int num_threads);

}  // namespace cbk
