// Inner kernels of low_rank.hpp, compiled once per instruction set.
#include "low_rank.hpp"

#include <optional>

#include "../common/philox.hpp"
#include "../common/transpose.hpp"
#include "../risk/outputs.hpp"
#include "../risk/products/product.hpp"
#include "entropies.hpp"
#include "factor_simd.hpp"

namespace cbk::CBK_ISA {
namespace {

// The least multiple of `width` that is not below count.
int64_t vectors_of(int64_t count, int64_t width) { return (count + width - 1) / width * width; }

template <class T>
void against_label(const CenterLines<T>& lines, int64_t i) {
  using V = Vector<T>;
  const int64_t outputs = lines.net->outputs, end = (i + 1) * lines.panel;
  for (int64_t s = i * lines.panel; s < end; s += lanes<T>) {
    T own[lanes<T>];
    for (int j = 0; j < lanes<T>; ++j) own[j] = lines.out[lines.label[s + j] * lines.padded + s + j];
    const V wanted = load(lines.y + s);
    V highest{}, sum{};
    for (int64_t k = 0; k < outputs; ++k) {
      const V difference = load(lines.out + k * lines.padded + s) - load(own);
      const V excess = wanted == T(k) ? V{} : exp(difference);
      highest = max(highest, difference), sum = sum + excess;
      T each[lanes<T>];
      store(each, excess);
      for (int j = 0; j < lanes<T>; ++j) lines.excess[(s + j) * outputs + k] = each[j];
    }
    store(lines.highest + s, highest + nan_of(sum)), store(lines.loss_of + s, log1p(sum));
  }
}

template <class T>
void center(const CenterLines<T>& lines, int64_t i, int64_t first, int64_t last) {
  const Network& net = *lines.net;
  const int64_t panel = lines.panel, padded = lines.padded;
  T *z = lines.z + i * panel, *hidden = lines.hidden + i * panel;
  Paced paced;
  for (int64_t m = first; m < last; m += neuron_block) {
    const int64_t count = last - m < neuron_block ? last - m : neuron_block;
    paced(count * net.inputs * panel);
    const Scalars<T> rows{lines.center + m * net.inputs, net.inputs, 1};
    const Panel<T> x{lines.x + i * net.inputs * panel, panel};
    const Start<T> start{lines.center + net.biases() + m, false};
    if (lines.samples - i * panel > lanes<T>)
      product<T>(rows, count, net.inputs, x, z + m * padded, padded, start);
    else
      product<T, 1, 2>(rows, count, net.inputs, x, z + m * padded, padded, start);
  }
  for (int64_t m = first; m < last; ++m) {
    if (lines.samples - i * panel <= lanes<T>) store(z + m * padded + lanes<T>, Vector<T>{});
    for (int64_t s = 0; s < panel; s += lanes<T>) store(hidden + m * padded + s, load(z + m * padded + s));
    activate_array(net.activation, hidden + m * padded, panel);
  }
}

template <class T>
void center_outputs(const CenterLines<T>& lines, int64_t i) {
  const Network& net = *lines.net;
  const int64_t panel = lines.panel, padded = lines.padded;
  const T* hidden = lines.hidden + i * panel;
  T* out = lines.out + i * panel;
  product<T>({lines.center + net.output_weights(), net.width, 1}, net.outputs, net.width, {hidden, padded}, out, padded,
             {nullptr, false});
  scale_outputs(net, lines.center, panel, out, padded);
  if (lines.loss.kind == LossKind::cross_entropy) return against_label(lines, i);
  with_loss(lines.loss, [&](auto tag) {
    if constexpr (decltype(tag)::of_residuals)
      for (int64_t k = 0; k < net.outputs; ++k)
        for (int64_t s = 0; s < panel; s += lanes<T>)
          store(out + k * padded + s, load(out + k * padded + s) - load(lines.y + i * panel + k * padded + s));
  });
}

template <class T>
int64_t scratch_size(const Network& net, int64_t padded, int64_t panel) {
  const int64_t atom = (net.outputs + 2) * padded + 2 * net.outputs + Replacements<2, true, T>::scratch_size(net);
  const int64_t network = net.width * panel + net.outputs * (padded + net.width);
  return (atom > network ? atom : network) + 64;
}

// Calls f(law, counted) with the loss and how its samples count.
template <class T, class F>
CBK_INLINE void with_counted(const CenterLines<T>& lines, F&& f) {
  with_loss(lines.loss, [&](auto law) {
    with_weights(lines.weights,
                 [&](auto weighted) { f(law, counted_from<weighted.value>(0, lines.samples, lines.weights)); });
  });
}

// Of any loss and any numbers: the sum of the losses with hidden values and c of neuron m replaced.  g: [outputs]
// lines.
template <class T>
F64 losses(const CenterLines<T>& lines, int64_t m, const T* hidden, const T* before, const T* c, T* g) {
  using V = Vector<T>;
  const int64_t outputs = lines.net->outputs, padded = lines.padded, end = vectors_of(lines.samples, lanes<T>);
  const T* own = lines.hidden + m * padded;
  F64 total{};
  with_counted(lines, [&](auto law, auto counted) {
    using Law = decltype(law);
    for (int64_t k = 0; k < outputs; ++k) {
      const V now = splat<V>(c[k]), was = splat<V>(before[k]);
      for (int64_t s = 0; s < end; s += lanes<T>) {
        const V out = mad(now, load(hidden + s), load(lines.out + k * padded + s) - was * load(own + s));
        if constexpr (Law::of_residuals)
          total = law.add(total, out, counted, s);
        else
          store(g + k * padded + s, out);
      }
    }
    if constexpr (!Law::of_residuals) total = law.value(total, g, lines.y, outputs, padded, lines.samples, counted);
  });
  return total;
}

// The hidden values of neuron m in both networks of draw p.
template <class T>
void replace_hidden(const CenterLines<T>& lines, const LowRankDraws<T>& draws, int64_t m, int64_t p, T* hidden) {
  using V = Vector<T>;
  const int64_t padded = lines.padded, end = vectors_of(lines.samples, lanes<T>);
  const T* z = lines.z + m * padded;
  const V bias = splat<V>(draws.spread * draws.rest[p * draws.rest_size + m]);
  for (int64_t s = 0; s < end; s += lanes<T>) {
    V by = bias;
    for (int64_t k = 0; k < draws.rank; ++k) {
      const int64_t row = p * draws.rank + k;
      by = mad(splat<V>(draws.spread * draws.factor[row * lines.net->width + m]), load(draws.along + row * padded + s),
               by);
    }
    store(hidden + s, load(z + s) + by), store(hidden + padded + s, load(z + s) - by);
  }
  activate_array(lines.net->activation, hidden, end);
  if (draws.mirrored) activate_array(lines.net->activation, hidden + padded, end);
}

template <class T>
void atom_of(const CenterLines<T>& lines, const LowRankDraws<T>& draws, int64_t m, int64_t p, T* scratch,
             double* sums) {
  const Network& net = *lines.net;
  const int64_t outputs = net.outputs, width = net.width, padded = lines.padded;
  const int signs = draws.mirrored ? 2 : 1;
  T *g = scratch, *hidden = g + outputs * padded, *before = hidden + 2 * padded, *c = before + outputs;
  const T* noise = draws.rest + p * draws.rest_size + width + m;
  replace_hidden(lines, draws, m, p, hidden);
  for (int q = 0; q < signs; ++q) {
    const T spread = T(net.scale) * (q == 0 ? draws.spread : -draws.spread);
    for (int64_t k = 0; k < outputs; ++k) {
      before[k] = T(net.scale) * lines.center[net.output_weights() + k * width + m];
      c[k] = before[k] + spread * noise[k * width];
    }
    sums[p * signs + q] += sum(losses(lines, m, hidden + q * padded, before, c, g));
  }
}

// Losses without neuron m.
template <class T>
double losses_without(const CenterLines<T>& lines, int64_t m, T* scratch) {
  const Network& net = *lines.net;
  T *g = scratch, *hidden = g + net.outputs * lines.padded, *c = hidden + 2 * lines.padded;
  for (int64_t s = 0; s < lines.padded; ++s) hidden[s] = 0;
  for (int64_t k = 0; k < net.outputs; ++k)
    c[k] = T(net.scale) * lines.center[net.output_weights() + k * net.width + m];
  return sum(losses(lines, m, hidden, c, c, g));
}

template <int signs, bool pairs, class T>
void atom_entropies(const CenterLines<T>& lines, const LowRankDraws<T>& draws, int64_t m, int64_t first, int64_t last,
                    T* scratch, double* sums) {
  using Replaced = Replacements<signs, pairs, T>;
  if (first == last) return;
  Replaced replaced(lines, draws, m, scratch);
  scratch += Replaced::scratch_size(*lines.net);
  std::optional<double> without;
  for (int64_t p = first; p < last; p += Replaced::most_draws) {
    replaced.score(p);
    for (int i = 0; i < Replaced::most_draws && p + i < last; ++i) {
      if (replaced.told(i)) {
        atom_of(lines, draws, m, p + i, scratch, sums);
        continue;
      }
      constexpr int networks = pairs ? 2 : 1;
      for (int q = 0; q < networks; ++q) {
        const bool off = replaced.off(q, i);
        if (off && !without) without = losses_without(lines, m, scratch);
        sums[(p + i) * networks + q] += off ? *without : replaced.total(q, i);
      }
    }
  }
}

template <class T>
void atom(const CenterLines<T>& lines, const LowRankDraws<T>& draws, int64_t m, int64_t first, int64_t last, T* scratch,
          double* sums) {
  if (lines.loss.kind == LossKind::cross_entropy) {
    if (!draws.mirrored) return atom_entropies<1, false>(lines, draws, m, first, last, scratch, sums);
    const int64_t left = (last - first) % lanes<T>, whole = 2 * left > lanes<T> ? last : last - left;
    atom_entropies<2, true>(lines, draws, m, first, whole, scratch, sums);
    return atom_entropies<1, true>(lines, draws, m, whole, last, scratch, sums);
  }
  Paced paced;
  for (int64_t p = first; p < last; ++p) {
    paced(lines.net->outputs * lines.padded * 20);
    atom_of(lines, draws, m, p, scratch, sums);
  }
}

// One sign's network of draw p: its hidden values, panel by panel, and its outputs g.
template <class T>
void network(const CenterLines<T>& lines, const LowRankDraws<T>& draws, int64_t p, T* scratch, double* sums) {
  using V = Vector<T>;
  const Network& net = *lines.net;
  const int64_t outputs = net.outputs, width = net.width, padded = lines.padded, panel = lines.panel;
  const int signs = draws.mirrored ? 2 : 1;
  T *hidden = scratch, *g = hidden + width * panel, *c = g + outputs * padded;
  const T* noise = draws.rest + p * draws.rest_size;
  Paced paced;
  for (int q = 0; q < signs; ++q) {
    const T spread = q == 0 ? draws.spread : -draws.spread;
    for (int64_t i = 0; i < outputs * width; ++i)
      c[i] = lines.center[net.output_weights() + i] + spread * noise[width + i];
    for (int64_t first = 0; first < padded; first += panel) {
      paced(width * (draws.rank + outputs + 8) * panel);
      for (int64_t m = 0; m < width; ++m) {
        for (int64_t s = 0; s < panel; s += lanes<T>) {
          V z = load(lines.z + m * padded + first + s) + spread * noise[m];
          for (int64_t k = 0; k < draws.rank; ++k) {
            const int64_t row = p * draws.rank + k;
            z = mad(splat<V>(spread * draws.factor[row * width + m]), load(draws.along + row * padded + first + s), z);
          }
          store(hidden + m * panel + s, z);
        }
      }
      activate_array(net.activation, hidden, width * panel);
      product<T>({c, width, 1}, outputs, width, {hidden, panel}, g + first, padded, {nullptr, false});
    }
    for (int64_t k = 0; k < outputs; ++k) {
      const T bias =
          net.output_bias ? lines.center[net.output_biases() + k] + spread * noise[width * (1 + outputs) + k] : 0;
      const V a = splat<V>(bias), scale = splat<V>(T(net.scale));
      for (int64_t s = 0; s < padded; s += lanes<T>) store(g + k * padded + s, mad(load(g + k * padded + s), scale, a));
    }
    with_counted(lines, [&](auto law, auto counted) {
      sums[p * signs + q] += sum(law.value(F64{}, g, lines.y, outputs, padded, lines.samples, counted));
    });
  }
}

template <class T>
void factors(NoiseKey key, uint32_t particle, int64_t rank, int64_t width, T* factor) {
  const int64_t words = (width + 31) / 32;
  const T size = T(1 / std::sqrt(double(rank)));
  Block block{};
  for (int64_t i = 0; i < rank * words; ++i) {
    if (i % 4 == 0)
      block = philox_words(key.seed, stream_signs, key.step, key.first_particle + particle, uint32_t(i / 4));
    const int64_t first = i % words * 32, count = width - first < 32 ? width - first : 32;
    for (int64_t m = 0; m < count; ++m)
      factor[i / words * width + first + m] = block.word[i % 4] >> m & 1 ? -size : size;
  }
}

template <class T>
void product_rows_of(const T* a, int64_t row, int64_t rows, int64_t depth, const T* x, int64_t stride, int64_t columns,
                     T* z, int64_t z_stride, bool accumulate) {
  const Start<T> start{nullptr, accumulate};
  if (columns > lanes<T>) return product<T>({a, row, 1}, rows, depth, {x, stride}, z, z_stride, start);
  product<T, 1, 2>({a, row, 1}, rows, depth, {x, stride}, z, z_stride, start);
  for (int64_t r = 0; r < rows && !accumulate; ++r) store(z + r * z_stride + lanes<T>, Vector<T>{});
}

template <class T>
void product_of_rows(const T* a, int64_t row, int64_t rows, int64_t depth, const T* const* x, int64_t first, T* z,
                     int64_t z_stride) {
  product<T, 2, 2>({a, row, 1}, rows, depth, RowPanel<T>{x, first}, z, z_stride, {nullptr, false});
}

// sum_rows of M columns of weights: what stands in `values` is read once for them.
template <int M, class T>
void sum_rows_of(int64_t rows, const double* weights, int64_t step, const T* factors, int64_t factor_step,
                 const T* values, int64_t stride, int64_t count, double* sum) {
  constexpr int64_t vectors = M > 1 ? 2 : 4, block = vectors * lanes<double>, most = 128;
  Paced paced;
  for (int64_t first = 0; first < rows; first += most, values += most * stride) {
    const int64_t own = rows - first < most ? rows - first : most;
    double by[most * M];
    for (int64_t row = 0; row < own; ++row)
      for (int m = 0; m < M; ++m) {
        by[row * M + m] = weights[(first + row) * step + m];
        if (factors) by[row * M + m] *= double(factors[(first + row) * factor_step + m]);
      }
    int64_t i = 0;
    for (; i + block <= count; i += block) {
      paced(own * M * block);
      F64 total[M][vectors];
      for (int m = 0; m < M; ++m)
        for (int j = 0; j < vectors; ++j) total[m][j] = load(sum + m * count + i + j * lanes<double>);
      for (int64_t row = 0; row < own; ++row)
        for (int j = 0; j < vectors; ++j) {
          const F64 value = load_double(values + row * stride + i + j * lanes<double>);
          for (int m = 0; m < M; ++m) total[m][j] = mad(splat<F64>(by[row * M + m]), value, total[m][j]);
        }
      for (int m = 0; m < M; ++m)
        for (int j = 0; j < vectors; ++j) store(sum + m * count + i + j * lanes<double>, total[m][j]);
    }
    for (; i < count; ++i)
      for (int64_t row = 0; row < own; ++row)
        for (int m = 0; m < M; ++m)
          sum[m * count + i] = mad(by[row * M + m], double(values[row * stride + i]), sum[m * count + i]);
  }
}

template <class T>
void sum_rows(int64_t rows, const double* weights, int64_t step, const T* factors, int64_t factor_step, const T* values,
              int64_t stride, int64_t count, double* sum, int64_t columns) {
  int64_t m = 0;
  const auto factors_of = [&] { return factors ? factors + m : nullptr; };
  for (; m + 4 <= columns; m += 4)
    sum_rows_of<4>(rows, weights + m, step, factors_of(), factor_step, values, stride, count, sum + m * count);
  for (; m < columns; ++m)
    sum_rows_of<1>(rows, weights + m, step, factors_of(), factor_step, values, stride, count, sum + m * count);
}

template <class T>
void sum_columns(int64_t rows, const double* weights, int64_t columns, const T* values, int64_t stride, int64_t repeats,
                 double* sum) {
  Paced paced;
  for (int64_t row = 0; row < rows; ++row, weights += columns, values += stride) {
    paced(repeats * columns);
    for (int64_t j = 0; j < repeats; ++j)
      for (int64_t i = 0; i < columns; ++i)
        sum[j * columns + i] = mad(weights[i], double(values[j * columns + i]), sum[j * columns + i]);
  }
}

}  // namespace

template <class T>
LowRankKernels<T> low_rank_kernels() {
  return {lanes<T>,           center<T>,          center_outputs<T>, scratch_size<T>, atom<T>, network<T>, factors<T>,
          product_rows_of<T>, product_of_rows<T>, sum_rows<T>,       sum_columns<T>,  gram,    cholesky,   invert};
}
template LowRankKernels<float> low_rank_kernels();
template LowRankKernels<double> low_rank_kernels();

}  // namespace cbk::CBK_ISA
