// Inner kernels of hopping.hpp, compiled once per instruction set.
#include "hopping.hpp"

#include "../common/loss.hpp"
#include "../common/philox.hpp"
#include "../risk/outputs.hpp"
#include "../risk/product.hpp"

namespace cbk::CBK_ISA {
namespace {

// hidden[m][panel] = sigma(w_m . x + b_m) for neurons [begin, begin + count).
template <class T>
void hidden_block(const Network& net, const T* theta, int64_t begin, int64_t count, const T* x, int64_t panel,
                  T* hidden) {
  product<T>({theta + begin * net.inputs, net.inputs, 1}, count, net.inputs, {x, panel}, hidden, panel,
             {theta + net.biases() + begin, false});
  activate_array(net.activation, hidden, count * panel);
}

template <class T>
void base(const Network& net, const T* center, int64_t panel, const PackedChunk<T>& chunk, T* hidden, T* outputs) {
  for (int64_t s = 0; s < chunk.samples; s += panel) {
    T *h = hidden + s * net.width, *g = outputs + s * net.outputs;
    hidden_block(net, center, 0, net.width, chunk.x + s * net.inputs, panel, h);
    product<T>({center + net.output_weights(), net.width, 1}, net.outputs, net.width, {h, panel}, g, panel,
               {nullptr, false});
    scale_outputs(net, center, panel, g, panel);
  }
}

template <class T>
int64_t scratch_size(const Network& net, int64_t panel) {
  return (neuron_block + net.outputs) * panel;
}

template <class T>
void atoms(const AtomTask<T>& task) {
  using V = Vector<T>;
  const Network& net = *task.net;
  const int64_t panel = task.panel, rows = task.loss == Loss::mse ? net.outputs : 1;
  const T *c_new = task.theta + net.output_weights(), *c_old = task.center + net.output_weights();
  T *hidden = task.scratch, *g = hidden + neuron_block * panel;
  for (int64_t s = 0; s < task.chunk.samples; s += panel) {
    const T* y = task.chunk.y + s * rows;
    const int64_t left = task.chunk.samples - s, count = left < panel ? left : panel;
    for (int64_t begin = 0; begin < net.width; begin += neuron_block) {
      const int64_t neurons = net.width - begin < neuron_block ? net.width - begin : neuron_block;
      hidden_block(net, task.theta, begin, neurons, task.chunk.x + s * net.inputs, panel, hidden);
      for (int64_t m = begin; m < begin + neurons; ++m) {
        const T *h_new = hidden + (m - begin) * panel, *h_old = task.hidden + s * net.width + m * panel;
        for (int64_t c = 0; c < net.outputs; ++c) {
          const V now = splat<V>(T(net.scale) * c_new[c * net.width + m]);
          const V before = splat<V>(T(net.scale) * c_old[c * net.width + m]);
          const T* out = task.outputs + (s * net.outputs) + c * panel;
          for (int64_t i = 0; i < panel; i += lanes<T>)
            store(g + c * panel + i, load(out + i) + (now * load(h_new + i) - before * load(h_old + i)));
        }
        task.sums[m] += sum(task.loss == Loss::mse
                                ? squared_error(F64{}, g, y, net.outputs, panel, count)
                                : cross_entropy(F64{}, g, y, net.outputs, panel, count));
      }
    }
  }
}

template <class T>
void noise_sum(NoiseKey key, int64_t first, int64_t last, const double* weights, int64_t atoms, const int32_t* atom,
               int64_t begin, int64_t end, double* sum) {
  T z[noise_block];
  for (int64_t n = first; n < last; ++n) {
    const double* w = weights + n * atoms;
    if (!atom && w[0] == 0) continue;
    const Counter counter{key.seed, key.stream, key.step, key.first_particle + uint32_t(n)};
    for (int64_t i = begin; i < end; i += noise_block) {
      Vector<T> lanes_of_z[noise_block / lanes<T>];
      normals(counter, uint32_t(i / 4), lanes_of_z);
      std::memcpy(z, lanes_of_z, sizeof z);
      const int64_t count = end - i < noise_block ? end - i : noise_block;
      for (int64_t j = 0; j < count; ++j) sum[i - begin + j] += w[atom ? atom[i + j] : 0] * double(z[j]);
    }
  }
}

}  // namespace

template <class T>
HoppingKernels<T> hopping_kernels() {
  return {base<T>, atoms<T>, noise_sum<T>, scratch_size<T>, lanes<T>};
}
template HoppingKernels<float> hopping_kernels();
template HoppingKernels<double> hopping_kernels();

}  // namespace cbk::CBK_ISA
