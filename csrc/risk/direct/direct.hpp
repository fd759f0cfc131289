// Networks with one output and few inputs: neurons are streamed past samples held in registers.
#pragma once

#include "../outputs.hpp"

namespace cbk::CBK_ISA {

// z[N neurons][NV vectors] become sigma(z), by way of memory; in one call where neurons follow each other there.
template <bool keep, int N, int NV, class V, class T>
CBK_INLINE void activate_any(Activation activation, V (&z)[N][NV], const Kept<T>& kept) {
  constexpr int64_t line = NV * lanes<T>;
  T own[N * line];
  T* const held = keep ? kept.value : own;
  const int64_t stride = keep ? kept.stride : line;
  const int64_t rows = stride == line ? 1 : N, count = stride == line ? N * line : line;
#pragma GCC unroll 4
  for (int n = 0; n < N; ++n)
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) store(held + n * stride + j * lanes<T>, z[n][j]);
  for (int64_t n = 0; n < rows; ++n) {
    if constexpr (keep)
      activate_array(activation, held + n * stride, kept.slope + n * stride, count);
    else
      activate_array(activation, held, count);
  }
#pragma GCC unroll 4
  for (int n = 0; n < N; ++n)
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) z[n][j] = load(held + n * stride + j * lanes<T>);
}

// acc[NV vectors] += sum_n c_n sigma(b_n + w_n . x) over N neurons, samples in registers.
template <Activation A, int N, int NV, bool one_input, bool keep, class T>
CBK_INLINE void direct_neurons(Activation activation, const T* w, const T* b, const T* c, int64_t inputs, const T* x,
                               int64_t panel, Vector<T> (&acc)[NV], const Kept<T>& kept) {
  using V = Vector<T>;
  V z[N][NV];
#pragma GCC unroll 4
  for (int n = 0; n < N; ++n)
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) z[n][j] = splat<V>(b[n]);
  const int64_t terms = one_input ? 1 : inputs;
  for (int64_t k = 0; k < terms; ++k) {
    V xs[NV];
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) xs[j] = load(x + k * panel + j * lanes<T>);
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) {
      const V wk = splat<V>(w[n * terms + k]);
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) z[n][j] = mad(wk, xs[j], z[n][j]);
    }
  }
  if constexpr (A == any_activation) activate_any<keep>(activation, z, kept);
#pragma GCC unroll 4
  for (int n = 0; n < N; ++n) {
    const V weight = splat<V>(c[n]);
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) {
      V h;
      if constexpr (A == any_activation)
        h = z[n][j];
      else if constexpr (keep)
        h = activate_keep<A>(z[n][j], kept, n * kept.stride + j * lanes<T>);
      else
        h = activate<A>(z[n][j]);
      acc[j] = mad(weight, h, acc[j]);
    }
  }
}

// One output: out[NV vectors] (+)= sum_m c_m sigma(b_m + w_m . x), neurons streamed.
template <Activation A, int NV, bool one_input, bool keep, class T>
CBK_INLINE void direct_tile(Activation activation, const T* w, const T* b, const T* c, int64_t inputs, int64_t neurons,
                            const T* x, int64_t panel, T* out, bool accumulate, Kept<T> kept) {
  using V = Vector<T>;
  // weights are read once for NV samples, samples once for N neurons
  constexpr int N = one_input && A != any_activation ? 1 : 4;
  V acc[NV] = {};
  int64_t m = 0;
  const auto next = [&](auto count) {
    constexpr int n = decltype(count)::value;
    direct_neurons<A, n, NV, one_input, keep>(activation, w + m * inputs, b + m, c + m, inputs, x, panel, acc, kept);
    m += n;
    if constexpr (keep) {
      kept.value += n * kept.stride;
      if constexpr (A == any_activation) kept.slope += n * kept.stride;
    }
  };
  while (m + N <= neurons) next(Constant<N>{});
  while (m < neurons) next(Constant<1>{});
#pragma GCC unroll 8
  for (int j = 0; j < NV; ++j) {
    T* p = out + j * lanes<T>;
    store(p, accumulate ? load(p) + acc[j] : acc[j]);
  }
}

template <bool keep = false, class T>
void direct_panel(const Network& net, const T* theta, int64_t begin, int64_t neurons, const T* x, int64_t panel,
                  int64_t samples, T* out, bool accumulate, Kept<T> kept = {}) {
  if (samples > panel) samples = panel;
  const T *w = theta + begin * net.inputs, *b = theta + net.biases() + begin, *c = theta + net.output_weights() + begin;
  with_activation<keep>(net.activation, [&](auto law) {
    auto run = [&](auto one_input) {
      // a function of its own: beside others the compiler leaves it too few registers
      const auto tile = [&](auto width, int64_t at) __attribute__((noinline)) {
        direct_tile<law.value, decltype(width)::value, decltype(one_input)::value, keep>(
            net.activation, w, b, c, net.inputs, neurons, x + at, panel, out + at, accumulate,
            keep ? Kept<T>{kept.value + at, kept.slope + at, kept.stride} : kept);
      };
      constexpr int NV = decltype(one_input)::value || registers == 32 ? 4 : 2;
      int64_t at = 0;
      for (; samples - at > (NV - 1) * lanes<T>; at += NV * lanes<T>) tile(Constant<NV>{}, at);
      for (; at < samples; at += lanes<T>) tile(Constant<1>{}, at);
    };
    net.inputs == 1 ? run(Constant<1>{}) : run(Constant<0>{});
  });
}

// compiled with the risks, for the gradients too
#define CBK_DIRECT(T) \
  void direct_panel<false>(const Network&, const T*, int64_t, int64_t, const T*, int64_t, int64_t, T*, bool, Kept<T>)
extern template CBK_DIRECT(float);
extern template CBK_DIRECT(double);

}  // namespace cbk::CBK_ISA
