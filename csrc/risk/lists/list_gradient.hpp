// Gradients on a batch with many zeros: a block of neurons of one or several particles, by lists (lists.hpp).
#pragma once

#include "../outputs.hpp"
#include "../products/product.hpp"
#include "../slopes.hpp"
#include "lists.hpp"

namespace cbk::CBK_ISA {

template <class T>
struct TileHeld {     // of one tile and particle
  T *hidden, *slope;  // [width][tile]: sigma(z); sigma'(z), later delta
  T* output;          // [outputs][tile]: g, later e
  T* panel;           // [neuron_block][panel]
};

// From w x + b of the tile that starts at sample s0: hidden activations, their derivatives and the outputs' slopes e.
template <class T>
F64 tile_forward(const GradientTask<T>& task, const TileHeld<T>& held, int64_t s0, int64_t count, F64 losses) {
  const Network& net = *task.net;
  const GradientPlan& plan = *task.plan;
  const T* theta = task.theta;
  for (int64_t m = 0; m < net.width; ++m)
    activate_array(net.activation, held.hidden + m * plan.tile, held.slope + m * plan.tile, count);
  for (int64_t p = 0; p < count; p += plan.panel) {
    T* g = held.output + p;
    product<T>({theta + net.output_weights(), net.width, 1}, net.outputs, net.width, {held.hidden + p, plan.tile}, g,
               plan.tile, {nullptr, false});
    scale_outputs(net, theta, plan.panel, g, plan.tile);
    losses = loss_slope(task, losses, g, plan.tile, s0 + p);
  }
  return losses;
}

// delta in place of the derivatives, and the gradient of everything but the hidden weights.
template <class T>
void tile_backward(const GradientTask<T>& task, const TileHeld<T>& held, int64_t s0, int64_t count) {
  using V = Vector<T>;
  const Network& net = *task.net;
  const GradientPlan& plan = *task.plan;
  const bool more = task.accumulate || s0 > 0;
  const T* c = task.theta + net.output_weights();
  output_gradient(task, held.output, plan.tile, 0, net.width, held.hidden, plan.tile, count, more);
  if (net.output_bias)
    for (int64_t k = 0; k < net.outputs; ++k)
      put(task.gradient + net.output_biases() + k, total(held.output + k * plan.tile, count), more);
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
struct ListHeld {
  TileHeld<T> first;  // the first particle's; the next one's hidden and slope follow
  NeuronBlock<T> block;
  T *z, *delta;  // [tile][block], one memory: never needed together
  T* sums;       // [blocks][inputs][block]: dR/dw over the chunk
};

// Blocks that hold whole particles: `particles` of them.
template <class T>
int64_t list_blocks(const Network& net, int64_t particles) {
  return (particles * net.width + list_block<T> - 1) / list_block<T>;
}

template <class T>
ListHeld<T> hold_lists(const Network& net, const GradientPlan& plan, T* scratch) {
  const int64_t blocks = list_blocks<T>(net, plan.group), neurons = blocks * list_block<T>;
  ListHeld<T> h;
  h.first.hidden = scratch;
  h.first.slope = h.first.hidden + neurons * plan.tile;
  h.first.output = h.first.slope + neurons * plan.tile;
  h.first.panel = h.first.output + net.outputs * plan.tile;
  h.z = h.delta = h.first.panel + neuron_block * plan.panel;
  h.block.weights = h.z + plan.tile * list_block<T>;
  h.sums = h.block.weights + net.inputs * list_block<T>;
  return h;
}

template <class T>
int64_t list_scratch_size(const Network& net, const GradientPlan& plan) {
  const int64_t blocks = list_blocks<T>(net, plan.group);
  return net.outputs * plan.tile + neuron_block * plan.panel +
         list_block<T> * (plan.tile * (2 * blocks + 1) + net.inputs * (blocks + 1));
}

template <class T>
void list_gradient(const GradientTask<T>& task) {
  const Network& net = *task.net;
  const GradientPlan& plan = *task.plan;
  const int64_t neurons = task.particles * net.width, blocks = list_blocks<T>(net, task.particles);
  ListHeld<T> held = hold_lists(net, plan, task.scratch);
  const int64_t samples = task.chunk.samples;
  for (int64_t i = 0; i < blocks * net.inputs * list_block<T>; i += lanes<T>) store(held.sums + i, Vector<T>{});
  for (int64_t s = 0; s < samples; s += plan.tile) {
    const int64_t count = samples - s < plan.tile ? samples - s : plan.tile;
    const int64_t padded = (count + plan.panel - 1) / plan.panel * plan.panel;
    for (int64_t b = 0; b < blocks; ++b) {
      poll();
      if (blocks > 1 || s == 0) gather_block(net, task.theta, b * list_block<T>, neurons, held.block);
      list_product(task.chunk.rows, s, count, held.block, net.inputs, held.z);
      for (int64_t i = 0; i < padded; i += plan.panel)
        transpose_samples(held.z + i * list_block<T>, count - i, plan.panel, plan.tile,
                          held.first.hidden + b * list_block<T> * plan.tile + i);
    }
    for (int64_t p = 0; p < task.particles; ++p) {
      GradientTask<T> own = task;
      own.theta += p * net.size(), own.gradient += p * net.size();
      TileHeld<T> of = held.first;
      of.hidden += p * net.width * plan.tile, of.slope += p * net.width * plan.tile;
      task.sum[p] += sum(tile_forward(own, of, s, padded, F64{}));
      tile_backward(own, of, s, padded);
    }
    for (int64_t b = 0; b < blocks; ++b) {
      const T* row[list_block<T>];
      for (int64_t i = 0; i < list_block<T>; ++i) {
        const int64_t f = b * list_block<T> + i;
        row[i] = f < neurons ? held.first.slope + f * plan.tile : nullptr;
      }
      for (int64_t i = 0; i < padded; i += lanes<T>)
        for (int64_t f = 0; f < list_block<T>; f += lanes<T>)
          transpose_tile(row + f, i, lanes<T>, held.delta + i * list_block<T> + f, list_block<T>);
      const int32_t* start = task.columns.start + s / plan.tile * net.inputs;
      for (int64_t k = 0; k < net.inputs; ++k)
        if (start[k + 1] > start[k])
          add_lines(held.delta, task.columns.line + start[k], task.columns.value + start[k], start[k + 1] - start[k],
                    held.sums + (b * net.inputs + k) * list_block<T>);
    }
  }
  for (int64_t f = 0; f < neurons; ++f) {
    const T* from = held.sums + f / list_block<T> * net.inputs * list_block<T> + f % list_block<T>;
    T* to = task.gradient + f / net.width * net.size() + f % net.width * net.inputs;
    for (int64_t k = 0; k < net.inputs; ++k)
      to[k] = task.accumulate ? to[k] + from[k * list_block<T>] : from[k * list_block<T>];
  }
}

}  // namespace cbk::CBK_ISA
