// The inner kernels of risk.hpp, compiled once per instruction set.
#include "../common/interrupt.hpp"
#include "../common/loss.hpp"
#include "direct/direct.hpp"
#include "lists/lists.hpp"
#include "products/product.hpp"
#include "risk.hpp"

namespace cbk::CBK_ISA {
template CBK_PRODUCT(float);
template CBK_PRODUCT(double);
template CBK_DIRECT(float);
template CBK_DIRECT(double);

namespace {

template <class T>
int64_t scratch_size(const Network& net, const RiskPlan& plan) {
  return plan.group * plan.chunk * net.outputs +
         (plan.path == Path::lists ? list_scratch<T>(net, plan.panel) : neuron_block * plan.panel);
}

// out[output][N vectors] (+)= sums of c sigma(w x + b) over neurons [m, m + neurons) of a panel.
template <int N, class T>
void block_sums(const Network& net, const T* theta, int64_t m, int64_t neurons, const T* x, int64_t panel, T* hidden,
                T* out) {
  constexpr int64_t line = N * lanes<T>;
  product<T, N, 2>({theta + m * net.inputs, net.inputs, 1}, neurons, net.inputs, {x, panel}, hidden, line,
                   {theta + net.biases() + m, false});
  activate_array(net.activation, hidden, neurons * line);
  product<T, N, 2>({theta + net.output_weights() + m, net.width, 1}, net.outputs, neurons, {hidden, line}, out, panel,
                   {nullptr, m > 0});
}

// Sums of c sigma(w x + b) over all neurons: sums[particle][panel][output][panel samples].
template <class T>
void hidden_sums(const RiskTask<T>& task, T* sums, T* hidden) {
  const Network& net = *task.net;
  const RiskPlan& plan = *task.plan;
  const bool direct = plan.path == Path::direct;
  const int64_t step = direct ? depth_block : neuron_block;
  Paced paced;
  for (int64_t range = 0; range < net.width; range += plan.range) {
    const int64_t end = range + plan.range < net.width ? range + plan.range : net.width;
    for (int64_t s = 0; s < task.chunk.samples; s += plan.panel) {
      const T* x = task.chunk.x + s * net.inputs;
      for (int64_t p = 0; p < task.particles; ++p) {
        const T* theta = task.theta + p * net.size();
        T* out = sums + (p * plan.chunk + s) * net.outputs;
        paced((end - range) * (net.inputs + net.outputs + 8) * plan.panel);
        for (int64_t m = range; m < end; m += step) {
          const int64_t neurons = end - m < step ? end - m : step;
          if (direct) {
            direct_panel(net, theta, m, neurons, x, plan.panel, task.chunk.samples - s, out, m > 0);
          } else if (task.chunk.samples - s > lanes<T>) {
            block_sums<2>(net, theta, m, neurons, x, plan.panel, hidden, out);
          } else {  // the last panel's second vector holds no sample
            block_sums<1>(net, theta, m, neurons, x, plan.panel, hidden, out);
            for (int64_t c = 0; c < net.outputs && m == 0; ++c) store(out + c * plan.panel + lanes<T>, Vector<T>{});
          }
        }
      }
    }
  }
}

// The same from lists of non-zero inputs.
template <class T>
void list_hidden_sums(const RiskTask<T>& task, T* sums, T* scratch) {
  const Network& net = *task.net;
  const RiskPlan& plan = *task.plan;
  const int64_t samples = task.chunk.samples, neurons = task.particles * net.width;
  NeuronBlock<T> block;
  block.weights = scratch;
  T *z = scratch + net.inputs * list_block<T>, *hidden = z + list_tile * list_block<T>;
  for (int64_t first = 0; first < neurons; first += list_block<T>) {
    const int64_t end = first + list_block<T> < neurons ? first + list_block<T> : neurons;
    gather_block(net, task.theta, first, neurons, block);
    poll();
    for (int64_t tile = 0; tile < samples; tile += list_tile) {
      const int64_t count = samples - tile < list_tile ? samples - tile : list_tile;
      list_product(task.chunk.rows, tile, count, block, net.inputs, z);
      for (int64_t s = 0; s < count; s += plan.panel) {
        transpose_samples(z + s * list_block<T>, count - s, plan.panel, plan.panel, hidden);
        activate_array(net.activation, hidden, (end - first) * plan.panel);
        for (int64_t f = first, next; f < end; f = next) {
          const int64_t p = f / net.width, m = f % net.width;
          next = (p + 1) * net.width < end ? (p + 1) * net.width : end;
          product<T>({task.theta + p * net.size() + net.output_weights() + m, net.width, 1}, net.outputs, next - f,
                     {hidden + (f - first) * plan.panel, plan.panel}, sums + (p * plan.chunk + tile + s) * net.outputs,
                     plan.panel, {nullptr, m > 0});
        }
      }
    }
  }
}

template <class T>
void evaluate(const RiskTask<T>& task) {
  const Network& net = *task.net;
  const RiskPlan& plan = *task.plan;
  T* sums = task.scratch;
  T* scratch = sums + plan.group * plan.chunk * net.outputs;
  plan.path == Path::lists ? list_hidden_sums(task, sums, scratch) : hidden_sums(task, sums, scratch);
  const int64_t samples = task.chunk.samples, panels = (samples + plan.panel - 1) / plan.panel;
  const int64_t rows = target_columns(task.loss.kind, net.outputs);
  for (int64_t p = 0; p < task.particles; ++p) {
    T* g = sums + p * plan.chunk * net.outputs;
    for (int64_t i = 0; i < panels; ++i)
      scale_outputs(net, task.theta + p * net.size(), plan.panel, g + i * plan.panel * net.outputs, plan.panel);
    if (task.outputs) {
      T* out = task.outputs + p * task.outputs_stride;
      for (int64_t s = 0; s < samples; ++s)
        for (int64_t c = 0; c < net.outputs; ++c)
          out[s * net.outputs + c] = g[(s / plan.panel * net.outputs + c) * plan.panel + s % plan.panel];
    }
    for (int64_t t = 0; t < task.tasks; ++t) {
      F64 total{};
      with_loss(task.loss, [&](auto loss) {
        with_weights(task.chunk.weights, [&](auto weighted) {
          for (int64_t i = 0; i < panels; ++i) {
            const T* y = task.chunk.y + (t * panels + i) * rows * plan.panel;
            const int64_t left = samples - i * plan.panel, count = left < plan.panel ? left : plan.panel;
            const auto counted = counted_from<weighted.value>(i * plan.panel, count, task.chunk.weights);
            total = loss.value(total, g + i * plan.panel * net.outputs, y, net.outputs, plan.panel, count, counted);
          }
        });
      });
      task.sums[p * task.tasks + t] += sum(total);
    }
  }
}

template <class T>
void pack(const T* const* rows, int64_t count, int64_t columns, T* packed, double* wide, int64_t stride) {
  constexpr int64_t line = 64 / int64_t(sizeof(T));
  const auto ask = [=](int64_t first) {  // a register's rows are read side by side: memory likes one after the other
    for (int64_t s = first; s < first + lanes<T> && s < count && rows[s]; ++s)
      for (int64_t k = 0; k < columns; k += line) __builtin_prefetch(rows[s] + k, 0, 2);
  };
  ask(0);
  Paced paced;
  for (int64_t s = 0; s < count; s += lanes<T>) {
    ask(s + lanes<T>);
    const bool whole = rows[s + lanes<T> - 1];
    for (int64_t k = 0; k < columns; k += lanes<T>) {
      const int64_t own = columns - k < lanes<T> ? columns - k : lanes<T>;
      T* const to = packed + k * stride + s;
      paced(own * lanes<T>);
      if (whole && own == lanes<T>)
        transpose_whole(rows + s, k, to, stride);
      else
        transpose_tile(rows + s, k, own, to, stride);
      for (int64_t i = 0; wide && i < own; ++i)
        for (int64_t j = 0; j < lanes<T>; j += lanes<double>)
          store(wide + (k + i) * stride + s + j, load_double(to + i * stride + j));
    }
  }
}

}  // namespace

template <class T>
RiskKernels<T> risk_kernels() {
  return {lanes<T>, list_block<T>, scratch_size<T>, evaluate<T>, pack<T>};
}
template RiskKernels<float> risk_kernels();
template RiskKernels<double> risk_kernels();

}  // namespace cbk::CBK_ISA
