// Cross entropies of the centre with one neuron replaced, of some draws, which are a vector's lanes.
//
//   loss = log1p(t),  t = sum over k but the label of exp(out_k - out_label)
// What replacing the neuron adds to an output, d_k = c'_k h' - c_k h, is small.  The centre's exponentials are made
// once, for all neurons and draws, and exp(d_k) is a short polynomial as far as that is exact to 1e-6:
//   t' = exp(-d_label) sum_k exp(out_k - out_label) exp(d_k),  |d_k| <= max |c'| |h' - h| + max |c' - c| |h|
// Where the bound is 0, as of a ReLU that is 0 in all draws, the loss is the centre's.  How a sample is summed depends
// on all draws of its vector.  The networks in which the neuron is 0 on all samples have equal losses and must not be
// told apart by what stands beside them: they are left to the caller.
#pragma once

#include <limits>

#include "../common/interrupt.hpp"
#include "../common/loss.hpp"
#include "../common/transpose.hpp"
#include "lane_sums.hpp"
#include "low_rank.hpp"
#include "powers.hpp"

namespace cbk::CBK_ISA {

// Neuron m of the centre replaced in the networks of a vector's draws.  A sample takes a vector of each sign, or with
// pairs and one sign both stand in one vector, those that add in its first half.
template <int signs, bool pairs, class T>
class Replacements {
 public:
  static constexpr int most_draws = pairs && signs == 1 ? lanes<T> / 2 : lanes<T>;

  static int64_t scratch_size(const Network& net) {
    return (2 + signs * lanes<T>)*row_of(net.outputs) + (samples_together * signs + 6) * lanes<T>;
  }

  Replacements(const CenterLines<T>& lines, const LowRankDraws<T>& draws, int64_t m, T* scratch)
      : lines_(lines),
        draws_(draws),
        m_(m),
        outputs_(lines.net->outputs),
        before_(scratch),
        rest_(before_ + row_of(outputs_)),
        c_(rest_ + row_of(outputs_)),
        noise_(c_ + signs * lanes<T> * row_of(outputs_)),
        reach_(noise_ + lanes<T>),
        bias_(reach_ + lanes<T>),
        along_(bias_ + lanes<T>),
        far_bias_(along_ + lanes<T>),
        far_along_(far_bias_ + lanes<T>),
        hidden_(far_along_ + lanes<T>),
        computed_(lines.net->activation == Activation::relu && draws.rank == 1) {
    const Network& net = *lines.net;
    for (int64_t k = 0; k < row_of(outputs_); ++k) {
      before_[k] = k < outputs_ ? T(net.scale) * lines.center[net.output_weights() + k * net.width + m] : 0;
      const T size = before_[k] < 0 ? -before_[k] : before_[k];
      if (size > most_) most_ = size;  // of NaN the highest output, a NaN too, tells
      before_[k] *= quarter;
    }
  }

  // Losses of the draws from `first` on are summed in total; lanes with numbers too large for that are marked.
  void score(int64_t first) {
    const int64_t samples = lines_.samples, stride = samples_together;
    take(first);
    Paced paced;
    for (int64_t s = 0; s < samples; s += stride) {
      const int64_t count = samples - s < stride ? samples - s : stride;
      paced(count * signs * (outputs_ + 4) * lanes<T>);
      uint64_t above[levels] = {};
      computed_ ? find_moved(first, s, count, above) : make_hidden(first, s, count, above);
      find_alive(s, count);
      // whose losses, and what is added to whose outputs, polynomials do not give exactly
      const T *highest = lines_.highest + s, *size = (computed_ ? lines_.z : lines_.hidden) + m_ * lines_.padded + s;
      const uint64_t unsure = samples_above(count, 60, [=](int64_t i) { return load(highest + i); });
      const uint64_t large =
          samples_above(count, most_size, [=, this](int64_t i) { return reaches_ * abs(load(size + i)); });
      for (uint64_t& each : above) each |= unsure | large;
      add_idle(s, count, ~above[0] & all_ones(count));
      if constexpr (polynomials) {
        add<4>(s, above[0] & ~above[1]);
        add<6>(s, above[1] & ~above[2]);
      }
      each(above[levels - 1], [&](int64_t i) { add_exact(s, i); });
    }
    if (held_ > 0) flush();
    for (const F64& part : idle_.part) idle_sum_ += sum(part);
  }

  bool told(int draw) const { return (far_[draw] | (folded ? far_[draw + most_draws] : 0)) != 0; }
  // Whether the neuron is 0 on all samples that count.
  bool off(int sign, int draw) const {
    return (alive_[folded ? 0 : sign] >> (folded ? draw + sign * most_draws : draw) & 1) == 0;
  }
  double total(int sign, int draw) const {
    return idle_sum_ + (folded ? lane_of(total_[0], draw + sign * most_draws) : lane_of(total_[sign], draw));
  }

 private:
  using V = Vector<T>;
  static constexpr bool folded = pairs && signs == 1;
  static constexpr int64_t samples_together = 64;
  // One logarithm is taken of several samples, (1 + t) (1 + t') = 1 + ..., whose losses at the centre, and what they
  // may gain, make less than `held_most`.  The largest loss of such a sample.
  static constexpr T held_most = 64, most_loss = 6;
  // Of numbers |c'| h, summed over the draws, and |c'| h itself.  Differences of larger ones are not exact enough for a
  // polynomial's range, and not for an exponential's.
  static constexpr T most_size = 1e4, largest_size = T(0.1) / std::numeric_limits<T>::epsilon();
  static constexpr bool polynomials = sizeof(T) == 4;
  // How far outputs move: at all, and farther than polynomials of degrees 4 and 6 reach.
  static constexpr int levels = polynomials ? 3 : 1;
  static constexpr T ends[3] = {0, Power<4>::end, Power<6>::end};
  static constexpr T quarter = T(0.25);  // of d is what `power` takes

  static int64_t row_of(int64_t count) { return (count + lanes<T> - 1) / lanes<T> * lanes<T>; }
  static double lane_of(const LaneSums<T>& sums, int lane) {
    return sums.part[lane / lanes<double>][lane % lanes<double>];
  }

  // c of the draws, and what is to be summed set to 0.
  void take(int64_t first) {
    const Network& net = *lines_.net;
    const T spread = T(net.scale) * draws_.spread;
    const T* rest = draws_.rest_across + first * draws_.rest_size;
    count_ = draws_.count - first < most_draws ? draws_.count - first : most_draws;
    V largest{};
    for (int64_t k = 0; k < outputs_; ++k) {
      const V by = both(spread) * load_draws(rest, net.width * (1 + k) + m_), c = splat<V>(before_[k]);
      largest = max(abs(by), largest);
      store(c_ + k * lanes<T>, mad(by, splat<V>(quarter), c));
      if (signs == 2) store(c_ + (outputs_ + k) * lanes<T>, mad(by, splat<V>(-quarter), c));
    }
    store(noise_, largest), store(reach_, largest + most_);
    reaches_ = 0;
    for (int64_t p = 0; p < count_; ++p) reaches_ += reach_[p];
    store(bias_, both(draws_.spread) * load_draws(rest, m_));
    if (computed_) {
      store(along_, steps(draws_.factor + first * net.width + m_, net.width));
      store(far_bias_, load(reach_) * load(bias_)), store(far_along_, load(reach_) * load(along_));
    }
    across_ = draws_.across + first * draws_.rank * lines_.padded;
    for (LaneSums<T>& sums : total_) sums = {};
    for (V& each : terms_) each = V{};
    for (uint32_t& each : alive_) each = 0;
    far_ = Int<V>{}, idle_ = {}, idle_sum_ = 0, held_ = 0;
  }

  // Bit i says whether value(i), of i < count, is above the limit, or NaN.
  template <class F>
  static CBK_INLINE uint64_t samples_above(int64_t count, T limit, F&& value) {
    uint64_t above = 0;
    for (int64_t i = 0; i < count; i += lanes<T>) above |= uint64_t(lanes_above(value(i), limit)) << i;
    return above & all_ones(count);
  }
  static uint64_t all_ones(int64_t count) { return ~uint64_t(0) >> (64 - count); }
  // f(i) for each bit i.
  template <class F>
  static CBK_INLINE void each(uint64_t bits, F&& f) {
    for (; bits; bits &= bits - 1) f(int64_t(__builtin_ctzll(bits)));
  }

  // The spread in the lanes of networks that add, and what others take off.
  static CBK_INLINE V both(T spread) {
    T each[lanes<T>];
    for (int i = 0; i < lanes<T>; ++i) each[i] = i < most_draws ? spread : -spread;
    return load(each);
  }
  // Line i of [..][lanes] numbers of the draws, in the lanes of their networks.
  static CBK_INLINE V load_draws(const T* across, int64_t i) {
    const V x = load(across + i * lanes<T>);
    return [&]<size_t... lane>(std::index_sequence<lane...>) {
      return picked(x, x, std::index_sequence<lane % most_draws...>{});
    }(std::make_index_sequence<lanes<T>>{});
  }
  // The spread times the draws' factors, `stride` numbers apart.
  CBK_INLINE V steps(const T* factor, int64_t stride) const {
    T step[lanes<T>] = {};
    for (int64_t i = 0; i < count_; ++i) step[i] = factor[i * stride];
    return both(draws_.spread) * load_draws(step, 0);
  }

  // Bit i of above[level] says that sample s + i of [s, s + count) moves so far: which do looks random, and no branch
  // depends on it.  Of ReLUs a lane is a sample here, so that the largest number of the draws needs no shuffles.  A
  // hidden value is max(0, z + |move|) at most, which is not below the centre's: with h' for it, and |c'| as |c| and
  // |c' - c| at most, the bound above is |c'| h' - |c| h, of which only |c'| h' is the draws'.
  void find_moved(int64_t first, int64_t s, int64_t count, uint64_t (&above)[levels]) const {
    constexpr int64_t pair = 2 * lanes<T>;  // lines are of whole pairs of vectors
    int64_t i = 0;
    for (; count - i > pair; i += 2 * pair) find_moved_of<4>(first, s + i, i, above);
    if (i < count) find_moved_of<2>(first, s + i, i, above);
    for (uint64_t& each : above) each &= all_ones(count);
  }
  // Of so many vectors of samples, the first of which has bit i.
  template <int together>
  CBK_INLINE void find_moved_of(int64_t first, int64_t s, int64_t i, uint64_t (&above)[levels]) const {
    const int64_t padded = lines_.padded;
    const T *z = lines_.z + m_ * padded + s, *hidden = lines_.hidden + m_ * padded + s,
            *x = draws_.along + first * padded + s;
    Int<V> most[together] = {};  // bits of |c'| (z + |move|): NaN, whose sign abs() takes, is above all
    for (int64_t p = 0; p < count_; ++p, x += padded) {
      const V bias = splat<V>(far_bias_[p]), by = splat<V>(far_along_[p]), reach = splat<V>(reach_[p]);
      CBK_UNROLL(4)
      for (int j = 0; j < together; ++j) {
        const V move = mad(by, load(x + j * lanes<T>), bias);
        const Int<V> far = bits<Int<V>>(mad(reach, load(z + j * lanes<T>), abs(move)));
        most[j] = most[j] > far ? most[j] : far;
      }
    }
    CBK_UNROLL(4)
    for (int j = 0; j < together; ++j) {
      const V far = bits<V>(most[j]), moved = far - most_ * load(hidden + j * lanes<T>);
      for (int level = 0; level < levels; ++level)
        above[level] |= uint64_t(lanes_above(level == 0 ? far : moved, ends[level])) << (i + j * lanes<T>);
    }
  }

  // The same of any activation and rank, whose hidden values are kept.  The last sample comes first, and its bit is
  // shifted on.
  void make_hidden(int64_t first, int64_t s, int64_t count, uint64_t (&above)[levels]) {
    const int64_t padded = lines_.padded, rank = draws_.rank, width = lines_.net->width;
    const T *along = across_, *z = lines_.z + m_ * padded + s;
    const T *factor = draws_.factor + first * rank * width + m_, *before = lines_.hidden + m_ * padded + s;
    const V bias = load(bias_), noise = load(noise_), reach = load(reach_);
    for (int64_t k = 0; k + 1 < rank; ++k, along += padded * lanes<T>, factor += width) {
      const V by = steps(factor, rank * width);
      for (int64_t i = 0; i < count; ++i) {
        T* h = hidden_ + i * signs * lanes<T>;
        store(h, mad(by, load_draws(along, s + i), k == 0 ? bias : load(h)));
      }
    }
    const V last = steps(factor, rank * width);
    for (int64_t i = 0; i < count; ++i) {
      T* h = hidden_ + i * signs * lanes<T>;
      const V by = mad(last, load_draws(along, s + i), rank == 1 ? bias : load(h)), at = splat<V>(z[i]);
      store(h, at + by);
      if (signs == 2) store(h + lanes<T>, at - by);
    }
    activate_array(lines_.net->activation, hidden_, count * signs * lanes<T>);
    for (int64_t i = count - 1; i >= 0; --i) {
      V values[2];
      load_hidden(s, i, values);
      const V most = bound<signs>(values, splat<V>(before[i]), noise, reach);
      for (int level = 0; level < levels; ++level)
        above[level] = 2 * above[level] + (lanes_above(most, ends[level]) != 0);
    }
  }

  // The hidden values of sample s + i.
  CBK_INLINE void load_hidden(int64_t s, int64_t i, V* h) const {
    if (computed_) {
      const V by = mad(load(along_), load_draws(across_, s + i), load(bias_)),
              at = splat<V>(lines_.z[m_ * lines_.padded + s + i]);
      h[0] = max(V{}, at + by);
      if (signs == 2) h[1] = max(V{}, at - by);
      return;
    }
    CBK_UNROLL(2)
    for (int q = 0; q < signs; ++q) h[q] = load(hidden_ + (i * signs + q) * lanes<T>);
  }

  // Samples on which the centre's neuron is on come first: a few of them find all draws but such as are nearly off.
  void find_alive(int64_t s, int64_t count) {
    constexpr uint32_t all = uint32_t(~uint64_t(0) >> (64 - lanes<T>));
    const auto look = [&](uint64_t at) {
      for (; at && (alive_[0] & alive_[signs - 1]) != all; at &= at - 1) {
        const int64_t i = __builtin_ctzll(at);
        if (weight_of(s + i) == 0) continue;
        V h[2];
        load_hidden(s, i, h);
        CBK_UNROLL(2)
        for (int q = 0; q < signs; ++q) alive_[q] |= lanes_above(abs(h[q]), T(0));
      }
    };
    if ((alive_[0] & alive_[signs - 1]) == all) return;
    const T* const was = lines_.hidden + m_ * lines_.padded + s;
    const uint64_t on = samples_above(count, 0, [=](int64_t i) { return load(was + i); });
    look(on), look(~on & all_ones(count));
  }

  // How far outputs move at most, with hidden values h in place of `was`.
  template <int count = 1>
  static CBK_INLINE V bound(const V* h, V was, V noise, V reach) {
    V change = abs(h[0] - was);
    if constexpr (count == 2) change = max(abs(h[1] - was), change);
    return mad(reach, change, noise * abs(was));
  }

  T weight_of(int64_t s) const { return lines_.weights ? lines_.weights[s] : T(1); }

  // Those of samples [s, s + count) whose losses are the centre's.
  CBK_INLINE void add_idle(int64_t s, int64_t count, uint64_t which) {
    for (int64_t i = 0; i < count; i += lanes<T>) {
      const V loss = kept(load(lines_.loss_of + s + i), uint32_t(which >> i));
      lines_.weights ? idle_.add_products(loss, load(lines_.weights + s + i)) : idle_.add(loss);
    }
  }

  template <int degree>
  CBK_INLINE void add(int64_t s0, uint64_t which) {
    each(which, [&](int64_t i) {
      const T loss = lines_.loss_of[s0 + i];
      if (!(loss <= most_loss)) return add_exact(s0, i);
      V h[2], t[signs];
      load_hidden(s0, i, h);
      others<degree>(s0 + i, h, t);
      if (lines_.weights) return add_logarithms(t, s0 + i);
      CBK_UNROLL(2)
      for (int q = 0; q < signs; ++q) terms_[q] = mad(terms_[q], t[q], terms_[q] + t[q]);
      if ((held_ += loss + 2 * T(Power<degree>::end)) > held_most) flush();
    });
  }
  void add_logarithms(const V (&t)[signs], int64_t s) {
    const T weight = weight_of(s);
    if (weight == 0) return;
    CBK_UNROLL(2)
    for (int q = 0; q < signs; ++q) total_[q].add(log1p(t[q]), weight);
  }

  void add_exact(int64_t s0, int64_t i) {
    const int64_t s = s0 + i;
    if (weight_of(s) == 0) return;
    const T highest = lines_.highest[s];
    V h[2], t[signs];
    load_hidden(s0, i, h);
    // where an exponential is above e^60 a logarithm is not exact any more
    const T limit = highest < 58 ? T(0.5) * (60 - highest) : highest > 0 ? T(-1) : T(NAN);
    others<0>(s, h, t);
    const V was = splat<V>(lines_.hidden[m_ * lines_.padded + s]), reach = load(reach_);
    const V most = bound<signs>(h, was, load(noise_), reach);
    far_ = far_ | ~(most <= (limit < 30 ? limit : T(30))) | ~(reach * abs(was) <= largest_size);
    add_logarithms(t, s);
  }

  template <int degree>
  CBK_INLINE void others(int64_t s, const V* h, V (&t)[signs]) {
    const T was = lines_.hidden[m_ * lines_.padded + s], *excess = lines_.excess + s * outputs_;
    const int64_t label = lines_.label[s];
    for (int64_t k = 0; k < outputs_; k += lanes<T>) store(rest_ + k, load(before_ + k) * -was);
    V sum[signs] = {};
    for (int64_t other = 0; other < outputs_ - 1; ++other) {  // the ends of two loops would be mispredicted
      const int64_t k = other + (other >= label);
      const V e = splat<V>(excess[k]);
      CBK_UNROLL(2)
      for (int q = 0; q < signs; ++q) sum[q] = mad(e, power<degree>(added(k, q, h[q])), sum[q]);
    }
    T lead = 1;
    if constexpr (degree > 0) lead = T(Power<degree>::lead * Power<degree>::lead);
    CBK_UNROLL(2)
    for (int q = 0; q < signs; ++q) t[q] = lead * sum[q] * power<degree>(-added(label, q, h[q]));
  }
  CBK_INLINE V added(int64_t k, int q, V h) const {
    return mad(load(c_ + (q * outputs_ + k) * lanes<T>), h, splat<V>(rest_[k]));
  }

  void flush() {
    for (int q = 0; q < signs; ++q) total_[q].add(log1p(terms_[q])), terms_[q] = V{};
    held_ = 0;
  }

  const CenterLines<T>& lines_;
  const LowRankDraws<T>& draws_;
  const int64_t m_, outputs_;
  int64_t count_ = 0;         // of the draws at hand
  T most_ = 0;                // |c| of the centre at most
  T reaches_;                 // the sum of reach_
  T *before_, *rest_;         // [outputs]: a quarter of c of the centre, scaled as all of them; -c h of it
  T* c_;                      // [signs][outputs][lanes]: a quarter of c of the draws
  T *noise_, *reach_;         // [lanes]: |c' - c| and |c'| at most
  T *bias_, *along_;          // [lanes]: what the draws add to z, along_ times X b where `computed_`
  T *far_bias_, *far_along_;  // their products with reach_
  T* hidden_;                 // [samples_together][signs][lanes], but where `computed_`
  const T* across_;           // X b of the draws
  const bool computed_;       // hidden values are computed where they are wanted
  LaneSums<T> total_[signs];
  V terms_[signs];         // of samples with the losses `held_`
  Int<V> far_;             // lanes with numbers that are too large
  uint32_t alive_[signs];  // bits of lanes that are not 0 on some sample
  LaneSums<T> idle_;       // of samples whose losses are the centre's
  double idle_sum_;
  T held_;
};

}  // namespace cbk::CBK_ISA
