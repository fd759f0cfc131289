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

// Addresses in shared memory as a kernel sees them: the dynamic part begins behind others' 256 bytes.
constexpr unsigned dynamic_begin = 256;
inline unsigned shared_address(const void* p) {
  const ptrdiff_t offset = static_cast<const char*>(p) - static_cast<const char*>(machine().dynamic_shared());
  if (offset < 0 || offset >= ptrdiff_t(machine().current()->block->dynamic_bytes))
    machine().fail("not in dynamic shared memory");
  return dynamic_begin + unsigned(offset);
}

// What a descriptor names: number k of a line.
inline float element(uint64_t descriptor, int line, int k, bool bf16) {
  const unsigned mode = unsigned(descriptor >> 62), bytes = mode == 2 ? 64 : 32, exchanged = mode == 2 ? 3 : 1;
  if (mode < 2) machine().fail("wgmma: a descriptor's form that is not emulated");
  unsigned address = unsigned(descriptor & 0x3fff) << 4;
  address += unsigned(line) / 8 * (unsigned(descriptor >> 32 & 0x3fff) << 4) + unsigned(line) % 8 * bytes +
             unsigned(k) * (bf16 ? 2 : 4);
  address ^= (address >> 7 & exchanged) << 4;
  if (address < dynamic_begin || address >= dynamic_begin + machine().current()->block->dynamic_bytes)
    machine().fail("wgmma: a descriptor leaves shared memory");
  const char* at = static_cast<const char*>(machine().dynamic_shared()) + (address - dynamic_begin);
  unsigned word;
  std::memcpy(&word, at - (bf16 ? address % 4 : 0), sizeof word);
  return bf16 ? Bf16::half(word, address % 4 / 2) : number(word & ~0x1fffu);
}

// The warp's 16 of 64 rows, for all products that its lanes have begun.
inline void multiply_begun(void** lanes, unsigned) {
  const auto& begun = static_cast<Thread*>(lanes[0])->products;
  const int first = static_cast<Thread*>(lanes[0])->rank / 32 % 4 * 16;
  for (size_t p = 0; p < begun.size(); ++p) {
    const auto [sums, a, b, fresh, bf16] = begun[p];
    const int depth = bf16 ? 16 : 8;
    std::vector<float> rows, columns;
    for (int row = 0; row < 16; ++row)
      for (int k = 0; k < depth; ++k) rows.push_back(element(a, first + row, k, bf16));
    for (int column = 0; column < 128; ++column)
      for (int k = 0; k < depth; ++k) columns.push_back(element(b, column, k, bf16));
    for (int row = 0; row < 16; ++row) {
      for (int column = 0; column < 128; ++column) {
        Thread* lane = static_cast<Thread*>(lanes[row % 8 * 4 + column % 8 / 2]);
        float& sum = lane->products.at(p).sums[column / 8 * 4 + row / 8 * 2 + column % 2];
        double total = fresh ? 0 : double(sum);
        for (int k = 0; k < depth; ++k)
          total += double(rows[size_t(row * depth + k)]) * double(columns[size_t(column * depth + k)]);
        sum = cut(total);
      }
    }
  }
}
inline void multiply_groups(Site site) {
  Thread* self = machine().current();
  machine().collective(~0u, site, self, multiply_begun);
  self->products.clear();
}

}  // namespace cbk::emulation
