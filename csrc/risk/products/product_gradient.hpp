// Gradients of networks of any shape, by products of matrices.
//
// A first pass gives the outputs' slopes e of the whole chunk and keeps sigma(z) of each neuron and sample (or a number
// that tells it and sigma'(z), or both, where sigma'(z) is no function of it).  Both passes take a block of neurons at
// a time past all samples, so that what is kept streams through L2 once each way, in order; long chunks have long runs
// of it and sums that are finished less often.
#pragma once

#include "../direct/direct.hpp"
#include "../slopes.hpp"
#include "product.hpp"

namespace cbk::CBK_ISA {

template <class T>
struct ProductKept {
  T* e;             // [outputs][chunk]
  Kept<T> neurons;  // [width][stride]
  int64_t stride;   // no multiple of a page: rows begin in different sets of L1
  T* block;         // [neuron_block][tile]: delta, but for factors that all samples share
  T* weights;       // [neuron_block][columns]: sums of dR/dw over the chunk
  int64_t columns;
};

template <class T>
ProductKept<T> keep_products(const Network& net, const GradientPlan& plan, T* scratch) {
  ProductKept<T> kept;
  kept.stride = plan.chunk + panel_width<T>;
  kept.columns = (net.inputs + lanes<T> - 1) / lanes<T> * lanes<T>;
  kept.e = scratch;
  kept.block = kept.e + net.outputs * plan.chunk;
  kept.weights = kept.block + neuron_block * plan.tile;
  T* value = kept.weights + neuron_block * kept.columns;
  kept.neurons = {value, value + (keeps_slopes(net.activation) ? net.width * kept.stride : 0), kept.stride};
  return kept;
}

template <class T>
int64_t product_scratch_size(const Network& net, const GradientPlan& plan) {
  const int64_t columns = (net.inputs + lanes<T> - 1) / lanes<T> * lanes<T>, stride = plan.chunk + panel_width<T>;
  return net.outputs * plan.chunk + neuron_block * (plan.tile + columns) +
         (keeps_slopes(net.activation) ? 2 : 1) * net.width * stride;
}

// What is kept of the chunk's neurons, and the outputs' sums: in registers where there are few inputs and one output.
template <class T>
void hidden_in_registers(const GradientTask<T>& task, const ProductKept<T>& kept) {
  const Network& net = *task.net;
  const int64_t panel = task.plan->panel, stride = kept.stride;
  for (int64_t m = 0; m < net.width; m += depth_block) {
    if (m > 0) poll();
    const int64_t neurons = net.width - m < depth_block ? net.width - m : depth_block;
    for (int64_t s = 0; s < task.chunk.samples; s += panel) {
      const int64_t at = m * stride + s;
      direct_panel<true>(net, task.theta, m, neurons, task.chunk.x + s * net.inputs, panel, panel, kept.e + s, m > 0,
                         {kept.neurons.value + at, kept.neurons.slope + at, stride});
    }
  }
}

template <Activation A, class T>
void hidden_by_products(const GradientTask<T>& task, const ProductKept<T>& kept) {
  const Network& net = *task.net;
  const int64_t panel = task.plan->panel, chunk = task.plan->chunk, stride = kept.stride;
  const T *theta = task.theta, *c = theta + net.output_weights();
  for (int64_t m = 0; m < net.width; m += neuron_block) {
    if (m > 0) poll();
    const int64_t neurons = net.width - m < neuron_block ? net.width - m : neuron_block;
    for (int64_t s = 0; s < task.chunk.samples; s += panel) {
      // z, then sigma(z): in place of what is kept, unless that is another number
      T* z = recalls<A> ? kept.block : kept.neurons.value + m * stride + s;
      const int64_t z_stride = recalls<A> ? panel : stride;
      product<T>({theta + m * net.inputs, net.inputs, 1}, neurons, net.inputs, {task.chunk.x + s * net.inputs, panel},
                 z, z_stride, {theta + net.biases() + m, false});
      for (int64_t r = 0; r < neurons; ++r) {
        const int64_t own = (m + r) * stride + s;
        if constexpr (A == any_activation)
          activate_array(net.activation, kept.neurons.value + own, kept.neurons.slope + own, panel);
        else
          for (int64_t i = 0; i < panel; i += lanes<T>) {
            T* at = z + r * z_stride + i;
            const Vector<T> h = activate_keep<A>(load(at), kept.neurons, own + i);
            if constexpr (recalls<A>) store(at, h);
          }
      }
      product<T>({c + m, net.width, 1}, net.outputs, neurons, {z, z_stride}, kept.e + s, chunk, {nullptr, m > 0});
    }
  }
}

// e of the chunk's samples.
template <Activation A, class T>
F64 product_forward(const GradientTask<T>& task, const ProductKept<T>& kept) {
  const Network& net = *task.net;
  const int64_t panel = task.plan->panel, chunk = task.plan->chunk;
  task.plan->forward_direct ? hidden_in_registers(task, kept) : hidden_by_products<A>(task, kept);
  F64 losses{};
  for (int64_t s = 0; s < task.chunk.samples; s += panel) {
    scale_outputs(net, task.theta, panel, kept.e + s, chunk);
    losses = loss_slope(task, losses, kept.e + s, chunk, s);
  }
  return losses;
}

// block = sigma'(z) e, or sigma'(z) times what the block holds: sum_c c_cm e_c; its sum is added to on_bias.  With one
// output e sigma(z) is added to on_weight, else sigma(z) is left where it was kept.
template <Activation A, bool one_output, class T>
CBK_INLINE void product_delta(const Kept<T>& kept, const T* e, int64_t count, T* block, Vector<T>& on_bias,
                              Vector<T>& on_weight) {
  using V = Vector<T>;
  V even = on_bias, odd{}, products = on_weight;
  const auto delta = [&](int64_t i) {
    V slope;
    const V h = recall_kept<A>(kept, i, slope), out = load((one_output ? e : block) + i);
    if constexpr (one_output)
      products = mad(out, h, products);
    else if constexpr (recalls<A>)
      store(kept.value + i, h);
    const V d = out * slope;
    store(block + i, d);
    return d;
  };
  for (int64_t i = 0; i < count; i += 2 * lanes<T>) {
    even = even + delta(i);
    odd = odd + delta(i + lanes<T>);
  }
  on_bias = even + odd;
  on_weight = products;
}

// The gradient of the hidden layer's neurons [m, m + neurons), by tiles of the chunk.
template <Activation A, bool one_output, class T>
void product_backward(const GradientTask<T>& task, const ProductKept<T>& kept, int64_t m, int64_t neurons,
                      int64_t padded) {
  using V = Vector<T>;
  const Network& net = *task.net;
  const GradientPlan& plan = *task.plan;
  const T* c = task.theta + net.output_weights() + m;
  const int64_t stride = kept.stride;
  V on_bias[neuron_block] = {}, on_weight[neuron_block] = {};
  for (int64_t s = 0; s < padded; s += plan.tile) {
    const int64_t count = padded - s < plan.tile ? padded - s : plan.tile;
    if constexpr (!one_output)
      for (int64_t p = 0; p < count; p += plan.panel)
        product<T>({c, 1, net.width}, neurons, net.outputs, {kept.e + s + p, plan.chunk}, kept.block + p, plan.tile,
                   {nullptr, false});
    for (int64_t r = 0; r < neurons; ++r) {
      const int64_t at = (m + r) * stride + s;
      product_delta<A, one_output>(Kept<T>{kept.neurons.value + at, kept.neurons.slope + at, stride}, kept.e + s, count,
                                   kept.block + r * plan.tile, on_bias[r], on_weight[r]);
    }
    for (int64_t k = 0; k < kept.columns; k += panel_width<T>) {
      const Scalars<T> deltas{kept.block, plan.tile, 1};
      const Panel<T> strip{task.strips + k * plan.chunk + s * panel_width<T>, panel_width<T>};
      if (kept.columns - k > lanes<T>)
        product<T>(deltas, neurons, count, strip, kept.weights + k, kept.columns, {nullptr, s > 0});
      else  // the second half of the last strip is empty
        product<T, 1>(deltas, neurons, count, strip, kept.weights + k, kept.columns, {nullptr, s > 0});
    }
  }
  for (int64_t r = 0; r < neurons; ++r) {
    const double factor = one_output ? double(c[r]) * net.scale : net.scale;
    put(task.gradient + net.biases() + m + r, factor * sum(add(F64{}, on_bias[r])), task.accumulate);
    if constexpr (one_output)
      put(task.gradient + net.output_weights() + m + r, net.scale * sum(add(F64{}, on_weight[r])), task.accumulate);
    for (int64_t k = 0; k < net.inputs; ++k)
      put(task.gradient + (m + r) * net.inputs + k, factor * double(kept.weights[r * kept.columns + k]),
          task.accumulate);
  }
}

template <class T>
F64 product_gradient(const GradientTask<T>& task) {
  const Network& net = *task.net;
  const GradientPlan& plan = *task.plan;
  const int64_t padded = (task.chunk.samples + plan.panel - 1) / plan.panel * plan.panel;
  const ProductKept<T> kept = keep_products(net, plan, task.scratch);
  F64 losses{};
  with_activation<true>(net.activation, [&](auto law) {
    constexpr Activation A = decltype(law)::value;
    losses = product_forward<A>(task, kept);
    for (int64_t m = 0; m < net.width; m += neuron_block) {
      if (m > 0) poll();
      const int64_t neurons = net.width - m < neuron_block ? net.width - m : neuron_block;
      if (net.outputs == 1) {
        product_backward<A, true>(task, kept, m, neurons, padded);
      } else {
        product_backward<A, false>(task, kept, m, neurons, padded);
        output_gradient(task, kept.e, plan.chunk, m, neurons, kept.neurons.value + m * kept.stride, kept.stride, padded,
                        task.accumulate);
      }
    }
  });
  if (net.output_bias)
    for (int64_t k = 0; k < net.outputs; ++k)
      put(task.gradient + net.output_biases() + k, total(kept.e + k * plan.chunk, padded), task.accumulate);
  return losses;
}

}  // namespace cbk::CBK_ISA
