// The tiles' products by warp groups of sm_90a (wgmma.hpp), in the place of product_cuda.hpp's Warps: a group has 128
// rows, 64 at a time.
//
// Threads make of a stage ahead what is multiplied, each of what it copied: columns in bf16, or numbers rounded to tf32
// and for float32 what that leaves, in a tile of their own.
#pragma once

#include "../../cuda/wgmma.hpp"

#include "product_cuda.hpp"

namespace cbk::device {

struct Groups {
  using K = Product;
  // As many tiles on their way as sm_90 has memory for.
  template <Precision precision, bool packed>
  static constexpr int held = precision == Precision::float32 ? 6 : 8;
  static constexpr int64_t low_tile = (K::rows + K::columns) * K::depth;
  template <Precision precision, bool packed>
  static constexpr int64_t tiles = Stages<packed, held<precision, packed>>::shared;
  static constexpr int64_t highs = tiles<Precision::float32, false>,
                           shared = highs + 2 * low_tile + 512 / sizeof(float);
  static_assert(std::max(tiles<Precision::tf32, false>, tiles<Precision::bf16, true>) + 512 / int64_t(sizeof(float)) <=
                shared);

  static __device__ __forceinline__ float* place(float* memory) {
    return memory + (512 - shared_address(memory) % 512) % 512 / sizeof(float);
  }
  static __device__ __forceinline__ int row(int tile) {
    return int(threadIdx.x) / 128 * 128 + 64 * tile + int(threadIdx.x) / 32 % 4 * 16;
  }
  static __device__ __forceinline__ bool used(int64_t rows) { return int(threadIdx.x) / 128 * 128 < rows; }

  // Groups without rows multiply zeros too: with a branch around them the compiler would serialise the products.
  template <Precision precision, bool packed>
  static __device__ __forceinline__ void multiply(const TileStream<packed, held<precision, packed>>& stream, bool,
                                                  ProductSums& z) {
    using S = Stages<packed, held<precision, packed>>;
    constexpr bool splits = precision == Precision::float32;
    const auto low = [&](int stage) { return stream.staged + highs + stage % 2 * low_tile; };
    const auto prepare = [&](int stage) {
      if constexpr (packed)
        stream.convert(stage);
      else
        stream.for_own(stage, [&](float* own, int64_t place) { round<splits>(own, low(stage) + place); });
      show_to_products();
    };
    clear(z);
    for (int stage = 0; stage < S::count - 1; ++stage) stream.start(stage);
    wait_copies<S::count - 2>();
    prepare(0);
    for (int stage = 0; stage < stream.stages; ++stage) {
      __syncthreads();
      const float *rows = stream.tile(stage), *columns = packed ? stream.converted(stage) : rows + S::rows;
      GroupSums part;
      begin_products();
      if constexpr (splits) {
        multiply_split(rows, low(stage), 0, part);
      } else {
        CBK_UNROLL(2)
        for (int i = 0; i < K::row_tiles; ++i) multiply_block<packed>(rows, columns, i, z[i], false);
      }
      commit_products();
      stream.start(stage + S::count - 1);  // over what was multiplied before the barrier
      wait_copies<S::count - 2>();
      prepare(stage + 1);
      wait_products();
      if constexpr (splits) {
        add(part, z[0]);
        begin_products();
        multiply_split(rows, low(stage), 1, part);
        commit_products(), wait_products();
        add(part, z[1]);
      }
    }
    wait_copies<0>();
  }

 private:
  // Four numbers in place, and what is left of them.
  template <bool splits>
  static __device__ __forceinline__ void round(float* own, float* low) {
    const float4 u = *reinterpret_cast<const float4*>(own);
    const float4 high{round_tf32(u.x), round_tf32(u.y), round_tf32(u.z), round_tf32(u.w)};
    *reinterpret_cast<float4*>(own) = high;
    if constexpr (splits)
      *reinterpret_cast<float4*>(low) = {round_tf32(u.x - high.x), round_tf32(u.y - high.y), round_tf32(u.z - high.z),
                                         round_tf32(u.w - high.w)};
  }

  // Block i of the group's rows times all columns, 16 inner indices.
  template <bool packed>
  static __device__ __forceinline__ void multiply_block(const float* rows, const float* columns, int i, GroupSums& sums,
                                                        bool fresh) {
    constexpr int words = packed ? K::depth / 2 : K::depth, bytes = 4 * words;
    const float* own = rows + (int(threadIdx.x) / 128 * 128 + 64 * i) * words;
    if constexpr (packed) {
      multiply_group_bf16(sums, tile_descriptor<bytes>(own), tile_descriptor<bytes>(columns), fresh);
    } else {
      for (int step = 0; step < 2; ++step)
        multiply_group_tf32(sums, tile_descriptor<bytes>(own + 8 * step), tile_descriptor<bytes>(columns + 8 * step),
                            fresh && step == 0);
    }
  }
  // The same of numbers in two parts, small products first, from 0: what add_terms does.
  static __device__ __forceinline__ void multiply_split(const float* high, const float* low, int i, GroupSums& part) {
    constexpr int columns = K::rows * K::depth;
    multiply_block<false>(low, high + columns, i, part, true);
    multiply_block<false>(high, low + columns, i, part, false);
    multiply_block<false>(high, high + columns, i, part, false);
  }
  static __device__ __forceinline__ void add(const GroupSums& part, GroupSums& z) {
    CBK_UNROLL(16)
    for (int j = 0; j < K::column_tiles; ++j)
      for (int e = 0; e < 4; ++e) z[j][e] += part[j][e];
  }
};

}  // namespace cbk::device
