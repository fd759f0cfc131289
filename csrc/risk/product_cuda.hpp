// Products of tiles on tensor cores: z = rows times columns transposed, both with their inner index last.
//
// 8 warps hold 32 rows by all 128 columns each: what follows on a warp's rows is that warp's own business.  Tiles of 16 inner
// indices come through shared memory, three in flight.  A thread reads four neighbours of a row at once (a quarter of a
// warp takes 128 bytes in a row: no bank meets another) and gives them to the fragments in that order: a sum does not care
// which inner index is which, as long as rows and columns agree.
#pragma once

#include "../cuda/ptx.hpp"

#include "../common/simd.hpp"
#include "risk_cuda.hpp"

namespace cbk::device {

struct Product {
  static constexpr int threads = 256, row_tiles = 2, column_tiles = 16, depth = 16, stages = 3;
  static constexpr int warp_rows = 16 * row_tiles, rows = threads / 32 * warp_rows, columns = 8 * column_tiles;
  static constexpr int stage = (rows + columns) * depth;
  static constexpr int64_t shared = stages * stage;  // floats
};
// [row tile][column tile] of a warp, each as ptx.hpp says.
using ProductSums = float[Product::row_tiles][Product::column_tiles][4];

// Numbers as tensor cores take them.  Precision::float32 splits one in two of tf32, high + low, and multiplies
// low high + high low + high high: what is left out is 2^-22 of a product.
template <int n>
struct Parts {
  unsigned high[n], low[n];
};
template <Precision precision, int n>
__device__ __forceinline__ Parts<n> parts_of(const float (&v)[n]) {
  Parts<n> parts;
  CBK_UNROLL(4)
  for (int i = 0; i < n; ++i) {
    const float high = round_tf32(v[i]);
    parts.high[i] = bits<unsigned>(high);
    parts.low[i] = precision == Precision::float32 ? bits<unsigned>(round_tf32(v[i] - high)) : 0;
  }
  return parts;
}
template <Precision precision>
__device__ __forceinline__ void add_small_products(float (&z)[4], const Parts<4>& a, const Parts<2>& b) {
  if constexpr (precision == Precision::float32) multiply_tf32(z, a.low, b.high), multiply_tf32(z, a.high, b.low);
}

// Four numbers of bf16.
struct alignas(8) PackedFour {
  unsigned low, high;
};

// A lane's four neighbours of rows g and g + 8, or of column g, as fragments: two of tf32 or one of bf16.
template <Precision precision>
struct Fragments {
  Parts<4> a[2];
  Parts<2> b[2];
  __device__ __forceinline__ void rows(const float4& u, const float4& v) {
    if constexpr (precision == Precision::bf16)
      a[0] = {{pack_bf16(u.x, u.y), pack_bf16(v.x, v.y), pack_bf16(u.z, u.w), pack_bf16(v.z, v.w)}, {}};
    else
      a[0] = parts_of<precision>({u.x, v.x, u.y, v.y}), a[1] = parts_of<precision>({u.z, v.z, u.w, v.w});
  }
  __device__ __forceinline__ void packed_rows(const PackedFour& u, const PackedFour& v) {
    a[0] = {{u.low, v.low, u.high, v.high}, {}};
  }
  __device__ __forceinline__ void column(const float4& u) {
    if constexpr (precision == Precision::bf16)
      b[0] = {{pack_bf16(u.x, u.y), pack_bf16(u.z, u.w)}, {}};
    else
      b[0] = parts_of<precision>({u.x, u.y}), b[1] = parts_of<precision>({u.z, u.w});
  }
};

// z += the 16 terms of a and b.  Tensor cores cut where they should round [Ootomo, Yokota 2022]: for float32 they sum 16
// terms from 0, the small ones first, and the sums are added outside.
template <Precision precision>
__device__ __forceinline__ void add_terms(float (&z)[4], const Parts<4> (&a)[2], const Parts<2> (&b)[2]) {
  if constexpr (precision == Precision::bf16) {
    multiply_bf16(z, a[0].high, b[0].high);
  } else if constexpr (precision == Precision::tf32) {
    multiply_tf32(z, a[0].high, b[0].high), multiply_tf32(z, a[1].high, b[1].high);
  } else {
    float part[4] = {};
    add_small_products<precision>(part, a[0], b[0]), add_small_products<precision>(part, a[1], b[1]);
    multiply_tf32(part, a[0].high, b[0].high), multiply_tf32(part, a[1].high, b[1].high);
    for (int e = 0; e < 4; ++e) z[e] += part[e];
  }
}

// One stage's rows and columns, 16 inner indices each.
template <Precision precision, bool packed>
__device__ __forceinline__ void add_stage(const float* staged, ProductSums& z) {
  using K = Product;
  constexpr int fours = K::depth / 4;
  const int rank = int(threadIdx.x), warp = rank / 32, g = rank % 32 / 4, t = rank % 4;
  const auto four = [&](int line) { return *reinterpret_cast<const float4*>(staged + line * K::depth + 4 * t); };
  Fragments<precision> f[K::row_tiles];
  CBK_UNROLL(2)
  for (int i = 0; i < K::row_tiles; ++i) {
    const int row = warp * K::warp_rows + 16 * i + g;
    if constexpr (packed) {
      const PackedFour* lines = reinterpret_cast<const PackedFour*>(staged) + t;
      f[i].packed_rows(lines[row * fours], lines[(row + 8) * fours]);
    } else {
      f[i].rows(four(row), four(row + 8));
    }
  }
  CBK_UNROLL(16)
  for (int j = 0; j < K::column_tiles; ++j) {
    f[0].column(four(K::rows + 8 * j + g));
    CBK_UNROLL(2)
    for (int i = 0; i < K::row_tiles; ++i) add_terms<precision>(z[i][j], f[i].a, f[0].b);
  }
}

// rows(r) and columns(c) give addresses of inner index 0, or nullptr for zeros; `some` may be read.  `width` numbers (4, 2,
// 1) may be read at once from each address and divide `depth`.  Rows that are `packed` are bf16, never nullptr, and zero up
// to a whole stage.  A warp whose rows are not `used` only helps to load.  Ends with all threads still reading `staged`.
template <Precision precision, bool packed = false, class Rows, class Columns>
__device__ __forceinline__ void multiply_tiles(Rows&& rows, Columns&& columns, int64_t depth, int width, const float* some,
                                               bool used, float* staged, ProductSums& z) {
  using K = Product;
  constexpr int fours = K::depth / 4, row_words = packed ? K::depth / 2 : K::depth;
  constexpr int row_loads = K::rows * row_words / 4 / K::threads, column_loads = K::columns * fours / K::threads;
  const int rank = int(threadIdx.x), k = rank % fours * 4;
  const float *row_from[row_loads], *column_from[column_loads];
  CBK_UNROLL(4)
  for (int j = 0; j < row_loads; ++j) row_from[j] = rows((rank + j * K::threads) / (row_words / 4));
  CBK_UNROLL(2)
  for (int j = 0; j < column_loads; ++j) column_from[j] = columns((rank + j * K::threads) / fours);
  const auto load = [&](int stage, auto numbers) {
    constexpr int n = decltype(numbers)::value;
    float* to = staged + stage % K::stages * K::stage + rank * 4;
    const int at = stage * K::depth + k;
    const auto copy = [&](const float* from, float* to) {
      CBK_UNROLL(4)
      for (int e = 0; e < 4; e += n) {
        const bool valid = from && at + e < depth;
        copy_async<4 * n>(to + e, valid ? from + at + e : some, valid);
      }
    };
    CBK_UNROLL(4)
    for (int j = 0; j < row_loads; ++j) {
      if constexpr (packed)
        copy_async<16>(to + j * K::threads * 4, row_from[j] + stage * row_words + rank % (row_words / 4) * 4, true);
      else
        copy(row_from[j], to + j * K::threads * 4);
    }
    CBK_UNROLL(2)
    for (int j = 0; j < column_loads; ++j) copy(column_from[j], to + K::rows * K::depth + j * K::threads * 4);
  };
  const int stages = int(blocks_for(depth, K::depth));
  const auto start = [&](int stage) {
    if (stage < stages) {
      if (width == 4) load(stage, std::integral_constant<int, 4>{});
      else if (width == 2) load(stage, std::integral_constant<int, 2>{});
      else load(stage, std::integral_constant<int, 1>{});
    }
    commit_copies();
  };
  CBK_UNROLL(2)
  for (int i = 0; i < K::row_tiles; ++i) {
    CBK_UNROLL(16)
    for (int j = 0; j < K::column_tiles; ++j)
      for (int e = 0; e < 4; ++e) z[i][j][e] = 0;
  }
  for (int stage = 0; stage < K::stages - 1; ++stage) start(stage);
  for (int stage = 0; stage < stages; ++stage) {
    wait_copies<K::stages - 2>();
    __syncthreads();
    start(stage + K::stages - 1);  // over what was read before the barrier
    if (used) add_stage<precision, packed>(staged + stage % K::stages * K::stage, z);
  }
  wait_copies<0>();
}

}  // namespace cbk::device
