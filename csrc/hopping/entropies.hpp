// Cross entropies of the centre with one neuron replaced, of some draws, which are a vector's lanes.
//
//   loss = log1p(t),  t = sum over k but the label of exp(out_k - out_label)
// What replacing the neuron adds to an output, d_k = c'_k h' - c_k h, is small.  The centre's exponentials are made
// once, for all neurons and draws, and exp(d_k) is a short polynomial as far as that is exact to 1e-6:
//   t' = exp(-d_label) sum_k exp(out_k - out_label) exp(d_k),  |d_k| <= max |c| |h' - h| + max |c' - c| |h'|
// Where the bound is 0, as of a ReLU that is 0 in all draws, the loss is the centre's.
#pragma once

#include "../common/activation.hpp"
#include "../common/interrupt.hpp"
#include "../common/loss.hpp"
#include "low_rank.hpp"

namespace cbk::CBK_ISA {

// e^d = 1 + d p(d) for |d| up to `end`, of least relative error: 5e-7, 8e-7 [fitted by linear programming].
template <int degree>
struct Power;
template <>
struct Power<4> {
  static constexpr float P[4] = {0.04159057885f, 0.1673022807f, 0.500007987f, 0.9999906421f};
  static constexpr float end = 0.25f;
};
template <>
struct Power<6> {
  static constexpr float P[6] = {0.001362827024f, 0.008541970514f, 0.04170551524f,
                                 0.1666077375f,   0.4999913573f,   1.000003576f};
  static constexpr float end = 0.8f;
};

// 2^r = 1 + r p(r) on [-1/2, 1/2], likewise, to 1e-7.
struct PowerOfTwo {
  static constexpr float P[5] = {0.001326472032f, 0.009671512991f, 0.05550733954f, 0.2402224243f, 0.6931470037f};
};

// e^d, of degree 0 wherever that is a normal number.
template <int degree>
CBK_INLINE F32 power(F32 d) {
  if constexpr (degree > 0) return mad(horner<Power<degree>::P>(d), d, splat<F32>(1));
  const F32 x = d * 1.44269504f, shift = splat<F32>(12582912.0f), t = x + shift, r = x - (t - shift);
  const F32 p = mad(horner<PowerOfTwo::P>(r), r, splat<F32>(1));
  return bits<F32>(bits<I32>(p) + (bits<I32>(t) << 23));
}
template <int degree>
CBK_INLINE F64 power(F64 d) {
  return exp(d);
}

// Whether a lane of v is above the limit, or NaN.
template <class V>
CBK_INLINE bool any_above(V v, Scalar<V> limit) {
#if defined(CBK_AVX512)
  if constexpr (sizeof(limit) == 4)
    return _mm512_cmp_ps_mask(v, splat<V>(limit), _CMP_NLE_UQ) != 0;
  else
    return _mm512_cmp_pd_mask(v, splat<V>(limit), _CMP_NLE_UQ) != 0;
#elif defined(CBK_AVX2)
  if constexpr (sizeof(limit) == 4)
    return _mm256_movemask_ps(_mm256_cmp_ps(v, splat<V>(limit), _CMP_NLE_UQ)) != 0;
  else
    return _mm256_movemask_pd(_mm256_cmp_pd(v, splat<V>(limit), _CMP_NLE_UQ)) != 0;
#else
  bool any = false;
  for (int i = 0; i < lanes<Scalar<V> >; ++i) any = any || !(v[i] <= limit);
  return any;
#endif
}

// Numbers of a vector's lanes, summed in float64.
template <class T>
struct LaneSums {
  F64 part[lanes<T> / lanes<double>] = {};

  CBK_INLINE void add(F32 v) {
    const Pair64 wide = widen(v);
    part[0] = part[0] + wide.low, part[1] = part[1] + wide.high;
  }
  CBK_INLINE void add(F64 v) { part[0] = part[0] + v; }
  CBK_INLINE void add(F32 v, double weight) {
    const Pair64 wide = widen(v);
    part[0] = mad(wide.low, splat<F64>(weight), part[0]), part[1] = mad(wide.high, splat<F64>(weight), part[1]);
  }
  CBK_INLINE void add(F64 v, double weight) { part[0] = mad(v, splat<F64>(weight), part[0]); }
};

// Neuron m of the centre replaced in both networks of a vector's draws.
template <int signs, class T>
class Replacements {
 public:
  static int64_t scratch_size(const Network& net) {
    return (2 + signs * lanes<T>)*row_of(net.outputs) + (samples_together * (signs + 1) + 1) * lanes<T>;
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
        hidden_(noise_ + lanes<T>),
        bound_(hidden_ + samples_together * signs * lanes<T>) {
    const Network& net = *lines.net;
    for (int64_t k = 0; k < row_of(outputs_); ++k) {
      before_[k] = k < outputs_ ? T(net.scale) * lines.center[net.output_weights() + k * net.width + m] : 0;
      const T size = before_[k] < 0 ? -before_[k] : before_[k];
      if (!(size <= most_)) most_ = size;  // NaN stays
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
      make_hidden(first, s, count);
      // which samples move looks random: they are listed without a branch
      int64_t moving[samples_together], listed = 0;
      for (int64_t i = 0; i < count; ++i) {
        const bool moves = bound(s + i, i);
        const T weight = weight_of(s + i);
        moving[listed] = i, listed += moves;
        idle_ += moves || weight == 0 ? 0 : double(weight) * double(lines_.loss_of[s + i]);
      }
      for (int64_t i = 0; i < listed; ++i) add(s + moving[i], moving[i]);
    }
    if (held_) flush();
  }

  bool told(int lane) const { return far_[lane] != 0; }
  double total(int sign, int lane) const { return idle_ + lane_of(total_[sign], lane); }

 private:
  using V = Vector<T>;
  static constexpr int64_t samples_together = 64;
  static constexpr int logs_together = 4;  // samples of which one logarithm is taken: (1 + t) (1 + t') = 1 + ...
  static constexpr bool polynomials = sizeof(T) == 4;

  static int64_t row_of(int64_t count) { return (count + lanes<T> - 1) / lanes<T> * lanes<T>; }
  static double lane_of(const LaneSums<T>& sums, int lane) {
    return sums.part[lane / lanes<double>][lane % lanes<double>];
  }

  // c of the draws, and what is to be summed set to 0.
  void take(int64_t first) {
    const Network& net = *lines_.net;
    const T spread = T(net.scale) * draws_.spread;
    const int64_t count = draws_.count - first < lanes<T> ? draws_.count - first : lanes<T>;
    V largest{};
    for (int64_t k = 0; k < outputs_; ++k) {
      T step[lanes<T>] = {};
      const T* noise = draws_.rest + first * draws_.rest_size + net.width * (1 + k) + m_;
      for (int64_t i = 0; i < count; ++i) step[i] = spread * noise[i * draws_.rest_size];
      const V by = load(step), c = splat<V>(before_[k]);
      largest = max(abs(by), largest);
      store(c_ + k * lanes<T>, c + by);
      if (signs == 2) store(c_ + (outputs_ + k) * lanes<T>, c - by);
    }
    store(noise_, largest);
    for (LaneSums<T>& sums : total_) sums = {};
    for (V& each : terms_) each = V{};
    far_ = Int<V>{}, idle_ = 0, held_ = 0;
  }

  // The hidden values of samples [s, s + count).
  void make_hidden(int64_t first, int64_t s, int64_t count) {
    const int64_t padded = lines_.padded, rank = draws_.rank, width = lines_.net->width;
    const T* along = draws_.across + first * rank * padded + s * lanes<T>;
    const int64_t own = draws_.count - first < lanes<T> ? draws_.count - first : lanes<T>;
    T step[lanes<T>] = {};
    for (int64_t i = 0; i < own; ++i) step[i] = draws_.spread * draws_.rest[(first + i) * draws_.rest_size + m_];
    const V bias = load(step);
    for (int64_t k = 0; k < rank; ++k, along += padded * lanes<T>) {
      for (int64_t i = 0; i < own; ++i) step[i] = draws_.spread * draws_.factor[((first + i) * rank + k) * width + m_];
      const V factor = load(step);
      for (int64_t i = 0; i < count; ++i) {
        T* h = hidden_ + i * signs * lanes<T>;
        const V by = mad(factor, load(along + i * lanes<T>), k == 0 ? bias : load(h));
        if (k + 1 < rank) {
          store(h, by);
          continue;
        }
        const V z = splat<V>(lines_.z[m_ * padded + s + i]);
        store(h, z + by);
        if (signs == 2) store(h + lanes<T>, z - by);
      }
    }
    activate_array(lines_.net->activation, hidden_, count * signs * lanes<T>);
  }

  T weight_of(int64_t s) const { return lines_.weights ? lines_.weights[s] : T(1); }

  // How far an output of sample s, the i-th of those at hand, moves at most; whether it does.
  CBK_INLINE bool bound(int64_t s, int64_t i) {
    const T was = lines_.hidden[m_ * lines_.padded + s];
    V most{};
    CBK_UNROLL(2)
    for (int q = 0; q < signs; ++q) {
      const V h = load(hidden_ + (i * signs + q) * lanes<T>);
      most = max(mad(splat<V>(most_), abs(h - was), load(noise_) * abs(h)), most);
    }
    store(bound_ + i * lanes<T>, most);
    return any_above(most, T(0)) || !(lines_.highest[s] <= 60);
  }

  CBK_INLINE void add(int64_t s, int64_t i) {
    const T was = lines_.hidden[m_ * lines_.padded + s], weight = weight_of(s), highest = lines_.highest[s];
    if (weight == 0) return;
    V h[signs];
    const V most = load(bound_ + i * lanes<T>);
    CBK_UNROLL(2)
    for (int q = 0; q < signs; ++q) h[q] = load(hidden_ + (i * signs + q) * lanes<T>);
    for (int64_t k = 0; k < outputs_; k += lanes<T>) store(rest_ + k, load(before_ + k) * -was);
    const T* excess = lines_.excess + s * outputs_;
    V t[signs];
    // where an exponential is above e^60 a logarithm is not exact any more, above e^14 not that of several samples
    const T limit = highest < 58 ? T(0.5) * (60 - highest) : highest > 0 ? T(-1) : T(NAN);
    if (!(highest <= 10) || any_above(most, polynomials ? Power<6>::end : T(-1))) {
      others<0>(h, excess, lines_.label[s], t);
      far_ = far_ | ~(most <= (limit < 30 ? limit : T(30)));
      CBK_UNROLL(2)
      for (int q = 0; q < signs; ++q) total_[q].add(log1p(t[q]), weight);
      return;
    }
    if constexpr (polynomials) {
      if (any_above(most, Power<4>::end))
        others<6>(h, excess, lines_.label[s], t);
      else
        others<4>(h, excess, lines_.label[s], t);
      if (lines_.weights) {
        CBK_UNROLL(2)
        for (int q = 0; q < signs; ++q) total_[q].add(log1p(t[q]), weight);
        return;
      }
      CBK_UNROLL(2)
      for (int q = 0; q < signs; ++q) terms_[q] = mad(terms_[q], t[q], terms_[q] + t[q]);
      if (++held_ == logs_together) flush();
    }
  }

  template <int degree>
  CBK_INLINE void others(const V (&h)[signs], const T* excess, int64_t label, V (&t)[signs]) {
    V sum[signs] = {};
    for (int64_t other = 0; other < outputs_ - 1; ++other) {  // the ends of two loops would be mispredicted
      const int64_t k = other + (other >= label);
      const V e = splat<V>(excess[k]);
      CBK_UNROLL(2)
      for (int q = 0; q < signs; ++q) sum[q] = mad(e, power<degree>(added(k, q, h[q])), sum[q]);
    }
    CBK_UNROLL(2)
    for (int q = 0; q < signs; ++q) t[q] = sum[q] * power<degree>(-added(label, q, h[q]));
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
  T most_ = 0;          // |c| of the centre at most
  T *before_, *rest_;   // [outputs]: c of the centre, scaled as all of them; -c h
  T *c_, *noise_;       // [signs][outputs][lanes]: c of the draws; [lanes]: |c' - c| at most
  T *hidden_, *bound_;  // [samples_together][signs][lanes]; [samples_together][lanes]
  LaneSums<T> total_[signs];
  V terms_[signs];  // of `held_` samples
  Int<V> far_;      // lanes with numbers that are too large
  double idle_;     // of samples whose losses are the centre's
  int held_;
};

}  // namespace cbk::CBK_ISA
