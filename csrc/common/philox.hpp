// Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011) and Box-Muller normals from its words.
//
// Counter: (stream, step, particle, block); key: the seed's low and high 32 bits.  Block b gives the words of coordinates
// 4b .. 4b+3.  The rounds run in 64-bit lanes: the multiplier ignores high halves, so nothing has to be shuffled.
#pragma once

#include "math.hpp"

namespace cbk::CBK_ISA {

enum Stream : uint32_t { stream_update = 0, stream_initial = 1, stream_batches = 2, stream_particles = 3 };

template <class W>
struct Block {
  W word[4];
};

// W: uint64_t or U64.  Only the low 32 bits of each word of the result mean anything.
template <class W>
CBK_INLINE Block<W> philox(Block<W> c, uint32_t key0, uint32_t key1) {
  const W m0 = W{} + 0xD2511F53u, m1 = W{} + 0xCD9E8D57u;
  CBK_UNROLL(10)
  for (int round = 0; round < 10; ++round) {
    const W p0 = multiply_low(c.word[0], m0), p1 = multiply_low(c.word[2], m1);
    c = {{(p1 >> 32) ^ c.word[1] ^ (W{} + key0), p1, (p0 >> 32) ^ c.word[3] ^ (W{} + key1), p0}};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return c;
}

CBK_INLINE Block<uint64_t> philox_words(uint64_t seed, uint32_t stream, uint32_t step, uint32_t particle,
                                        uint32_t block) {
  Block<uint64_t> w = philox<uint64_t>({{stream, step, particle, block}}, uint32_t(seed), uint32_t(seed >> 32));
  for (uint64_t& word : w.word) word &= 0xffffffffu;
  return w;
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

CBK_INLINE Words philox_lanes(const Counter& counter, uint32_t first) {
  U64 even, odd;
  for (int i = 0; i < lanes<double>; ++i) even[i] = lane_block(2 * i), odd[i] = lane_block(2 * i + 1);
  const U64 stream = U64{} + counter.stream, step = U64{} + counter.step, particle = U64{} + counter.particle;
  const uint32_t key0 = uint32_t(counter.seed), key1 = uint32_t(counter.seed >> 32);
  const Block<U64> a = philox<U64>({{stream, step, particle, even + first}}, key0, key1);
  const Block<U64> b = philox<U64>({{stream, step, particle, odd + first}}, key0, key1);
  Words w;
  for (int j = 0; j < 4; ++j) w.word[j] = bits<U32>((a.word[j] & 0xffffffffu) | (b.word[j] << 32));
  return w;
}

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

#if defined(CBK_ONE_LANE)
constexpr int noise_block = 4;

// The normals of coordinates 4 * block .. 4 * block + 3.
template <class T>
CBK_INLINE void normals(const Counter& counter, uint32_t block, T (&z)[4]) {
  const Block<uint64_t> w =
      philox_words(counter.seed, counter.stream, counter.step, counter.particle, block);
  CBK_UNROLL(2)
  for (int j = 0; j < 4; j += 2) {
    const int32_t radial = int32_t(w.word[j]), upper = radial >> 31;
    const uint32_t angle = uint32_t(w.word[j + 1]);
    box_muller(T(radial ^ upper), Int<T>(upper), T(int32_t(angle << 2) >> 2), Int<T>((angle + 0x20000000u) >> 30),
               z[j], z[j + 1]);
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

// noise_block normals of consecutive coordinates, the first of which is coordinate 4 * block.
constexpr int noise_block = 4 * lanes<float>;

CBK_INLINE void normals(const Counter& counter, uint32_t block, F32 (&z)[4]) {
  const Words w = philox_lanes(counter, block);
  for (int j = 0; j < 4; j += 2) {
    const I32 radial = bits<I32>(w.word[j]), upper = radial >> 31;
    const U32 angle = w.word[j + 1];
    box_muller(to_float(radial ^ upper), upper, to_float(bits<I32>(angle << 2) >> 2),
               bits<I32>((angle + 0x20000000u) >> 30), z[j], z[j + 1]);
  }
  transpose_groups(z);
}

// float64 evaluates the same words in double.
CBK_INLINE void normals(const Counter& counter, uint32_t block, F64 (&z)[8]) {
  constexpr int half = lanes<double>;
  const Words w = philox_lanes(counter, block);
  double out[noise_block];
  for (int part = 0; part < 2; ++part) {
    for (int j = 0; j < 4; j += 2) {
      I64 radial, angle;
      for (int i = 0; i < half; ++i) {
        radial[i] = int32_t(w.word[j][part * half + i]);
        angle[i] = w.word[j + 1][part * half + i];
      }
      const I64 upper = radial < 0;
      F64 a, b;
      box_muller(to_float(radial ^ upper), upper, to_float(((angle + 0x20000000) & 0x3fffffff) - 0x20000000),
                 ((angle + 0x20000000) >> 30) & 3, a, b);
      for (int i = 0; i < half; ++i) {
        const int first = 4 * lane_block(part * half + i) + j;
        out[first] = a[i], out[first + 1] = b[i];
      }
    }
  }
  for (int i = 0; i < 8; ++i) z[i] = load(out + i * half);
}

#endif  // CBK_ONE_LANE

}  // namespace cbk::CBK_ISA
