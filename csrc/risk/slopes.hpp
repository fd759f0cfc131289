// What the gradients' ways have in common: the losses' slopes, sums over samples and where they go.
#pragma once

#include "../common/loss.hpp"
#include "outputs.hpp"
#include "risk.hpp"

namespace cbk::CBK_ISA {

template <class T>
CBK_INLINE void put(T* p, double value, bool accumulate) {
  *p = accumulate ? T(double(*p) + value) : T(value);
}

// The losses of the panel at sample s of the chunk, whose outputs become their slopes.
template <class T>
F64 loss_slope(const GradientTask<T>& task, F64 total, T* g, int64_t stride, int64_t s) {
  const int64_t outputs = task.net->outputs;
  const T* y = task.chunk.y + s * target_columns(task.loss.kind, outputs);
  with_loss(task.loss, [&](auto loss) {
    if constexpr (has_slope(decltype(loss)::kind))
      with_weights(task.chunk.weights, [&](auto weighted) {
        const auto counted = counted_from<weighted.value>(s, task.chunk.samples - s, task.chunk.weights);
        total = loss.slopes(total, g, stride, y, outputs, task.plan->panel, task.factor, counted);
      });
  });
  return total;
}

// sum_i a_i over `count` samples, whole pairs of vectors: lanes in the particles' type, widened at the end.
template <class T>
CBK_INLINE double total(const T* a, int64_t count) {
  Vector<T> even{}, odd{};
  for (int64_t i = 0; i + 2 * lanes<T> <= count; i += 2 * lanes<T>) {
    even = even + load(a + i);
    odd = odd + load(a + i + lanes<T>);
  }
  return sum(add(add(F64{}, even), odd));
}

// sums[N neurons][C outputs] of e_cs h_ns over `count` samples: lanes in the particles' type, widened at the end.
template <int N, int C, class T>
CBK_INLINE void output_sums(const T* e, int64_t e_stride, const T* hidden, int64_t stride, int64_t count,
                            double (&sums)[N][C]) {
  using V = Vector<T>;
  V acc[N][C] = {};
  for (int64_t i = 0; i < count; i += lanes<T>) {
    V h[N];
#pragma GCC unroll 2
    for (int n = 0; n < N; ++n) h[n] = load(hidden + n * stride + i);
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
      const V slope = load(e + c * e_stride + i);
#pragma GCC unroll 2
      for (int n = 0; n < N; ++n) acc[n][c] = mad(slope, h[n], acc[n][c]);
    }
  }
  for (int n = 0; n < N; ++n)
    for (int c = 0; c < C; ++c) sums[n][c] = sum(add(F64{}, acc[n][c]));
}

// dR/dc of neurons [m, m + neurons), whose hidden values lie at `hidden`, over `count` samples.
template <class T>
void output_gradient(const GradientTask<T>& task, const T* e, int64_t e_stride, int64_t m, int64_t neurons,
                     const T* hidden, int64_t stride, int64_t count, bool accumulate) {
  const Network& net = *task.net;
  T* gradient = task.gradient + net.output_weights() + m;
  const auto take = [&](auto rows, auto columns, int64_t r, int64_t c) {
    constexpr int N = decltype(rows)::value, C = decltype(columns)::value;
    double sums[N][C];
    output_sums<N, C>(e + c * e_stride, e_stride, hidden + r * stride, stride, count, sums);
    for (int n = 0; n < N; ++n)
      for (int k = 0; k < C; ++k) put(gradient + (c + k) * net.width + r + n, net.scale * sums[n][k], accumulate);
  };
  const auto outputs = [&](auto rows, int64_t r) {
    int64_t c = 0;
    for (; c + 4 <= net.outputs; c += 4) take(rows, Constant<4>{}, r, c);
    for (; c + 2 <= net.outputs; c += 2) take(rows, Constant<2>{}, r, c);
    if (c < net.outputs) take(rows, Constant<1>{}, r, c);
  };
  int64_t r = 0;
  for (; r + 2 <= neurons; r += 2) outputs(Constant<2>{}, r);
  if (r < neurons) outputs(Constant<1>{}, r);
}

}  // namespace cbk::CBK_ISA
