// Gradients of networks with one output and few inputs: samples lie along the lanes in both passes.
//
// Forward keeps sigma(z) of a tile of samples, so that no activation is computed twice, and the outputs' slopes e
// follow; backward takes a few neurons at a time past the tile, their sums of e h, delta and delta x_k in registers.
// Networks too wide for that keep nothing of the first pass, and go past the chunk again in blocks of neurons.
#pragma once

#include "../../common/activation.hpp"
#include "../../common/interrupt.hpp"
#include "../../common/transpose.hpp"
#include "../products/product.hpp"
#include "../slopes.hpp"
#include "direct.hpp"

namespace cbk::CBK_ISA {

constexpr int64_t direct_lines = 4;   // vectors in a panel
constexpr int64_t wide_neurons = 16;  // of a wide network, whose sums and a tile's activations stay in L1

template <class T>
struct DirectKept {
  T* e;          // [chunk]
  T* sums;       // [neurons][inputs + 2][lanes]: of e h, of delta and of delta x
  Kept<T> tile;  // [panels][neurons][panel]: written and read in order
  int64_t neurons;

  Kept<T> at(int64_t sample, int64_t neuron) const {
    const int64_t i = sample * neurons + neuron * direct_lines * lanes<T>;
    return {tile.value + i, tile.slope + i, tile.stride};
  }
};

CBK_INLINE int64_t kept_neurons(const Network& net, const GradientPlan& plan) {
  return plan.wide && net.width > wide_neurons ? wide_neurons : net.width;
}

template <class T>
DirectKept<T> keep_direct(const Network& net, const GradientPlan& plan, T* scratch) {
  DirectKept<T> kept;
  kept.neurons = kept_neurons(net, plan);
  kept.e = scratch;
  kept.sums = kept.e + plan.chunk;
  T* value = kept.sums + kept.neurons * (net.inputs + 2) * lanes<T>;
  kept.tile = {value, value + kept.neurons * plan.tile, plan.panel};
  return kept;
}

template <class T>
int64_t direct_scratch_size(const Network& net, const GradientPlan& plan) {
  return plan.chunk + kept_neurons(net, plan) * ((net.inputs + 2) * lanes<T> + 2 * plan.tile);
}

// N neurons, D inputs of `inputs`, `count` samples: adds to the sums, or begins them.  Where more inputs follow, delta
// / (s c) is left in place of the values.
template <Activation A, int D, int N, bool first, bool more, class T>
CBK_INLINE void direct_sums(const DirectKept<T>& kept, int64_t m, const T* e, const T* x, int64_t inputs, int64_t count,
                            T* sums, bool accumulate) {
  using V = Vector<T>;
  constexpr int64_t panel = direct_lines * lanes<T>;
  const int64_t own = (inputs + 2) * lanes<T>;
  V on_weight[N], on_bias[N], on_input[N][D];
#pragma GCC unroll 4
  for (int n = 0; n < N; ++n) {
    const T* from = sums + n * own;
    on_weight[n] = accumulate && first ? load(from) : V{};
    on_bias[n] = accumulate && first ? load(from + lanes<T>) : V{};
#pragma GCC unroll 8
    for (int k = 0; k < D; ++k) on_input[n][k] = accumulate ? load(from + (2 + k) * lanes<T>) : V{};
  }
  for (int64_t s = 0; s < count; s += panel, x += panel * inputs) {
    const Kept<T> tile = kept.at(s, m);
    const int64_t end = count - s < panel ? count - s : panel;
    for (int64_t i = 0; i < end; i += lanes<T>) {
      V delta[N];
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) {
        T* value = tile.value + n * panel + i;
        if constexpr (first) {
          const V slope = load(e + s + i);
          V own;
          const V h = recall_kept<A>(tile, n * panel + i, own);
          on_weight[n] = mad(slope, h, on_weight[n]);
          if constexpr (A == Activation::relu)
            delta[n] = h > T(0) ? slope : V{};
          else if constexpr (A == Activation::identity)
            delta[n] = slope;
          else
            delta[n] = slope * own;
          on_bias[n] = on_bias[n] + delta[n];
          if constexpr (more) store(value, delta[n]);
        } else {
          delta[n] = load(value);
        }
      }
#pragma GCC unroll 8
      for (int k = 0; k < D; ++k) {
        const V xs = load(x + k * panel + i);
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) on_input[n][k] = mad(delta[n], xs, on_input[n][k]);
      }
    }
  }
#pragma GCC unroll 4
  for (int n = 0; n < N; ++n) {
    T* to = sums + n * own;
    if constexpr (first) store(to, on_weight[n]), store(to + lanes<T>, on_bias[n]);
#pragma GCC unroll 8
    for (int k = 0; k < D; ++k) store(to + (2 + k) * lanes<T>, on_input[n][k]);
  }
}

// As many neurons at a time as registers hold sums.
template <Activation A, int D, bool first, bool more, class T>
void direct_rows(const DirectKept<T>& kept, int64_t neurons, int64_t s0, const T* x, int64_t inputs, int64_t count,
                 T* sums) {
  constexpr int fit = (registers - 2) / (D + (first ? 3 : 1)), N = fit > 4 ? 4 : fit > 1 ? fit : 1;
  int64_t m = 0;
  const auto take = [&](auto n) {
    direct_sums<A, D, decltype(n)::value, first, more>(kept, m, kept.e + s0, x, inputs, count,
                                                       sums + m * (inputs + 2) * lanes<T>, s0 > 0);
    m += decltype(n)::value;
  };
  while (m + N <= neurons) take(Constant<N>{});
  while (m < neurons) take(Constant<1>{});
}

// Calls f(count) with the count as a compile-time constant.
template <int least, int most, class F>
CBK_INLINE void with_constant(int64_t count, F&& f) {
  if constexpr (least < most)
    if (count < most) return with_constant<least, most - 1>(count, f);
  f(Constant<most>{});
}

// Backward over a tile that begins at sample s0.  More inputs than registers take go in several parts: a first one of
// fixed size, so that there is one kernel of it per activation, and the rest in about equal ones.
template <Activation A, class T>
void direct_parts(const Network& net, const DirectKept<T>& kept, int64_t neurons, int64_t s0, const T* x,
                  int64_t count) {
  constexpr int most = 8, begin = 4, least = 4;
  if (net.inputs <= most)
    return with_constant<1, most>(net.inputs, [&](auto d) {
      direct_rows<A, decltype(d)::value, true, false>(kept, neurons, s0, x, net.inputs, count, kept.sums);
    });
  direct_rows<A, begin, true, true>(kept, neurons, s0, x, net.inputs, count, kept.sums);
  const int64_t rest = net.inputs - begin, parts = (rest + most - 1) / most;
  const auto next = [&](int64_t part) { return begin + rest * part / parts; };
  for (int64_t part = 0; part < parts; ++part)
    with_constant<least, most>(next(part + 1) - next(part), [&](auto d) {
      direct_rows<Activation::identity, decltype(d)::value, false, false>(
          kept, neurons, s0, x + next(part) * direct_lines * lanes<T>, net.inputs, count,
          kept.sums + next(part) * lanes<T>);
    });
}

template <class T>
void direct_backward(const Network& net, const DirectKept<T>& kept, int64_t neurons, int64_t s0, const T* x,
                     int64_t count) {
  with_activation<true>(net.activation, [&](auto law) { direct_parts<law.value>(net, kept, neurons, s0, x, count); });
}

// The sums of the lanes of so many vectors, each as `sum` has it; `to` may be their own memory.  As many at a time as a
// register holds: one after the other they take a tenth of a small batch's gradients longer.
template <class T>
void lane_sums(const T* from, int64_t count, double* to) {
  constexpr int L = lanes<double>;
  int64_t i = 0;
  for (; i + L <= count; i += L) {
    F64 r[L], total{};
#pragma GCC unroll 8
    for (int j = 0; j < L; ++j) r[j] = add(F64{}, load(from + (i + j) * lanes<T>));
    transpose_square<L / 2>(r, std::make_index_sequence<L>{});
#pragma GCC unroll 8
    for (int j = 0; j < L; ++j) total = total + r[j];
    store(to + i, total);
  }
  for (; i < count; ++i) to[i] = sum(add(F64{}, load(from + i * lanes<T>)));
}

// The sums of the lanes, and the factors that all samples share.
template <class T>
void direct_finish(const GradientTask<T>& task, const DirectKept<T>& kept, int64_t begin, int64_t neurons) {
  const Network& net = *task.net;
  const T* c = task.theta + net.output_weights() + begin;
  double* total = reinterpret_cast<double*>(kept.sums);
  lane_sums(kept.sums, neurons * (net.inputs + 2), total);
  for (int64_t m = 0; m < neurons; ++m, total += net.inputs + 2) {
    const double factor = double(c[m]) * net.scale;
    put(task.gradient + net.output_weights() + begin + m, net.scale * total[0], task.accumulate);
    put(task.gradient + net.biases() + begin + m, factor * total[1], task.accumulate);
    for (int64_t k = 0; k < net.inputs; ++k)
      put(task.gradient + (begin + m) * net.inputs + k, factor * total[2 + k], task.accumulate);
  }
}

// g of the panel at sample s, then e: only vectors that hold samples are computed.
template <bool keep, class T>
F64 direct_forward(const GradientTask<T>& task, const DirectKept<T>& kept, int64_t s, int64_t in_tile, F64 losses) {
  const Network& net = *task.net;
  const int64_t panel = task.plan->panel, samples = task.chunk.samples - s;
  for (int64_t i = (samples + lanes<T> - 1) / lanes<T> * lanes<T>; i < panel; i += lanes<T>)
    store(kept.e + s + i, Vector<T>{});
  for (int64_t begin = 0; begin < net.width; begin += depth_block) {
    const int64_t neurons = net.width - begin < depth_block ? net.width - begin : depth_block;
    direct_panel<keep>(net, task.theta, begin, neurons, task.chunk.x + s * net.inputs, panel, samples, kept.e + s,
                       begin > 0, kept.at(in_tile, begin));
  }
  scale_outputs(net, task.theta, panel, kept.e + s, panel);
  return loss_slope(task, losses, kept.e + s, panel, s);
}

template <class T>
F64 direct_gradient(const GradientTask<T>& task) {
  const Network& net = *task.net;
  const GradientPlan& plan = *task.plan;
  const int64_t samples = task.chunk.samples, panel = plan.panel;
  const DirectKept<T> kept = keep_direct(net, plan, task.scratch);
  const auto in_tile = [&](int64_t s) { return samples - s < plan.tile ? samples - s : plan.tile; };
  F64 losses{};
  if (!plan.wide) {
    for (int64_t s = 0; s < samples; s += plan.tile) {
      for (int64_t p = 0; p < in_tile(s); p += panel) losses = direct_forward<true>(task, kept, s + p, p, losses);
      direct_backward(net, kept, net.width, s, task.chunk.x + s * net.inputs, in_tile(s));
    }
    direct_finish(task, kept, 0, net.width);
  } else {
    for (int64_t s = 0; s < samples; s += panel) {
      poll();
      losses = direct_forward<false>(task, kept, s, 0, losses);
    }
    T unused[panel_width<T> * 2];
    for (int64_t m = 0; m < net.width; m += kept.neurons) {
      poll();
      const int64_t neurons = net.width - m < kept.neurons ? net.width - m : kept.neurons;
      for (int64_t s = 0; s < samples; s += plan.tile) {
        const T* x = task.chunk.x + s * net.inputs;
        for (int64_t p = 0; p < in_tile(s); p += panel)
          direct_panel<true>(net, task.theta, m, neurons, x + p * net.inputs, panel, samples - s - p, unused, false,
                             kept.at(p, 0));
        direct_backward(net, kept, neurons, s, x, in_tile(s));
      }
      direct_finish(task, kept, m, neurons);
    }
  }
  if (net.output_bias)
    put(task.gradient + net.output_biases(), total(kept.e, (samples + panel - 1) / panel * panel), task.accumulate);
  return losses;
}

}  // namespace cbk::CBK_ISA
