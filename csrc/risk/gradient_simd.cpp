// The inner kernels of the risks' gradients, compiled once per instruction set.
//
//   e_cs = (1/S) dL/dg_c,  delta_ms = s (sum_c c_cm e_cs) sigma'(z_ms)
//   dR/dc_cm = s sum_s e_cs h_ms,  dR/db_m = sum_s delta_ms,  dR/dw_mk = sum_s delta_ms x_sk,  dR/da_c = sum_s e_cs
#include "../common/activation.hpp"
#include "../common/loss.hpp"
#include "direct_gradient.hpp"
#include "outputs.hpp"
#include "product.hpp"
#include "risk.hpp"
#include "sparse.hpp"
#include "wide_gradient.hpp"

namespace cbk::CBK_ISA {
namespace {

// sum_i a_i b_i, and sum_i a_i, over `count` samples: float lanes, widened at the end.
template <class T>
CBK_INLINE double dot(const T* a, const T* b, int64_t count) {
  Vector<T> even{}, odd{};
  int64_t i = 0;
  for (; i + 2 * lanes<T> <= count; i += 2 * lanes<T>) {
    even = mad(load(a + i), load(b + i), even);
    odd = mad(load(a + i + lanes<T>), load(b + i + lanes<T>), odd);
  }
  return sum(add(add(F64{}, even), odd));
}

// --- any shape: products -------------------------------------------------------------------------------------------

template <class T>
struct Held {  // of one tile
  T *hidden, *slope;   // [width][tile]: sigma(z); sigma'(z), later delta
  T* output;           // [outputs][tile]: g, later e
  T* panel;            // [neuron_block][panel]
  T* weights;          // [width][strips * strip]: sums of dR/dw over the chunk (not where sparse)
  int64_t padded;      // strips * strip
};

template <class T>
Held<T> hold(const Network& net, const GradientPlan& plan, T* scratch) {
  Held<T> h;
  h.padded = (net.inputs + panel_width<T> - 1) / panel_width<T> * panel_width<T>;
  h.hidden = scratch;
  h.slope = h.hidden + net.width * plan.tile;
  h.output = h.slope + net.width * plan.tile;
  h.panel = h.output + net.outputs * plan.tile;
  h.weights = h.panel + neuron_block * plan.panel;
  return h;
}

// w x + b of the tile that starts at sample s0.
template <class T>
void tile_inputs(const GradientTask<T>& task, const Held<T>& held, int64_t s0, int64_t count) {
  const Network& net = *task.net;
  const GradientPlan& plan = *task.plan;
  for (int64_t p = 0; p < count; p += plan.panel)
    product<T>({task.theta, net.inputs, 1}, net.width, net.inputs, {task.chunk.x + (s0 + p) * net.inputs, plan.panel},
               held.hidden + p, plan.tile, {task.theta + net.biases(), false});
}

// From these: hidden activations, their derivatives and the outputs' slopes e.
template <class T>
F64 tile_forward(const GradientTask<T>& task, const Held<T>& held, int64_t s0, int64_t count, F64 losses) {
  const Network& net = *task.net;
  const GradientPlan& plan = *task.plan;
  const T* theta = task.theta;
  const int64_t rows = task.loss == Loss::mse ? net.outputs : 1;
  for (int64_t m = 0; m < net.width; ++m)
    activate_array(net.activation, held.hidden + m * plan.tile, held.slope + m * plan.tile, count);
  for (int64_t p = 0; p < count; p += plan.panel) {
    T* g = held.output + p;
    product<T>({theta + net.output_weights(), net.width, 1}, net.outputs, net.width, {held.hidden + p, plan.tile}, g,
               plan.tile, {nullptr, false});
    scale_outputs(net, theta, plan.panel, g, plan.tile);
    losses = loss_slope(task, losses, g, plan.tile, task.chunk.y + (s0 + p) * rows, task.chunk.samples - s0 - p);
  }
  return losses;
}

// delta in place of the derivatives, and the gradient of everything but the hidden weights.
template <class T>
void tile_backward(const GradientTask<T>& task, const Held<T>& held, int64_t s0, int64_t count) {
  using V = Vector<T>;
  const Network& net = *task.net;
  const GradientPlan& plan = *task.plan;
  const bool more = task.accumulate || s0 > 0;
  const T* c = task.theta + net.output_weights();
  for (int64_t k = 0; k < net.outputs; ++k) {
    const T* e = held.output + k * plan.tile;
    if (net.output_bias) put(task.gradient + net.output_biases() + k, total(e, count), more);
    for (int64_t m = 0; m < net.width; ++m)
      put(task.gradient + net.output_weights() + k * net.width + m,
          net.scale * dot(e, held.hidden + m * plan.tile, count), more);
  }
  const V scale = splat<V>(T(net.scale));
  for (int64_t p = 0; p < count; p += plan.panel) {
    for (int64_t m = 0; m < net.width; m += neuron_block) {
      const int64_t neurons = net.width - m < neuron_block ? net.width - m : neuron_block;
      product<T>({c + m, 1, net.width}, neurons, net.outputs, {held.output + p, plan.tile}, held.panel, plan.panel,
                 {nullptr, false});
      for (int64_t r = 0; r < neurons; ++r) {
        for (int64_t i = 0; i < plan.panel; i += lanes<T>) {
          T* slope = held.slope + (m + r) * plan.tile + p + i;
          store(slope, load(slope) * load(held.panel + r * plan.panel + i) * scale);
        }
      }
    }
  }
  for (int64_t m = 0; m < net.width; ++m)
    put(task.gradient + net.biases() + m, total(held.slope + m * plan.tile, count), more);
}

template <class T>
void tile_weights(const GradientTask<T>& task, const Held<T>& held, int64_t s0, int64_t count) {
  const GradientPlan& plan = *task.plan;
  for (int64_t k = 0; k < held.padded; k += panel_width<T>)
    product<T>({held.slope, plan.tile, 1}, task.net->width, count,
               {task.strips + k * plan.chunk + s0 * panel_width<T>, panel_width<T>}, held.weights + k, held.padded,
               {nullptr, s0 > 0});
}

template <class T>
F64 by_products(const GradientTask<T>& task) {
  const Network& net = *task.net;
  const GradientPlan& plan = *task.plan;
  const Held<T> held = hold(net, plan, task.scratch);
  const int64_t padded = (task.chunk.samples + plan.panel - 1) / plan.panel * plan.panel;
  F64 losses{};
  for (int64_t s = 0; s < padded; s += plan.tile) {
    const int64_t count = padded - s < plan.tile ? padded - s : plan.tile;
    tile_inputs(task, held, s, count);
    losses = tile_forward(task, held, s, count, losses);
    tile_backward(task, held, s, count);
    tile_weights(task, held, s, count);
  }
  for (int64_t m = 0; m < net.width; ++m) {
    for (int64_t k = 0; k < net.inputs; ++k) {
      const T w = held.weights[m * held.padded + k];
      T* p = task.gradient + m * net.inputs + k;
      *p = task.accumulate ? *p + w : w;
    }
  }
  return losses;
}

// --- many zeros: a block of neurons of one or several particles, from lists of inputs (sparse.hpp) -------------------

template <class T>
struct SparseHeld {
  Held<T> first;     // the first particle's; the next one's hidden and slope follow
  NeuronBlock<T> block;
  T *z, *delta;      // [tile][block], one memory: never needed together
  T* sums;           // [blocks][inputs][block]: dR/dw over the chunk
};

// Blocks that hold whole particles: `particles` of them.
template <class T>
int64_t sparse_blocks(const Network& net, int64_t particles) {
  return (particles * net.width + sparse_block<T> - 1) / sparse_block<T>;
}

template <class T>
SparseHeld<T> hold_sparse(const Network& net, const GradientPlan& plan, T* scratch) {
  const int64_t blocks = sparse_blocks<T>(net, plan.group), neurons = blocks * sparse_block<T>;
  SparseHeld<T> h;
  h.first.hidden = scratch;
  h.first.slope = h.first.hidden + neurons * plan.tile;
  h.first.output = h.first.slope + neurons * plan.tile;
  h.first.panel = h.first.output + net.outputs * plan.tile;
  h.z = h.delta = h.first.panel + neuron_block * plan.panel;
  h.block.weights = h.z + plan.tile * sparse_block<T>;
  h.sums = h.block.weights + net.inputs * sparse_block<T>;
  return h;
}

template <class T>
int64_t sparse_scratch_size(const Network& net, const GradientPlan& plan) {
  const int64_t blocks = sparse_blocks<T>(net, plan.group);
  return net.outputs * plan.tile + neuron_block * plan.panel +
         sparse_block<T> * (plan.tile * (2 * blocks + 1) + net.inputs * (blocks + 1));
}

template <class T>
void by_lists(const GradientTask<T>& task) {
  const Network& net = *task.net;
  const GradientPlan& plan = *task.plan;
  const int64_t neurons = task.particles * net.width, blocks = sparse_blocks<T>(net, task.particles);
  SparseHeld<T> held = hold_sparse(net, plan, task.scratch);
  const int64_t samples = task.chunk.samples;
  for (int64_t i = 0; i < blocks * net.inputs * sparse_block<T>; i += lanes<T>) store(held.sums + i, Vector<T>{});
  for (int64_t s = 0; s < samples; s += plan.tile) {
    const int64_t count = samples - s < plan.tile ? samples - s : plan.tile;
    const int64_t padded = (count + plan.panel - 1) / plan.panel * plan.panel;
    for (int64_t b = 0; b < blocks; ++b) {
      if (blocks > 1 || s == 0) gather_block(net, task.theta, b * sparse_block<T>, neurons, held.block);
      sparse_product(task.chunk.rows, s, count, held.block, net.inputs, held.z);
      for (int64_t i = 0; i < padded; i += plan.panel)
        transpose_samples(held.z + i * sparse_block<T>, count - i, plan.panel, plan.tile,
                          held.first.hidden + b * sparse_block<T> * plan.tile + i);
    }
    for (int64_t p = 0; p < task.particles; ++p) {
      GradientTask<T> own = task;
      own.theta += p * net.size(), own.gradient += p * net.size();
      Held<T> of = held.first;
      of.hidden += p * net.width * plan.tile, of.slope += p * net.width * plan.tile;
      task.sum[p] += sum(tile_forward(own, of, s, padded, F64{}));
      tile_backward(own, of, s, padded);
    }
    for (int64_t b = 0; b < blocks; ++b) {
      const T* row[sparse_block<T>];
      for (int64_t i = 0; i < sparse_block<T>; ++i) {
        const int64_t f = b * sparse_block<T> + i;
        row[i] = f < neurons ? held.first.slope + f * plan.tile : nullptr;
      }
      for (int64_t i = 0; i < padded; i += lanes<T>)
        for (int64_t f = 0; f < sparse_block<T>; f += lanes<T>)
          transpose_tile(row + f, i, lanes<T>, held.delta + i * sparse_block<T> + f, sparse_block<T>);
      const int32_t* start = task.columns.start + s / plan.tile * net.inputs;
      for (int64_t k = 0; k < net.inputs; ++k)
        if (start[k + 1] > start[k])
          add_lines(held.delta, task.columns.line + start[k], task.columns.value + start[k], start[k + 1] - start[k],
                    held.sums + (b * net.inputs + k) * sparse_block<T>);
    }
  }
  for (int64_t f = 0; f < neurons; ++f) {
    const T* from = held.sums + f / sparse_block<T> * net.inputs * sparse_block<T> + f % sparse_block<T>;
    T* to = task.gradient + f / net.width * net.size() + f % net.width * net.inputs;
    for (int64_t k = 0; k < net.inputs; ++k)
      to[k] = task.accumulate ? to[k] + from[k * sparse_block<T>] : from[k * sparse_block<T>];
  }
}

// --- entry points ----------------------------------------------------------------------------------------------------

template <class T>
int64_t scratch_size(const Network& net, const GradientPlan& plan) {
  if (plan.direct) return direct_scratch_size<T>(net, plan);
  if (plan.sparse) return sparse_scratch_size<T>(net, plan);
  if (plan.wide) return hold_wide<T>(net, plan, nullptr).size;
  const Held<T> h = hold<T>(net, plan, nullptr);
  return (2 * net.width + net.outputs) * plan.tile + neuron_block * plan.panel + net.width * h.padded;
}

template <class T>
void evaluate(const GradientTask<T>& task) {
  if (task.plan->sparse) return by_lists(task);
  *task.sum += sum(task.plan->direct ? direct_gradient(task) : task.plan->wide ? wide_gradient(task) : by_products(task));
}

}  // namespace

template <class T>
GradientKernels<T> gradient_kernels() {
  return {lanes<T>, sparse_block<T>, scratch_size<T>, evaluate<T>};
}
template GradientKernels<float> gradient_kernels();
template GradientKernels<double> gradient_kernels();

}  // namespace cbk::CBK_ISA
