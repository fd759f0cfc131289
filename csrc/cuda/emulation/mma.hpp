// Products of a warp's fragments, with PTX's layout of lanes, so that a wrong lane gives a wrong number.
//
// Terms are exact and each sum is cut towards zero, as tensor cores cut it [Ootomo, Yokota 2022].
#pragma once

#include "device.hpp"

namespace cbk::emulation {

inline float cut(double sum) {
  const float nearest = float(sum);
  return std::abs(double(nearest)) > std::abs(sum) ? std::nextafter(nearest, 0.0f) : nearest;
}

inline float number(unsigned bits) { return std::bit_cast<float>(bits); }

// tf32: the low 13 bits of an operand are not read.
struct Tf32 {
  static constexpr int depth = 8;
  static float a(const unsigned (*lanes)[4], int row, int k) {
    return number(lanes[row % 8 * 4 + k % 4][row / 8 + k / 4 * 2] & ~0x1fffu);
  }
  static float b(const unsigned (*lanes)[2], int k, int column) {
    return number(lanes[column * 4 + k % 4][k / 4] & ~0x1fffu);
  }
};
// bf16: two numbers in a register, the lower half first.
struct Bf16 {
  static constexpr int depth = 16;
  static float half(unsigned pair, int which) { return number(which ? pair & 0xffff0000u : pair << 16); }
  static float a(const unsigned (*lanes)[4], int row, int k) {
    return half(lanes[row % 8 * 4 + k % 8 / 2][row / 8 + k / 8 * 2], k % 2);
  }
  static float b(const unsigned (*lanes)[2], int k, int column) {
    return half(lanes[column * 4 + k % 8 / 2][k / 8], k % 2);
  }
};

struct Fragments {
  const unsigned *a, *b;
  float* sums;
};

template <class Format>
void multiply_together(void** lanes, unsigned) {
  unsigned a[32][4], b[32][2];
  for (int lane = 0; lane < 32; ++lane) {
    const Fragments& own = *static_cast<Fragments*>(lanes[lane]);
    std::memcpy(a[lane], own.a, sizeof a[lane]), std::memcpy(b[lane], own.b, sizeof b[lane]);
  }
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 8; ++column) {
      float& sum = static_cast<Fragments*>(lanes[row % 8 * 4 + column / 2])->sums[row / 8 * 2 + column % 2];
      double total = double(sum);
      for (int k = 0; k < Format::depth; ++k) total += double(Format::a(a, row, k)) * double(Format::b(b, k, column));
      sum = cut(total);
    }
  }
}

template <class Format>
void multiply(float (&sums)[4], const unsigned (&a)[4], const unsigned (&b)[2], Site site) {
  Fragments own{a, b, sums};
  machine().collective(~0u, site, &own, multiply_together<Format>);
}

struct MatrixRow {
  const void* row;
  unsigned* words;
};
inline void load_together(void** lanes, unsigned) {
  for (int lane = 0; lane < 32; ++lane) {
    for (int matrix = 0; matrix < 4; ++matrix) {
      const void* row = static_cast<MatrixRow*>(lanes[8 * matrix + lane / 4])->row;
      static_cast<MatrixRow*>(lanes[lane])->words[matrix] = static_cast<const unsigned*>(row)[lane % 4];
    }
  }
}
inline void load_matrices(unsigned (&words)[4], const void* row, Site site) {
  if (reinterpret_cast<uintptr_t>(row) % 16) machine().fail("ldmatrix: address not a multiple of 16 bytes");
  MatrixRow own{row, words};
  machine().collective(~0u, site, &own, load_together);
}

}  // namespace cbk::emulation
