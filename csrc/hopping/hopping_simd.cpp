// Inner kernels of hopping.hpp, compiled once per instruction set.
#include "hopping.hpp"

#include "../common/loss.hpp"
#include "../common/philox.hpp"
#include "../risk/outputs.hpp"
#include "../risk/products/product.hpp"

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
void draw(NoiseKey key, uint32_t n, const T* center, T spread, int64_t size, T* plus, T* minus) {
  using V = Vector<T>;
  NoiseRow<T> noise({key.seed, key.stream, key.step, key.first_particle + n}, 0, size);
  const V s = splat<V>(spread);
  V z[noise_block / lanes<T>];
  for (int64_t i = 0; i < size; i += noise_block) {
    noise.next(z);
    if (i + noise_block <= size) {
      for (int j = 0; j < noise_block / lanes<T>; ++j) {
        const int64_t at = i + j * lanes<T>;
        store(plus + at, fma(s, z[j], load(center + at)));
        if (minus) store(minus + at, fma(-s, z[j], load(center + at)));
      }
      continue;
    }
    // the last, incomplete block goes through a padded copy
    T c[noise_block] = {}, row[noise_block];
    const size_t bytes = size_t(size - i) * sizeof(T);
    std::memcpy(c, center + i, bytes);
    for (const bool opposite : {false, true}) {
      if (opposite && !minus) break;
      for (int j = 0; j < noise_block / lanes<T>; ++j)
        store(row + j * lanes<T>, fma(opposite ? -s : s, z[j], load(c + j * lanes<T>)));
      std::memcpy((opposite ? minus : plus) + i, row, bytes);
    }
  }
}

template <class T>
void rest(const Network& net, Loss loss, const T* center, int64_t panel, const PackedChunk<T>& chunk, T* scratch,
          T* rest) {
  using V = Vector<T>;
  T *hidden = scratch, *g = hidden + net.width * panel;
  const T* c = center + net.output_weights();
  Paced paced;
  for (int64_t s = 0; s < chunk.samples; s += panel) {
    paced(net.width * (net.inputs + net.outputs + 8) * panel);
    hidden_block(net, center, 0, net.width, chunk.x + s * net.inputs, panel, hidden);
    product<T>({c, net.width, 1}, net.outputs, net.width, {hidden, panel}, g, panel, {nullptr, false});
    scale_outputs(net, center, panel, g, panel);
    with_loss(loss, [&](auto tag) {
      if constexpr (decltype(tag)::of_residuals)
        for (int64_t i = 0; i < net.outputs * panel; ++i) g[i] -= chunk.y[s * net.outputs + i];
    });
    for (int64_t m = 0; m < net.width; ++m) {
      for (int64_t k = 0; k < net.outputs; ++k, rest += panel) {
        const V own = splat<V>(-T(net.scale) * c[k * net.width + m]);
        for (int64_t i = 0; i < panel; i += lanes<T>)
          store(rest + i, mad(own, load(hidden + m * panel + i), load(g + k * panel + i)));
      }
    }
  }
}

template <class T>
int64_t scratch_size(const Network& net, int64_t panel) {
  return (neuron_block + net.outputs) * panel + net.width * int64_t(sizeof(F64) / sizeof(T));
}

// Adds the losses of a panel's first `count` samples of the centre with neuron m replaced: hidden is the new neuron's,
// c its output weights.
template <class Law, class T, bool weighted>
CBK_INLINE F64 atom_loss(const Law& law, F64 total, const AtomTask<T>& task, const T* hidden, const T* c, const T* rest,
                         const T* y, int64_t count, const Counted<T, weighted>& counted, T* g) {
  using V = Vector<T>;
  const Network& net = *task.net;
  for (int64_t k = 0; k < net.outputs; ++k, rest += task.panel, g += task.panel) {
    const V now = splat<V>(T(net.scale) * c[k * net.width]);
    for (int64_t i = 0; i < count; i += lanes<T>) {
      const V out = mad(now, load(hidden + i), load(rest + i));
      if constexpr (Law::of_residuals)  // the rest is less y
        total = law.add(total, out, counted, i);
      else
        store(g + i, out);
    }
  }
  if constexpr (!Law::of_residuals)
    total = law.value(total, g - net.outputs * task.panel, y, net.outputs, task.panel, count, counted);
  return total;
}

// The same of neurons [begin, end) on the panel at sample s; a function of its own, whose constants stay in registers.
template <class Law, class T, bool weighted>
__attribute__((noinline)) void add_label_losses(Law law, const AtomTask<T>& task, int64_t s, int64_t begin, int64_t end,
                                                Counted<T, weighted> counted, const T* hidden, T* g, double* totals) {
  const Network& net = *task.net;
  const T *c = task.theta + net.output_weights(), *y = task.chunk.y + s * target_columns(Law::kind, net.outputs);
  const int64_t left = task.chunk.samples - s, count = left < task.panel ? left : task.panel;
  for (int64_t m = begin; m < end; ++m, hidden += task.panel) {
    double* total = totals + m * lanes<double>;
    const T* rest = task.rest + (s * net.width + m * task.panel) * net.outputs;
    store(total, atom_loss(law, load(total), task, hidden, c + m, rest, y, count, counted, g));
  }
}

template <class T>
void atoms(const AtomTask<T>& task) {
  const Network& net = *task.net;
  const int64_t panel = task.panel;
  const T* c = task.theta + net.output_weights();
  T *hidden = task.scratch, *g = hidden + neuron_block * panel;
  double* totals = reinterpret_cast<double*>(g + net.outputs * panel);  // [width][lanes]
  for (int64_t i = 0; i < net.width * lanes<double>; ++i) totals[i] = 0;
  Paced paced;
  for (int64_t s = 0; s < task.chunk.samples; s += panel) {
    const int64_t left = task.chunk.samples - s, count = left < panel ? left : panel;
    for (int64_t begin = 0; begin < net.width; begin += neuron_block) {
      const int64_t neurons = net.width - begin < neuron_block ? net.width - begin : neuron_block;
      paced(neurons * (net.inputs + net.outputs + 8) * panel);
      hidden_block(net, task.theta, begin, neurons, task.chunk.x + s * net.inputs, panel, hidden);
      with_loss(task.loss, [&](auto loss) {
        with_weights(task.chunk.weights, [&](auto weighted) {
          const auto counted = counted_from<weighted.value>(s, count, task.chunk.weights);
          if constexpr (!decltype(loss)::of_residuals)
            return add_label_losses(loss, task, s, begin, begin + neurons, counted, hidden, g, totals);
          for (int64_t m = begin; m < begin + neurons; ++m) {
            double* total = totals + m * lanes<double>;
            const T* rest = task.rest + (s * net.width + m * panel) * net.outputs;
            store(total, atom_loss(loss, load(total), task, hidden + (m - begin) * panel, c + m, rest, task.chunk.y + s,
                                   count, counted, g));
          }
        });
      });
    }
  }
  for (int64_t m = 0; m < net.width; ++m) task.sums[m] += sum(load(totals + m * lanes<double>));
}

template <class T>
void noise_sum(NoiseKey key, int64_t first, int64_t last, const double* weights, int64_t atoms, const int32_t* atom,
               int64_t begin, int64_t end, double* sum) {
  T z[noise_block];
  Paced paced;
  for (int64_t n = first; n < last; ++n) {
    paced(10 * (end - begin));
    const double* w = weights + n * atoms;
    if (!atom && w[0] == 0) continue;
    NoiseRow<T> noise({key.seed, key.stream, key.step, key.first_particle + uint32_t(n)}, begin, end - begin);
    for (int64_t i = begin; i < end; i += noise_block) {
      Vector<T> lanes_of_z[noise_block / lanes<T>];
      noise.next(lanes_of_z);
      std::memcpy(z, lanes_of_z, sizeof z);
      const int64_t count = end - i < noise_block ? end - i : noise_block;
      for (int64_t j = 0; j < count; ++j) sum[i - begin + j] += w[atom ? atom[i + j] : 0] * double(z[j]);
    }
  }
}

template <class T>
void round_row(const T* scale, T most, int64_t size, T* row) {
  constexpr T shift = sizeof(T) == 4 ? T(12582912.0) : T(6755399441055744.0);  // rounds to integers, as simd.hpp's
  Paced paced;
  paced(size);
  for (int64_t i = 0; i < size; ++i) {
    const T value = row[i], s = scale[i];
    T level = value / s;
    level = level < -most ? -most : level;
    level = level > most ? most : level;
    const T rounded = s * ((level + shift) - shift);
    row[i] = s < 0 ? value : s == 0 ? s * value : rounded;
  }
}

void ranks(const int32_t* values, int64_t count, int32_t* rank) {
  constexpr int64_t vectors = 4, width = lanes<int32_t>;
  Paced paced;
  int64_t n = 0;
  for (; n < count; n += vectors * width) {
    paced(2 * count * width);
    I32 own[vectors], less[vectors] = {};
    const int64_t used = (count - n) / width < vectors ? (count - n) / width : vectors;
    for (int j = 0; j < vectors; ++j) own[j] = j < used ? load(values + n + j * width) : I32{};
    for (int64_t i = 0; i < count; ++i) {
      const I32 other = I32{} + values[i];
      for (int j = 0; j < vectors; ++j) less[j] = less[j] - (other < own[j]);
    }
    for (int64_t j = 0; j < used; ++j) store(rank + n + j * width, less[j]);
  }
}

}  // namespace

template <class T>
HoppingKernels<T> hopping_kernels() {
  return {draw<T>, rest<T>, atoms<T>, noise_sum<T>, scratch_size<T>, round_row<T>, ranks, lanes<T>};
}
template HoppingKernels<float> hopping_kernels();
template HoppingKernels<double> hopping_kernels();

}  // namespace cbk::CBK_ISA
