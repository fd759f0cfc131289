// Gradients of wide networks with one output: too many neurons to hold their activations for a useful number of samples.
//
// A first pass gives the outputs' slopes e of the whole chunk and keeps no activation; then a block of neurons at a time
// goes past all samples again, its weights, sums and a tile of delta = e sigma'(z) in L1.  Computing the activations twice
// costs less than moving them through L2.
#pragma once

#include "../common/activation.hpp"
#include "../common/loss.hpp"
#include "outputs.hpp"
#include "product.hpp"
#include "risk.hpp"

namespace cbk::CBK_ISA {

template <class T>
int64_t wide_scratch_size(const Network& net, const GradientPlan& plan) {
  const int64_t padded = (net.inputs + panel_width<T> - 1) / panel_width<T> * panel_width<T>;
  return plan.chunk + neuron_block * (plan.tile + padded);
}

// e of the chunk's samples; block: [neuron_block][panel].
template <class T>
F64 wide_slopes(const GradientTask<T>& task, T* e, T* block) {
  const Network& net = *task.net;
  const int64_t panel = task.plan->panel;
  const T *theta = task.theta, *c = theta + net.output_weights();
  for (int64_t m = 0; m < net.width; m += neuron_block) {
    const int64_t neurons = net.width - m < neuron_block ? net.width - m : neuron_block;
    for (int64_t s = 0; s < task.chunk.samples; s += panel) {
      product<T>({theta + m * net.inputs, net.inputs, 1}, neurons, net.inputs, {task.chunk.x + s * net.inputs, panel},
                 block, panel, {theta + net.biases() + m, false});
      activate_array(net.activation, block, neurons * panel);
      product<T>({c + m, net.width, 1}, 1, neurons, {block, panel}, e + s, panel, {nullptr, m > 0});
    }
  }
  F64 losses{};
  for (int64_t s = 0; s < task.chunk.samples; s += panel) {
    scale_outputs(net, theta, panel, e + s, panel);
    losses = squared_error_slope(losses, e + s, panel, task.chunk.y + s, 1, panel, task.chunk.samples - s, task.factor);
  }
  return losses;
}

// In place of z: delta / (s c).  Its sum, and that of e sigma(z), are added to on_bias and on_weight.
template <Activation A, class T>
CBK_INLINE void wide_delta(T* z, const T* e, int64_t count, Vector<T>& on_weight, Vector<T>& on_bias) {
  using V = Vector<T>;
  V c0 = on_weight, c1{}, b0 = on_bias, b1{};
  for (int64_t i = 0; i < count; i += 2 * lanes<T>) {
    V slope0, slope1;
    const V e0 = load(e + i), e1 = load(e + i + lanes<T>);
    c0 = mad(e0, activate<A>(load(z + i), slope0), c0);
    c1 = mad(e1, activate<A>(load(z + i + lanes<T>), slope1), c1);
    const V delta0 = e0 * slope0, delta1 = e1 * slope1;
    b0 = b0 + delta0, b1 = b1 + delta1;
    store(z + i, delta0), store(z + i + lanes<T>, delta1);
  }
  on_weight = c0 + c1, on_bias = b0 + b1;
}

// Adds to `gradient`, or begins it; returns the losses' sums.
template <class T>
F64 wide_gradient(const GradientTask<T>& task) {
  using V = Vector<T>;
  const Network& net = *task.net;
  const GradientPlan& plan = *task.plan;
  const int64_t padded = (task.chunk.samples + plan.panel - 1) / plan.panel * plan.panel;
  const int64_t columns = (net.inputs + panel_width<T> - 1) / panel_width<T> * panel_width<T>;
  T *e = task.scratch, *z = e + plan.chunk, *weights = z + neuron_block * plan.tile;
  const F64 losses = wide_slopes(task, e, z);
  const T *theta = task.theta, *c = theta + net.output_weights();
  const auto put = [&](T* p, double value) { *p = task.accumulate ? T(double(*p) + value) : T(value); };
  if (net.output_bias) {
    V total{};
    for (int64_t s = 0; s < padded; s += lanes<T>) total = total + load(e + s);
    put(task.gradient + net.output_biases(), sum(add(F64{}, total)));
  }
  for (int64_t m = 0; m < net.width; m += neuron_block) {
    const int64_t neurons = net.width - m < neuron_block ? net.width - m : neuron_block;
    V on_weight[neuron_block] = {}, on_bias[neuron_block] = {};
    for (int64_t s = 0; s < padded; s += plan.tile) {
      const int64_t count = padded - s < plan.tile ? padded - s : plan.tile;
      for (int64_t p = 0; p < count; p += plan.panel)
        product<T>({theta + m * net.inputs, net.inputs, 1}, neurons, net.inputs,
                   {task.chunk.x + (s + p) * net.inputs, plan.panel}, z + p, plan.tile, {theta + net.biases() + m, false});
      with_activation(net.activation, [&](auto tag) {
        for (int64_t r = 0; r < neurons; ++r)
          wide_delta<tag.value>(z + r * plan.tile, e + s, count, on_weight[r], on_bias[r]);
      });
      for (int64_t k = 0; k < columns; k += panel_width<T>)
        product<T>({z, plan.tile, 1}, neurons, count,
                   {task.strips + k * plan.chunk + s * panel_width<T>, panel_width<T>}, weights + k, columns,
                   {nullptr, s > 0});
    }
    for (int64_t r = 0; r < neurons; ++r) {
      const double factor = double(c[m + r]) * net.scale;
      put(task.gradient + net.output_weights() + m + r, net.scale * sum(add(F64{}, on_weight[r])));
      put(task.gradient + net.biases() + m + r, factor * sum(add(F64{}, on_bias[r])));
      for (int64_t k = 0; k < net.inputs; ++k)
        put(task.gradient + (m + r) * net.inputs + k, factor * double(weights[r * columns + k]));
    }
  }
  return losses;
}

}  // namespace cbk::CBK_ISA
