// The inner kernels of risk.hpp, compiled once per instruction set.
#include "../common/activation.hpp"
#include "../common/loss.hpp"
#include "product.hpp"
#include "risk.hpp"

namespace cbk::CBK_ISA {
namespace {

constexpr int64_t neuron_block = 64;  // neurons whose hidden activations of one panel are held in L1

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
            product<T>({theta + m * net.inputs, net.inputs, 1}, neurons, net.inputs, {x, plan.panel},
                       hidden, plan.panel, {theta + net.biases() + m, false});
            activate_array(net.activation, hidden, neurons * plan.panel);
            product<T>({theta + net.output_weights() + m, net.width, 1}, net.outputs, neurons,
                       {hidden, plan.panel}, out, plan.panel, {nullptr, m > 0});
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
  return {lanes<T>, scratch_size<T>, evaluate<T>};
}
template RiskKernels<float> risk_kernels();
template RiskKernels<double> risk_kernels();

}  // namespace cbk::CBK_ISA
