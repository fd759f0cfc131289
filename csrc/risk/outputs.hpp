// What the forward pass and the gradient share of the way to a network's outputs.
#pragma once

#include "../common/activation.hpp"

namespace cbk::CBK_ISA {

constexpr int64_t neuron_block = 64;  // neurons of which one panel is held in L1

template <int N>
struct Constant {
  static constexpr int value = N;
};

// One output: out[NV vectors] (+)= sum_m c_m sigma(b_m + w_m . x), samples in registers, neurons streamed.
template <Activation A, int NV, bool one_input, class T>
CBK_INLINE void direct_tile(const T* w, const T* b, const T* c, int64_t inputs, int64_t neurons, const T* x,
                            int64_t panel, T* out, bool accumulate) {
  using V = Vector<T>;
  V acc[NV] = {}, x0[NV];
#pragma GCC unroll 8
  for (int j = 0; j < NV; ++j) x0[j] = load(x + j * lanes<T>);
  for (int64_t m = 0; m < neurons; ++m) {
    const V bias = splat<V>(b[m]), weight = splat<V>(c[m]);
    V z[NV];
    const V first = splat<V>(w[m * inputs]);
#pragma GCC unroll 8
    for (int j = 0; j < NV; ++j) z[j] = mad(first, x0[j], bias);
    if constexpr (!one_input) {
      for (int64_t k = 1; k < inputs; ++k) {
        const V wk = splat<V>(w[m * inputs + k]);
#pragma GCC unroll 8
        for (int j = 0; j < NV; ++j) z[j] = mad(wk, load(x + k * panel + j * lanes<T>), z[j]);
      }
    }
#pragma GCC unroll 8
    for (int j = 0; j < NV; ++j) acc[j] = mad(weight, activate<A>(z[j]), acc[j]);
  }
#pragma GCC unroll 8
  for (int j = 0; j < NV; ++j) {
    T* p = out + j * lanes<T>;
    store(p, accumulate ? load(p) + acc[j] : acc[j]);
  }
}

template <class T>
void direct_panel(const Network& net, const T* theta, int64_t begin, int64_t neurons, const T* x, int64_t panel,
                  int64_t samples, T* out) {
  const T *w = theta + begin * net.inputs, *b = theta + net.biases() + begin,
          *c = theta + net.output_weights() + begin;
  with_activation(net.activation, [&](auto tag) {
    auto run = [&](auto one_input) {
      const auto tile = [&](auto width, int64_t at) {
        direct_tile<tag.value, decltype(width)::value, decltype(one_input)::value>(
            w, b, c, net.inputs, neurons, x + at, panel, out + at, begin > 0);
      };
      if (samples > 3 * lanes<T>) return tile(Constant<4>{}, 0);
      for (int64_t at = 0; at < samples; at += lanes<T>) tile(Constant<1>{}, at);
    };
    net.inputs == 1 ? run(Constant<1>{}) : run(Constant<0>{});
  });
}

// g = scale * sum (+ a) in place, one output every `stride`.
template <class T>
void scale_outputs(const Network& net, const T* theta, int64_t panel, T* g, int64_t stride) {
  using V = Vector<T>;
  for (int64_t c = 0; c < net.outputs; ++c) {
    const V a = splat<V>(net.output_bias ? theta[net.output_biases() + c] : T(0)), scale = splat<V>(T(net.scale));
    for (int64_t s = 0; s < panel; s += lanes<T>) store(g + c * stride + s, mad(load(g + c * stride + s), scale, a));
  }
}

}  // namespace cbk::CBK_ISA
