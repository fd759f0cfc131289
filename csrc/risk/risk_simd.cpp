// The inner kernels of risk.hpp, compiled once per instruction set.
#include "../common/activation.hpp"
#include "../common/loss.hpp"
#include "risk.hpp"

namespace cbk::CBK_ISA {
namespace {

constexpr int64_t depth_block = 256;   // terms summed in one accumulator; bounds the rounding error and the L1 footprint
constexpr int64_t neuron_block = 64;   // neurons whose hidden activations of one panel are held in L1
constexpr int max_rows = registers == 32 ? 12 : 6;

template <class T>
void pack(const T* rows, int64_t samples, int64_t columns, int64_t panel, T* packed) {
  for (int64_t s0 = 0; s0 < samples; s0 += panel, packed += columns * panel) {
    const int64_t count = samples - s0 < panel ? samples - s0 : panel;
    // 16 columns at a time: the panel's rows are read in whole cache lines
    for (int64_t k0 = 0; k0 < columns; k0 += 16) {
      const int64_t k1 = k0 + 16 < columns ? k0 + 16 : columns;
      for (int64_t s = 0; s < count; ++s)
        for (int64_t k = k0; k < k1; ++k) packed[k * panel + s] = rows[(s0 + s) * columns + k];
    }
    if (count < panel)
      for (int64_t k = 0; k < columns; ++k)
        for (int64_t s = count; s < panel; ++s) packed[k * panel + s] = 0;
  }
}

// acc[r][j] = sum_k a[r * stride + k] x[k][j] over `depth` terms, for R rows and a panel of 2 vectors.
// With few rows the terms are spread over U accumulators each, or the latency of the sums would be all that one sees.
template <int R, class T>
CBK_INLINE void product_tile(const T* a, int64_t stride, int64_t depth, const T* x, T* z, const T* bias,
                             bool accumulate) {
  using V = Vector<T>;
  constexpr int U = R >= 4 ? 1 : R >= 2 ? 2 : 4;
  constexpr int64_t panel = 2 * lanes<T>;
  V acc[U][R][2] = {};
  int64_t k = 0;
  for (; k + U <= depth; k += U) {
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) {
      const V x0 = load(x + (k + u) * panel), x1 = load(x + (k + u) * panel + lanes<T>);
#pragma GCC unroll 12
      for (int r = 0; r < R; ++r) {
        const V w = splat<V>(a[r * stride + k + u]);
        acc[u][r][0] = mad(w, x0, acc[u][r][0]);
        acc[u][r][1] = mad(w, x1, acc[u][r][1]);
      }
    }
  }
  for (; k < depth; ++k) {
    const V x0 = load(x + k * panel), x1 = load(x + k * panel + lanes<T>);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      const V w = splat<V>(a[r * stride + k]);
      acc[0][r][0] = mad(w, x0, acc[0][r][0]);
      acc[0][r][1] = mad(w, x1, acc[0][r][1]);
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      V sum = acc[0][r][j];
#pragma GCC unroll 4
      for (int u = 1; u < U; ++u) sum = sum + acc[u][r][j];
      T* p = z + r * panel + j * lanes<T>;
      if (bias) sum = sum + splat<V>(bias[r]);
      store(p, accumulate ? load(p) + sum : sum);
    }
  }
}

template <class T>
void product_rows(int64_t rows, const T* a, int64_t stride, int64_t depth, const T* x, T* z, const T* bias,
                  bool accumulate) {
  switch (rows) {
#define CBK_ROWS(R) \
  case R: return product_tile<R>(a, stride, depth, x, z, bias, accumulate);
    CBK_ROWS(1)
    CBK_ROWS(2)
    CBK_ROWS(3)
    CBK_ROWS(4)
    CBK_ROWS(5)
    CBK_ROWS(6)
#if defined(__AVX512F__)
    CBK_ROWS(7)
    CBK_ROWS(8)
    CBK_ROWS(9)
    CBK_ROWS(10)
    CBK_ROWS(11)
    CBK_ROWS(12)
#endif
#undef CBK_ROWS
  }
}

// z[r][panel] (+)= bias[r] + sum_k a[r * stride + k] x[k][panel]: both layers are this product.  Tiles are of nearly
// equal height, since a low last tile would run at the latency of its few sums.
template <class T>
void product(const T* a, int64_t stride, int64_t rows, int64_t depth, const T* x, T* z, const T* bias,
             bool accumulate) {
  constexpr int64_t panel = 2 * lanes<T>;
  const int64_t tiles = (rows + max_rows - 1) / max_rows;
  for (int64_t k = 0; k < depth; k += depth_block) {
    const int64_t terms = depth - k < depth_block ? depth - k : depth_block;
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t first = rows * tile / tiles, last = rows * (tile + 1) / tiles;
      product_rows(last - first, a + first * stride + k, stride, terms, x + k * panel, z + first * panel,
                   k == 0 && bias ? bias + first : nullptr, accumulate || k > 0);
    }
  }
}

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

template <class T>
int64_t scratch_size(const Network& net, const RiskPlan& plan) {
  return plan.group * plan.chunk * net.outputs + neuron_block * plan.panel;
}

// Sums of c sigma(w x + b) over all neurons: sums[particle][panel][output][panel samples].
template <class T>
void hidden_sums(const RiskTask<T>& task, T* sums, T* hidden) {
  const Network& net = *task.net;
  const RiskPlan& plan = *task.plan;
  const int64_t step = plan.direct ? depth_block : neuron_block;
  for (int64_t range = 0; range < net.width; range += plan.range) {
    const int64_t end = range + plan.range < net.width ? range + plan.range : net.width;
    for (int64_t s = 0; s < task.chunk.samples; s += plan.panel) {
      const T* x = task.chunk.x + s * net.inputs;
      for (int64_t p = 0; p < task.particles; ++p) {
        const T* theta = task.theta + p * net.size();
        T* out = sums + (p * plan.chunk + s) * net.outputs;
        for (int64_t m = range; m < end; m += step) {
          const int64_t neurons = end - m < step ? end - m : step;
          if (plan.direct) {
            direct_panel(net, theta, m, neurons, x, plan.panel, task.chunk.samples - s, out);
          } else {
            product(theta + m * net.inputs, net.inputs, neurons, net.inputs, x, hidden, theta + net.biases() + m,
                    false);
            activate_array(net.activation, hidden, neurons * plan.panel);
            product(theta + net.output_weights() + m, net.width, net.outputs, neurons, hidden, out,
                    static_cast<const T*>(nullptr), m > 0);
          }
        }
      }
    }
  }
}

// g = scale * sum (+ a) in place.
template <class T>
void scale_outputs(const Network& net, const T* theta, int64_t panel, T* g) {
  using V = Vector<T>;
  for (int64_t c = 0; c < net.outputs; ++c) {
    const V a = splat<V>(net.output_bias ? theta[net.output_biases() + c] : T(0)), scale = splat<V>(T(net.scale));
    for (int64_t s = 0; s < panel; s += lanes<T>) store(g + c * panel + s, mad(load(g + c * panel + s), scale, a));
  }
}

template <class T>
void evaluate(const RiskTask<T>& task) {
  const Network& net = *task.net;
  const RiskPlan& plan = *task.plan;
  T* sums = task.scratch;
  hidden_sums(task, sums, sums + plan.group * plan.chunk * net.outputs);
  const int64_t samples = task.chunk.samples, panels = (samples + plan.panel - 1) / plan.panel;
  const int64_t rows = task.loss == Loss::mse ? net.outputs : 1;
  for (int64_t p = 0; p < task.particles; ++p) {
    T* g = sums + p * plan.chunk * net.outputs;
    for (int64_t i = 0; i < panels; ++i)
      scale_outputs(net, task.theta + p * net.size(), plan.panel, g + i * plan.panel * net.outputs);
    if (task.outputs) {
      T* out = task.outputs + p * task.outputs_stride;
      for (int64_t s = 0; s < samples; ++s)
        for (int64_t c = 0; c < net.outputs; ++c)
          out[s * net.outputs + c] = g[(s / plan.panel * net.outputs + c) * plan.panel + s % plan.panel];
    }
    for (int64_t t = 0; t < task.tasks; ++t) {
      F64 total{};
      for (int64_t i = 0; i < panels; ++i) {
        const T* gi = g + i * plan.panel * net.outputs;
        const T* y = task.chunk.y + (t * panels + i) * rows * plan.panel;
        const int64_t left = samples - i * plan.panel, count = left < plan.panel ? left : plan.panel;
        total = task.loss == Loss::mse ? squared_error(total, gi, y, rows, plan.panel, count)
                                       : cross_entropy(total, gi, y, net.outputs, plan.panel, count);
      }
      task.sums[p * task.tasks + t] += sum(total);
    }
  }
}

}  // namespace

template <class T>
RiskKernels<T> risk_kernels() {
  return {lanes<T>, pack<T>, scratch_size<T>, evaluate<T>};
}
template RiskKernels<float> risk_kernels();
template RiskKernels<double> risk_kernels();

}  // namespace cbk::CBK_ISA
