// Gradients of wide networks with one output: too many neurons to hold their activations in L2 for a useful number of
// samples.
//
// A first pass gives the outputs' slopes e of the whole chunk and holds what the second needs of each neuron and sample:
// sigma(z) where sigma' is a function of it, else z.  Both passes take a block of neurons at a time past all samples, so
// that what is held streams through L2 once each way, in order.
#pragma once

#include "../common/activation.hpp"
#include "../common/loss.hpp"
#include "outputs.hpp"
#include "product.hpp"
#include "risk.hpp"

namespace cbk::CBK_ISA {

template <class T>
struct WideHeld {
  T* e;            // [chunk]
  T* line;         // [width][stride]
  int64_t stride;  // no multiple of a page: lines of a block would share few sets of L1
  T* block;        // [neuron_block][tile]
  T* weights;      // [neuron_block][columns]
  int64_t columns, size;
};

template <class T>
WideHeld<T> hold_wide(const Network& net, const GradientPlan& plan, T* scratch) {
  WideHeld<T> h;
  h.stride = plan.chunk + panel_width<T>;
  h.columns = (net.inputs + panel_width<T> - 1) / panel_width<T> * panel_width<T>;
  h.e = scratch;
  h.line = h.e + plan.chunk;
  h.block = h.line + net.width * h.stride;
  h.weights = h.block + neuron_block * plan.tile;
  h.size = h.weights + neuron_block * h.columns - scratch;
  return h;
}

// e of the chunk's samples, and the lines.
template <Activation A, class T>
F64 wide_slopes(const GradientTask<T>& task, const WideHeld<T>& held) {
  const Network& net = *task.net;
  const int64_t panel = task.plan->panel;
  const T *theta = task.theta, *c = theta + net.output_weights();
  for (int64_t m = 0; m < net.width; m += neuron_block) {
    const int64_t neurons = net.width - m < neuron_block ? net.width - m : neuron_block;
    for (int64_t s = 0; s < task.chunk.samples; s += panel) {
      T* line = held.line + m * held.stride + s;
      product<T>({theta + m * net.inputs, net.inputs, 1}, neurons, net.inputs, {task.chunk.x + s * net.inputs, panel},
                 line, held.stride, {theta + net.biases() + m, false});
      for (int64_t r = 0; r < neurons; ++r) {
        for (int64_t i = 0; i < panel; i += lanes<T>) {
          T* z = line + r * held.stride + i;
          store(slope_from_value<A> ? z : held.block + r * panel + i, activate<A>(load(z)));
        }
      }
      const Panel<T> hidden = slope_from_value<A> ? Panel<T>{line, held.stride} : Panel<T>{held.block, panel};
      product<T>({c + m, net.width, 1}, 1, neurons, hidden, held.e + s, panel, {nullptr, m > 0});
    }
  }
  F64 losses{};
  for (int64_t s = 0; s < task.chunk.samples; s += panel) {
    scale_outputs(net, theta, panel, held.e + s, panel);
    losses = squared_error_slope(losses, held.e + s, panel, task.chunk.y + s, 1, panel, task.chunk.samples - s,
                                 task.factor);
  }
  return losses;
}

// delta / (s c) from a line.  Its sum, and that of e sigma(z), are added to on_bias and on_weight.
template <Activation A, class T>
CBK_INLINE void wide_delta(const T* line, const T* e, int64_t count, T* delta, Vector<T>& on_weight,
                           Vector<T>& on_bias) {
  using V = Vector<T>;
  V c0 = on_weight, c1{}, b0 = on_bias, b1{};
  for (int64_t i = 0; i < count; i += 2 * lanes<T>) {
    V h0, h1, slope0, slope1;
    const V e0 = load(e + i), e1 = load(e + i + lanes<T>);
    if constexpr (slope_from_value<A>) {
      h0 = load(line + i), h1 = load(line + i + lanes<T>);
      slope0 = slope_of_value<A>(h0), slope1 = slope_of_value<A>(h1);
    } else {
      h0 = activate<A>(load(line + i), slope0), h1 = activate<A>(load(line + i + lanes<T>), slope1);
    }
    c0 = mad(e0, h0, c0), c1 = mad(e1, h1, c1);
    const V delta0 = e0 * slope0, delta1 = e1 * slope1;
    b0 = b0 + delta0, b1 = b1 + delta1;
    store(delta + i, delta0), store(delta + i + lanes<T>, delta1);
  }
  on_weight = c0 + c1, on_bias = b0 + b1;
}

template <Activation A, class T>
F64 wide_gradient(const GradientTask<T>& task) {
  using V = Vector<T>;
  const Network& net = *task.net;
  const GradientPlan& plan = *task.plan;
  const int64_t padded = (task.chunk.samples + plan.panel - 1) / plan.panel * plan.panel;
  const WideHeld<T> held = hold_wide(net, plan, task.scratch);
  const F64 losses = wide_slopes<A>(task, held);
  const T* c = task.theta + net.output_weights();
  const auto put = [&](T* p, double value) { *p = task.accumulate ? T(double(*p) + value) : T(value); };
  if (net.output_bias) {
    V total{};
    for (int64_t s = 0; s < padded; s += lanes<T>) total = total + load(held.e + s);
    put(task.gradient + net.output_biases(), sum(add(F64{}, total)));
  }
  for (int64_t m = 0; m < net.width; m += neuron_block) {
    const int64_t neurons = net.width - m < neuron_block ? net.width - m : neuron_block;
    V on_weight[neuron_block] = {}, on_bias[neuron_block] = {};
    for (int64_t s = 0; s < padded; s += plan.tile) {
      const int64_t count = padded - s < plan.tile ? padded - s : plan.tile;
      for (int64_t r = 0; r < neurons; ++r)
        wide_delta<A>(held.line + (m + r) * held.stride + s, held.e + s, count, held.block + r * plan.tile,
                      on_weight[r], on_bias[r]);
      for (int64_t k = 0; k < held.columns; k += panel_width<T>)
        product<T>({held.block, plan.tile, 1}, neurons, count,
                   {task.strips + k * plan.chunk + s * panel_width<T>, panel_width<T>}, held.weights + k, held.columns,
                   {nullptr, s > 0});
    }
    for (int64_t r = 0; r < neurons; ++r) {
      const double factor = double(c[m + r]) * net.scale;
      put(task.gradient + net.output_weights() + m + r, net.scale * sum(add(F64{}, on_weight[r])));
      put(task.gradient + net.biases() + m + r, factor * sum(add(F64{}, on_bias[r])));
      for (int64_t k = 0; k < net.inputs; ++k)
        put(task.gradient + (m + r) * net.inputs + k, factor * double(held.weights[r * held.columns + k]));
    }
  }
  return losses;
}

// Adds to `gradient`, or begins it; returns the losses' sums.
template <class T>
F64 wide_gradient(const GradientTask<T>& task) {
  F64 losses{};
  with_activation(task.net->activation, [&](auto tag) { losses = wide_gradient<tag.value>(task); });
  return losses;
}

}  // namespace cbk::CBK_ISA
