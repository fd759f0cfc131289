// Inner kernels of low_rank.hpp, compiled once per instruction set.
#include "low_rank.hpp"

#include "../common/philox.hpp"
#include "../common/transpose.hpp"
#include "../risk/outputs.hpp"
#include "../risk/products/product.hpp"
#include "entropies.hpp"

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
void center(const CenterLines<T>& lines, int64_t i) {
  const Network& net = *lines.net;
  const int64_t panel = lines.panel, padded = lines.padded;
  T *z = lines.z + i * panel, *hidden = lines.hidden + i * panel, *out = lines.out + i * panel;
  Paced paced;
  for (int64_t m = 0; m < net.width; m += neuron_block) {
    const int64_t count = net.width - m < neuron_block ? net.width - m : neuron_block;
    paced(count * net.inputs * panel);
    const Scalars<T> rows{lines.center + m * net.inputs, net.inputs, 1};
    const Panel<T> x{lines.x + i * net.inputs * panel, panel};
    const Start<T> start{lines.center + net.biases() + m, false};
    if (lines.samples - i * panel > lanes<T>)
      product<T>(rows, count, net.inputs, x, z + m * padded, padded, start);
    else
      product<T, 1, 2>(rows, count, net.inputs, x, z + m * padded, padded, start);
  }
  for (int64_t m = 0; m < net.width && lines.samples - i * panel <= lanes<T>; ++m)
    store(z + m * padded + lanes<T>, Vector<T>{});
  for (int64_t m = 0; m < net.width; ++m) {
    for (int64_t s = 0; s < panel; s += lanes<T>) store(hidden + m * padded + s, load(z + m * padded + s));
    activate_array(net.activation, hidden + m * padded, panel);
  }
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
    sums[(p * signs + q) * width + m] += sum(losses(lines, m, hidden + q * padded, before, c, g));
  }
}

template <int signs, bool pairs, class T>
void atom_entropies(const CenterLines<T>& lines, const LowRankDraws<T>& draws, int64_t m, int64_t first, int64_t last,
                    T* scratch, double* sums) {
  using Replaced = Replacements<signs, pairs, T>;
  if (first == last) return;
  Replaced replaced(lines, draws, m, scratch);
  scratch += Replaced::scratch_size(*lines.net);
  for (int64_t p = first; p < last; p += Replaced::most_draws) {
    replaced.score(p);
    for (int i = 0; i < Replaced::most_draws && p + i < last; ++i) {
      if (replaced.told(i)) {
        atom_of(lines, draws, m, p + i, scratch, sums);
        continue;
      }
      constexpr int networks = pairs ? 2 : 1;
      for (int q = 0; q < networks; ++q) sums[((p + i) * networks + q) * lines.net->width + m] += replaced.total(q, i);
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
void sum_rows(int64_t rows, const double* weights, int64_t step, const T* factors, int64_t factor_step, const T* values,
              int64_t stride, int64_t count, double* sum) {
  constexpr int64_t vectors = 4, block = vectors * lanes<double>;
  Paced paced;
  int64_t i = 0;
  for (; i + block <= count; i += block) {
    paced(rows * block);
    F64 total[vectors];
    for (int j = 0; j < vectors; ++j) total[j] = load(sum + i + j * lanes<double>);
    for (int64_t row = 0; row < rows; ++row) {
      const double weight = weights[row * step];
      const F64 w = splat<F64>(factors ? weight * double(factors[row * factor_step]) : weight);
      const T* from = values + row * stride + i;
      for (int j = 0; j < vectors; ++j) total[j] = mad(w, load_double(from + j * lanes<double>), total[j]);
    }
    for (int j = 0; j < vectors; ++j) store(sum + i + j * lanes<double>, total[j]);
  }
  for (; i < count; ++i)
    for (int64_t row = 0; row < rows; ++row) {
      const double weight = weights[row * step];
      sum[i] =
          mad(factors ? weight * double(factors[row * factor_step]) : weight, double(values[row * stride + i]), sum[i]);
    }
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

void gram(const double* x, const double* with, int64_t line, int64_t depth, int64_t columns, double* block,
          int64_t stride) {
  const Scalars<double> a{x, 1, line};
  if (columns <= lanes<double>)
    return product<double, 1, 2>(a, panel_width<double>, depth, {with, line}, block, stride, {nullptr, false});
  product<double>(a, panel_width<double>, depth, {with, line}, block, stride, {nullptr, false});
}

constexpr int rows_at_once = 4;  // each number of a row is loaded and stored once for so many that are taken off it

// to[k] += sum over the rows i < count of by[i] rows[i][k], in their order, k in [first, last).
CBK_INLINE void add_rows(const double* by, const double* rows, int64_t stride, int64_t count, int64_t first,
                         int64_t last, double* to) {
  int64_t k = first;
  for (; k + lanes<double> <= last; k += lanes<double>) {
    F64 sum = load(to + k);
    if (count == rows_at_once) {
      CBK_UNROLL(4)
      for (int i = 0; i < rows_at_once; ++i) sum = mad(splat<F64>(by[i]), load(rows + i * stride + k), sum);
    } else {
      for (int64_t i = 0; i < count; ++i) sum = mad(splat<F64>(by[i]), load(rows + i * stride + k), sum);
    }
    store(to + k, sum);
  }
  for (; k < last; ++k)
    for (int64_t i = 0; i < count; ++i) to[k] = mad(by[i], rows[i * stride + k], to[k]);
}

bool cholesky(double* upper, int64_t size, int64_t stride) {
  constexpr int64_t width = lanes<double>;
  const int64_t end = vectors_of(size, width);
  Paced paced;
  for (int64_t first = 0; first < size; first += rows_at_once) {
    const int64_t count = size - first < rows_at_once ? size - first : rows_at_once;
    const double* const rows = upper + first * stride;
    double by[rows_at_once];
    for (int64_t i = first; i < size; ++i) {  // what stands below the diagonal is not looked at
      double* const row = upper + i * stride;
      const int64_t above = i - first < count ? i - first : count;
      for (int64_t j = 0; j < above; ++j) by[j] = -rows[j * stride + i];
      add_rows(by, rows, stride, above, i / width * width, end, row);
      if (above == count) continue;
      const double pivot = row[i];
      if (!(pivot > 0 && pivot < HUGE_VAL)) return false;
      const double inverse = 1 / std::sqrt(pivot);
      for (int64_t k = i; k < size; ++k) row[k] *= inverse;
    }
    paced((size - first) * (size - first) * rows_at_once / 2);
  }
  return true;
}

// Rows [i, i + R) of the columns of L^-1 from `first` on, which are a panel's, from the rows before them.
template <int R>
void invert_rows(const double* upper, int64_t stride, int64_t first, int64_t i, double* inverse) {
  constexpr int width = lanes<double>;
  double* const to = inverse + i * stride + first;
  F64 x[R][2] = {};
  for (int64_t k = first; k < i; ++k) {
    const double *from = inverse + k * stride + first, *by = upper + k * stride + i;
    const F64 low = load(from), high = load(from + width);
    CBK_UNROLL(8)
    for (int r = 0; r < R; ++r) {
      const F64 l = splat<F64>(-by[r]);
      x[r][0] = mad(l, low, x[r][0]), x[r][1] = mad(l, high, x[r][1]);
    }
  }
  CBK_UNROLL(8)
  for (int r = 0; r < R; ++r) {
    const double* const row = upper + (i + r) * stride + i;
    double own[2 * width] = {};
    if (i + r < first + 2 * width) own[i + r - first] = 1;
    const F64 by = splat<F64>(1 / row[r]);
    x[r][0] = (x[r][0] + load(own)) * by, x[r][1] = (x[r][1] + load(own + width)) * by;
    store(to + r * stride, x[r][0]), store(to + r * stride + width, x[r][1]);
    CBK_UNROLL(8)
    for (int below = r + 1; below < R; ++below) {
      const F64 l = splat<F64>(-row[below]);
      x[below][0] = mad(l, x[r][0], x[below][0]), x[below][1] = mad(l, x[r][1], x[below][1]);
    }
  }
}

void invert(const double* upper, int64_t size, int64_t stride, int64_t first, double* inverse) {
  constexpr int rows = 8;
  Paced paced;
  int64_t i = first;
  for (; i + rows <= size; i += rows) {
    paced((i - first) * panel_width<double> * rows);
    invert_rows<rows>(upper, stride, first, i, inverse);
  }
  for (; i < size; ++i) {
    paced((i - first) * panel_width<double>);
    invert_rows<1>(upper, stride, first, i, inverse);
  }
}

}  // namespace

template <class T>
LowRankKernels<T> low_rank_kernels() {
  return {lanes<T>,           center<T>,   scratch_size<T>, atom<T>, network<T>, factors<T>,
          product_rows_of<T>, sum_rows<T>, sum_columns<T>,  gram,    cholesky,   invert};
}
template LowRankKernels<float> low_rank_kernels();
template LowRankKernels<double> low_rank_kernels();

}  // namespace cbk::CBK_ISA
