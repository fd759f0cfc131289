// Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011) and Box-Muller normals from its words.
//
// Counter: (stream, step, particle, block); key: the seed's low and high 32 bits.  Block b gives the words of
// coordinates 4b .. 4b+3.
#pragma once

#include "math.hpp"

namespace cbk::CBK_ISA {

enum Stream : uint32_t { stream_update = 0, stream_initial = 1, stream_batches = 2, stream_particles = 3 };

constexpr uint32_t philox0 = 0xD2511F53u, philox1 = 0xCD9E8D57u;  // the multipliers

struct Block {
  uint32_t word[4];
};

struct Halves {
  uint32_t high, low;
};
CBK_INLINE Halves multiply_wide(uint32_t a, uint32_t b) {
#if defined(__CUDA_ARCH__)  // one instruction: of a product in uint64_t the compiler makes two
  Halves p;
  asm("{.reg .u64 p; mul.wide.u32 p, %2, %3; mov.b64 {%0, %1}, p;}" : "=r"(p.low), "=r"(p.high) : "r"(a), "r"(b));
  return p;
#else
  const uint64_t p = uint64_t(a) * b;
  return {uint32_t(p >> 32), uint32_t(p)};
#endif
}

CBK_INLINE Block philox(Block c, uint32_t key0, uint32_t key1) {
  CBK_UNROLL(10)
  for (int round = 0; round < 10; ++round) {
    const Halves p0 = multiply_wide(c.word[0], philox0), p1 = multiply_wide(c.word[2], philox1);
    c = {{p1.high ^ c.word[1] ^ key0, p1.low, p0.high ^ c.word[3] ^ key1, p0.low}};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return c;
}

CBK_INLINE Block philox_words(uint64_t seed, uint32_t stream, uint32_t step, uint32_t particle, uint32_t block) {
  return philox({{stream, step, particle, block}}, uint32_t(seed), uint32_t(seed >> 32));
}

// What one row of noise has in common: everything of the counter but the block.
struct Counter {
  uint64_t seed;
  uint32_t stream, step, particle;
};

#if !defined(CBK_ONE_LANE)
// The words of lanes<float> consecutive blocks from `first` on; lane i of each word belongs to block first +
// lane_block(i).  Within 128 bits the blocks are `groups` apart: after a 4x4 transposition there (no instruction
// crosses 128-bit halves cheaply) the coordinates stand in order.
constexpr int groups = lanes<float> / 4;
constexpr int lane_block(int lane) { return lane % 4 * groups + lane / 4; }

struct Words {
  U32 word[4];
};

// The low halves of `even`, the high halves of `odd`.
CBK_INLINE U32 merge_halves(U64 even, U64 odd) {
#if defined(CBK_AVX2)
  return bits<U32>(_mm256_blend_epi32(bits<__m256i>(even), bits<__m256i>(odd), 0xaa));
#else
  return bits<U32>((even & 0xffffffffu) | (odd & ~U64{} << 32));
#endif
}

// The rounds that are left, with one pair of keys each after the first; the words are of blocks that become even and
// odd lanes.
template <int rounds>
CBK_INLINE Words last_rounds(U64 (&w0)[2], U64 (&w1)[2], U64 (&w2)[2], U64 (&w3)[2], const U64 (&key)[rounds][2]) {
  U64 p0[2], p1[2];
  CBK_UNROLL(10)
  for (int r = 1; r < rounds; ++r) {
    for (int k = 0; k < 2; ++k) {
      p0[k] = multiply_low(w0[k], U64{} + philox0);
      p1[k] = multiply_low(w2[k], U64{} + philox1);
    }
    if (r == rounds - 1) break;
    for (int k = 0; k < 2; ++k) {
      w0[k] = (p1[k] >> 32) ^ (w1[k] ^ key[r][0]), w2[k] = (p0[k] >> 32) ^ (w3[k] ^ key[r][1]);
      w1[k] = p1[k], w3[k] = p0[k];
    }
  }
  // the last round puts both blocks' words into one register before it is done with them
  const auto& last = key[rounds - 1];
  return {{merge_halves((p1[0] >> 32) ^ w1[0], p1[1] ^ (w1[1] << 32)) ^ bits<U32>(last[0]),
           merge_halves(p1[0], p1[1] << 32),
           merge_halves((p0[0] >> 32) ^ w3[0], p0[1] ^ (w3[1] << 32)) ^ bits<U32>(last[1]),
           merge_halves(p0[0], p0[1] << 32)}};
}

// The keys of `rounds` rounds, spread over the lanes; the last one's for last_rounds.
template <int rounds>
void spread_keys(uint64_t k0, uint64_t k1, U64 (&key)[rounds][2]) {
  for (int r = 0; r < rounds; ++r) {
    key[r][0] = U64{} + k0, key[r][1] = U64{} + k1;
    k0 = uint32_t(k0 + 0x9E3779B9u), k1 = uint32_t(k1 + 0xBB67AE85u);
  }
  for (U64& k : key[rounds - 1]) k |= k << 32;
}

// The rounds of one row: the keys stand spread in memory, and of the first three rounds, whose words but one are the
// row's, what the block does not change is computed once.
class PhiloxRow {
 public:
  explicit PhiloxRow(const Counter& counter) {
    uint64_t k0 = uint32_t(counter.seed), k1 = counter.seed >> 32;
    const auto next_key = [&] { k0 = uint32_t(k0 + 0x9E3779B9u), k1 = uint32_t(k1 + 0xBB67AE85u); };
    uint64_t p0 = multiply_low(uint64_t(counter.stream), m0), p1 = multiply_low(uint64_t(counter.particle), m1);
    before_block_ = U64{} + ((p0 >> 32) ^ k1);
    const uint64_t word0 = (p1 >> 32) ^ counter.step ^ k0, word3 = p0;
    next_key();
    second0_ = U64{} + (p1 ^ k0);
    p0 = multiply_low(word0, m0);
    p1 = multiply_low((p0 >> 32) ^ word3 ^ k1, m1);
    next_key();
    third0_ = U64{} + ((p1 >> 32) ^ k0), third2_ = U64{} + (p0 ^ k1);
    next_key();
    fourth0_ = U64{} + (p1 ^ k0);
    spread_keys(k0, k1, key_);
  }

  // The words of lanes<float> consecutive blocks from `first` on, in the order of lane_block.
  CBK_INLINE Words words(uint32_t first) const {
    const auto by = [](U64 word, uint64_t multiplier) { return multiply_low(word, U64{} + multiplier); };
    U64 w0[2], w1[2], w2[2], w3[2], p0[2], p1[2];  // of the blocks that become even and odd lanes
    for (int i = 0; i < lanes<double>; ++i) w3[0][i] = lane_block(2 * i), w3[1][i] = lane_block(2 * i + 1);
    for (int k = 0; k < 2; ++k) p1[k] = by(before_block_ ^ (w3[k] + first), m1);
    for (int k = 0; k < 2; ++k) p0[k] = by((p1[k] >> 32) ^ second0_, m0);
    for (int k = 0; k < 2; ++k) w0[k] = p1[k] ^ third0_, w2[k] = (p0[k] >> 32) ^ third2_, w3[k] = p0[k];
    for (int k = 0; k < 2; ++k) p0[k] = by(w0[k], m0), p1[k] = by(w2[k], m1);
    for (int k = 0; k < 2; ++k) {
      w0[k] = (p1[k] >> 32) ^ fourth0_, w2[k] = (p0[k] >> 32) ^ (w3[k] ^ key_[0][1]);
      w1[k] = p1[k], w3[k] = p0[k];
    }
    return last_rounds(w0, w1, w2, w3, key_);
  }

 private:
  static constexpr int rounds = 7;  // from the fourth on
  static constexpr uint64_t m0 = philox0, m1 = philox1;
  U64 before_block_, second0_, third0_, third2_, fourth0_, key_[rounds][2];
};

// The rounds of several rows, each of the same few blocks, `most` of them together: a lane has a particle and a block
// of its own.
template <int64_t most>
class PhiloxRows {
 public:
  // Row r is of particle counter.particle + particle[r].
  PhiloxRows(const Counter& counter, const uint32_t* particle, int64_t rows, int64_t blocks) {
    int place[lanes<float>];  // of a block among those of the even lanes, and behind them those of the odd ones
    for (int lane = 0; lane < lanes<float>; ++lane) place[lane_block(lane)] = lane % 2 * lanes<double> + lane / 2;
    int64_t i = 0;
    for (int64_t row = 0; row < rows; ++row) {
      const uint32_t number = counter.particle + particle[row];
      for (int64_t block = 0; block < blocks; ++block, ++i) {
        const int64_t at = i - i % lanes<float> + place[i % lanes<float>];
        particle_[at] = number, block_[at] = uint64_t(block);
      }
    }
    for (; i % lanes<float> != 0; ++i) {
      const int64_t at = i - i % lanes<float> + place[i % lanes<float>];
      particle_[at] = block_[at] = 0;
    }
    const uint64_t p0 = multiply_low(uint64_t(counter.stream), philox0);
    spread_keys(uint32_t(counter.seed), counter.seed >> 32, key_);
    first0_ = key_[0][0] ^ uint64_t(counter.step), first2_ = key_[0][1] ^ (p0 >> 32), first3_ = U64{} + p0;
  }

  // The words of lanes<float> consecutive ones of all rows' blocks, in the order of lane_block.
  CBK_INLINE Words words(uint32_t first) const {
    U64 w0[2], w1[2], w2[2], w3[2];
    for (int k = 0; k < 2; ++k) {
      const int64_t at = first + k * lanes<double>;
      w1[k] = multiply_low(load(particle_ + at), U64{} + philox1);
      w0[k] = (w1[k] >> 32) ^ first0_, w2[k] = load(block_ + at) ^ first2_, w3[k] = first3_;
    }
    return last_rounds(w0, w1, w2, w3, key_);
  }

 private:
  U64 first0_, first2_, first3_, key_[10][2];
  uint64_t particle_[most], block_[most];
};

#endif

// Two words -> two independent normals sqrt(-2 log u0) (cos, sin)(2 pi u1), u = (w + 1/2) 2^-32.
// The words come as v (u0's, or its complement where u0 > 1/2, so that log u0 stays exact near 1), the quarter turn
// nearest to u1, and the signed rest of u1 in units of 2^-32.
template <class V>
CBK_INLINE void box_muller(V v, Int<V> upper, V rest, Int<V> quarter, V& z0, V& z1) {
  using T = Scalar<V>;
  using I = Int<V>;
  const V t = fma(v, splat<V>(T(0x1p-32)), splat<V>(T(0x1p-33)));  // u0 or 1 - u0, in (0, 1/2]
  const V u = upper ? T(1) - t : t;
  V e;
  V f = split_exponent(u, e);
  f = u > T(0.75) ? -t : f;
  const V radius = sqrt(log1p_core(f, e) * T(-2));
  V s, c;
  const T turn = T(6.283185307179586476925 * 0x1p-32);
  sincos_core(fma(rest, splat<V>(turn), splat<V>(turn / 2)), s, c);
  const I swap = (quarter & 1) != 0;
  constexpr int to_sign = sizeof(T) * 8 - 2;
  const V cosine = swap ? s : c, sine = swap ? c : s;
  z0 = radius * bits<V>(bits<I>(cosine) ^ (((quarter + 1) & 2) << to_sign));
  z1 = radius * bits<V>(bits<I>(sine) ^ ((quarter & 2) << to_sign));
}

// The same for float, in three parts.  The words' own bits choose: no masks are made.
// 1: u0 = (1 + f) 2^e
CBK_INLINE F32 split_uniform(U32 word, F32& e) {
  const I32 radial = bits<I32>(word);
  const F32 t = fma(to_float(radial ^ (radial >> 31)), splat<F32>(0x1p-32f), splat<F32>(0x1p-33f));
  const F32 u = radial < 0 ? 1.0f - t : t;
  const F32 f = split_exponent(u, e);
  return u > 0.75f ? -t : f;
}

// 2: sqrt(-2 log u0), of a number from 2^-32 to 45
CBK_INLINE F32 normal_radius(F32 f, F32 e) {
  const F32 square = log1p_core(f, e) * -2.0f;
#if defined(__CUDA_ARCH__)  // __fsqrt_rn, which is this, without its branch for numbers below 2^-101 and infinity
  float inverse;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(square));
  // an error of 2^-22 of the inverse is corrected: to all bits for every word [tests/cuda/roots.cpp]
  return corrected_root(square, inverse);
#else
  return sqrt(square);
#endif
}

// 3: times (cos, sin)(2 pi u1)
CBK_INLINE void turn_normals(U32 word, F32 radius, F32& z0, F32& z1) {
  constexpr float turn = float(6.283185307179586476925 * 0x1p-34);  // of the angle beyond the nearest quarter, times 4
  F32 s, c;
  sincos_core(fma(to_float(bits<I32>(word << 2)), splat<F32>(turn), splat<F32>(2 * turn)), s, c);
  const U32 quarter = word + 0x20000000u, sign = U32{} + 0x80000000u;  // in the two highest bits
  const U32 cosine = bits<U32>(bits<I32>(quarter << 1) < 0 ? s : c);
  const U32 sine = bits<U32>(s) ^ bits<U32>(c) ^ cosine;
  z0 = radius * bits<F32>(cosine ^ ((quarter + 0x40000000u) & sign));
  z1 = radius * bits<F32>(sine ^ (quarter & sign));
}

#if defined(CBK_ONE_LANE)
constexpr int noise_block = 4;

// The normals of coordinates 4 * block .. 4 * block + 3.
template <class T>
CBK_INLINE void normals(const Counter& counter, uint32_t block, T (&z)[4]) {
  const Block w = philox_words(counter.seed, counter.stream, counter.step, counter.particle, block);
  CBK_UNROLL(2)
  for (int j = 0; j < 4; j += 2) {
    if constexpr (sizeof(T) == 4) {
      F32 e;
      const F32 f = split_uniform(w.word[j], e);
      turn_normals(w.word[j + 1], normal_radius(f, e), z[j], z[j + 1]);
    } else {
      const int32_t radial = int32_t(w.word[j]), upper = radial >> 31;
      const uint32_t angle = w.word[j + 1];
      box_muller(T(radial ^ upper), Int<T>(upper), T(int32_t(angle << 2) >> 2), Int<T>((angle + 0x20000000u) >> 30),
                 z[j], z[j + 1]);
    }
  }
}
#else

// A 4x4 transposition within each 128 bits.
#if defined(CBK_AVX512)
CBK_INLINE void transpose_groups(F32 (&z)[4]) {
  const F32 a = _mm512_unpacklo_ps(z[0], z[1]), b = _mm512_unpackhi_ps(z[0], z[1]);
  const F32 c = _mm512_unpacklo_ps(z[2], z[3]), d = _mm512_unpackhi_ps(z[2], z[3]);
  z[0] = _mm512_shuffle_ps(a, c, 0x44), z[1] = _mm512_shuffle_ps(a, c, 0xee);
  z[2] = _mm512_shuffle_ps(b, d, 0x44), z[3] = _mm512_shuffle_ps(b, d, 0xee);
}
#elif defined(CBK_AVX2)
CBK_INLINE void transpose_groups(F32 (&z)[4]) {
  const F32 a = _mm256_unpacklo_ps(z[0], z[1]), b = _mm256_unpackhi_ps(z[0], z[1]);
  const F32 c = _mm256_unpacklo_ps(z[2], z[3]), d = _mm256_unpackhi_ps(z[2], z[3]);
  z[0] = _mm256_shuffle_ps(a, c, 0x44), z[1] = _mm256_shuffle_ps(a, c, 0xee);
  z[2] = _mm256_shuffle_ps(b, d, 0x44), z[3] = _mm256_shuffle_ps(b, d, 0xee);
}
#else
CBK_INLINE void transpose_groups(F32 (&z)[4]) {
  F32 t[4];
  for (int i = 0; i < 4; ++i) t[i] = F32{z[0][i], z[1][i], z[2][i], z[3][i]};
  for (int i = 0; i < 4; ++i) z[i] = t[i];
}
#endif

// The normals of one row, noise_block consecutive coordinates a call; the first of all is a multiple of 4.  With the
// words of several rows their blocks follow each other.
constexpr int noise_block = 4 * lanes<float>;
template <class T, class Philox = PhiloxRow>
class NoiseRow;

// Some blocks ahead, stage by stage: a processor sees no further than a few dozen instructions that wait, and the
// stages' chains are long.
template <class Philox>
class NoiseRow<float, Philox> {
 public:
  template <class From = Counter>
  NoiseRow(const From& from, int64_t begin, int64_t count)
      : philox_(from), block_(uint32_t(begin / 4)), left_((count + noise_block - 1) / noise_block) {}

  CBK_INLINE void next(F32 (&z)[4]) {
    if (at_ == filled_) fill();
    for (int j = 0; j < 2; ++j) turn_normals(angle_[at_][j], radius_[at_][j], z[2 * j], z[2 * j + 1]);
    transpose_groups(z);
    ++at_;
  }

 private:
  static constexpr int most = 16;

  __attribute__((noinline)) void fill() {
    at_ = 0, filled_ = left_ < most ? int(left_) : most;
    left_ -= filled_;
    for (int i = 0; i < filled_; ++i, block_ += noise_block / 4) {
      const Words w = philox_.words(block_);
      for (int j = 0; j < 2; ++j) radius_[i][j] = bits<F32>(w.word[2 * j]), angle_[i][j] = w.word[2 * j + 1];
    }
    F32 exponent[most][2];
    for (int i = 0; i < filled_; ++i)
      for (int j = 0; j < 2; ++j) radius_[i][j] = split_uniform(bits<U32>(radius_[i][j]), exponent[i][j]);
    for (int i = 0; i < filled_; ++i)
      for (int j = 0; j < 2; ++j) radius_[i][j] = normal_radius(radius_[i][j], exponent[i][j]);
  }

  Philox philox_;
  F32 radius_[most][2];
  U32 angle_[most][2];
  uint32_t block_;
  int64_t left_;
  int at_ = 0, filled_ = 0;
};

// float64 evaluates the same words in double, half a vector of them at a time.
CBK_INLINE void half_normals(U32 radial_word, U32 angle_word, int part, F64& z0, F64& z1) {
  constexpr int half = lanes<double>;
  I64 radial, angle;
  for (int i = 0; i < half; ++i) {
    radial[i] = int32_t(radial_word[part * half + i]);
    angle[i] = angle_word[part * half + i];
  }
  const I64 upper = radial < 0;
  box_muller(to_float(radial ^ upper), upper, to_float(((angle + 0x20000000) & 0x3fffffff) - 0x20000000),
             ((angle + 0x20000000) >> 30) & 3, z0, z1);
}

template <class Philox>
class NoiseRow<double, Philox> {
 public:
  template <class From = Counter>
  NoiseRow(const From& from, int64_t begin, int64_t) : philox_(from), block_(uint32_t(begin / 4)) {}

  CBK_INLINE void next(F64 (&z)[8]) {
    constexpr int half = lanes<double>;
    const Words w = philox_.words(block_);
    block_ += noise_block / 4;
    double out[noise_block];
    for (int part = 0; part < 2; ++part) {
      for (int j = 0; j < 4; j += 2) {
        F64 a, b;
        half_normals(w.word[j], w.word[j + 1], part, a, b);
        for (int i = 0; i < half; ++i) {
          const int first = 4 * lane_block(part * half + i) + j;
          out[first] = a[i], out[first + 1] = b[i];
        }
      }
    }
    for (int i = 0; i < 8; ++i) z[i] = load(out + i * half);
  }

 private:
  Philox philox_;
  uint32_t block_;
};

#endif  // CBK_ONE_LANE

}  // namespace cbk::CBK_ISA
