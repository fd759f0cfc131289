// Products of tiles on tensor cores: z = rows times columns transposed, both with their inner index last.
//
// 8 warps hold 32 rows by all 128 columns each: what follows on a warp's rows needs no other warp.  Tiles of 16
// inner indices come through shared memory, three in flight, in pieces of 16 bytes; a line's pieces are exchanged by
// its number, so that the eight lines that are read at once lie in different banks.  Fragments come from there as mma
// wants them: taken together from other registers they cost more instructions than the products.
#pragma once

#include "../../cuda/ptx.hpp"

#include "../../common/simd.hpp"
#include "risk_cuda.hpp"

namespace cbk::device {

struct Product {
  static constexpr int threads = 256, row_tiles = 2, column_tiles = 16, depth = 16;
  static constexpr int warp_rows = 16 * row_tiles, rows = threads / 32 * warp_rows, columns = 8 * column_tiles;
  static constexpr int64_t shared = 3 * (rows + columns) * depth;  // words that every card has for it
};
// Tiles that shared memory holds, one of them being multiplied, and a tile's words.
template <bool packed, int held>
struct Stages {
  using K = Product;
  static constexpr int count = held, row_words = packed ? K::depth / 2 : K::depth;
  static constexpr int rows = K::rows * row_words, size = rows + K::columns * K::depth;
  static constexpr int column_words = K::depth / 2, converted = K::columns * column_words;  // of bf16
  static constexpr int64_t shared = count * size + (packed ? 2 * converted : 0);            // words
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
    parts.low[i] = precision == Precision::float32 ? bits<unsigned>(v[i] - high) : 0;  // tensor cores cut its end
  }
  return parts;
}
template <Precision precision, int n>
__device__ __forceinline__ Parts<n> parts_of(const unsigned (&words)[n]) {  // of the numbers' bits
  float v[n];
  CBK_UNROLL(4)
  for (int i = 0; i < n; ++i) v[i] = bits<float>(words[i]);
  return parts_of<precision>(v);
}

// z += the terms of a and b, 8 each of the n.  Tensor cores cut where they should round [Ootomo, Yokota 2022]: for
// float32 they sum these terms from 0, the small ones first, and the sums are added outside.
template <Precision precision, int n>
__device__ __forceinline__ void add_terms(float (&z)[4], const Parts<4> (&a)[n], const Parts<2> (&b)[n]) {
  if constexpr (precision == Precision::float32) {
    float part[4] = {};
    CBK_UNROLL(2)
    for (int i = 0; i < n; ++i) multiply_tf32(part, a[i].low, b[i].high), multiply_tf32(part, a[i].high, b[i].low);
    CBK_UNROLL(2)
    for (int i = 0; i < n; ++i) multiply_tf32(part, a[i].high, b[i].high);
    for (int e = 0; e < 4; ++e) z[e] += part[e];
  } else {
    CBK_UNROLL(2)
    for (int i = 0; i < n; ++i) multiply_tf32(z, a[i].high, b[i].high);
  }
}

// Where piece `piece` (four words) of a line of `words` (16 or 8) stands in a stage.
template <unsigned words>
__device__ __forceinline__ unsigned piece_at(unsigned line, unsigned piece) {
  return line * words + (words == 16 ? piece ^ (line / 2 % 4) : piece ^ (line / 4 % 2)) * 4;
}

__device__ __forceinline__ float4 four_of(const float* lines, unsigned line, unsigned piece) {
  return *reinterpret_cast<const float4*>(lines + piece_at<Product::depth>(line, piece));
}

// z += one tile's rows times its columns, 16 inner indices each.  Both are bf16 (`packed`) or floats; of floats taken
// as bf16 words t and t + 4 of a fragment hold numbers 4t ... 4t + 3.
template <Precision precision, bool packed>
__device__ __forceinline__ void add_stage(const float* rows, const float* columns, ProductSums& z) {
  using K = Product;
  const unsigned rank = threadIdx.x, g = rank % 32 / 4, t = rank % 4, line = rank % 8, matrix = rank % 32 / 8;
  Parts<4> a[K::row_tiles][2];
  Parts<2> b[2];
  CBK_UNROLL(2)
  for (int i = 0; i < K::row_tiles; ++i) {
    const unsigned row = rank / 32 * K::warp_rows + 16 * unsigned(i), own = row + matrix % 2 * 8 + line;
    if constexpr (packed) {
      load_matrices(a[i][0].high, rows + piece_at<K::depth / 2>(own, matrix / 2));
    } else if constexpr (precision == Precision::bf16) {
      const float4 u = four_of(rows, row + g, t), v = four_of(rows, row + 8 + g, t);
      a[i][0] = {{pack_bf16(u.x, u.y), pack_bf16(v.x, v.y), pack_bf16(u.z, u.w), pack_bf16(v.z, v.w)}, {}};
    } else {
      CBK_UNROLL(2)
      for (unsigned step = 0; step < 2; ++step) {
        unsigned words[4];
        load_matrices(words, rows + piece_at<K::depth>(own, 2 * step + matrix / 2));
        a[i][step] = parts_of<precision>(words);
      }
    }
  }
  unsigned words[4];
  CBK_UNROLL(16)
  for (unsigned j = 0; j < K::column_tiles; ++j) {
    if constexpr (packed) {  // two column tiles at once
      if (j % 2 == 0) load_matrices(words, columns + piece_at<K::depth / 2>(8 * (j + matrix / 2) + line, matrix % 2));
      b[0] = {{words[j % 2 * 2], words[j % 2 * 2 + 1]}, {}};
    } else if constexpr (precision == Precision::bf16) {
      const float4 u = four_of(columns, 8 * j + g, t);
      b[0] = {{pack_bf16(u.x, u.y), pack_bf16(u.z, u.w)}, {}};
    } else {
      load_matrices(words, columns + piece_at<K::depth>(8 * j + line, matrix));
      b[0] = parts_of<precision>({words[0], words[1]}), b[1] = parts_of<precision>({words[2], words[3]});
    }
    CBK_UNROLL(2)
    for (int i = 0; i < K::row_tiles; ++i) {
      if constexpr (precision == Precision::bf16)  // 16 terms at once
        multiply_bf16(z[i][j], a[i][0].high, b[0].high);
      else
        add_terms<precision>(z[i][j], a[i], b);
    }
  }
}

// The same of tf32, 8 inner indices after the others: fragments of rows take half the registers.
__device__ __forceinline__ void add_stage_tf32(const float* rows, const float* columns, ProductSums& z) {
  using K = Product;
  const unsigned rank = threadIdx.x, line = rank % 8, matrix = rank % 32 / 8;
  CBK_UNROLL(2)
  for (unsigned step = 0; step < 2; ++step) {
    unsigned words[4];
    Parts<4> a[K::row_tiles];
    CBK_UNROLL(2)
    for (int i = 0; i < K::row_tiles; ++i) {
      const unsigned row = rank / 32 * K::warp_rows + 16 * unsigned(i) + matrix % 2 * 8 + line;
      load_matrices(words, rows + piece_at<K::depth>(row, 2 * step + matrix / 2));
      a[i] = parts_of<Precision::tf32>(words);
    }
    CBK_UNROLL(16)
    for (unsigned j = 0; j < K::column_tiles; ++j) {  // two column tiles at once
      const unsigned column = 8 * (j + matrix / 2) + line;
      if (j % 2 == 0) load_matrices(words, columns + piece_at<K::depth>(column, 2 * step + matrix % 2));
      const Parts<2> b = parts_of<Precision::tf32>({words[j % 2 * 2], words[j % 2 * 2 + 1]});
      CBK_UNROLL(2)
      for (int i = 0; i < K::row_tiles; ++i) add_terms<Precision::tf32>(z[i][j], {a[i]}, {b});
    }
  }
}

struct Lines {
  const float* first;
  int64_t pitch;
  int count;  // zeros behind them
};

// Tiles on their way into shared memory, a part of each by every thread.  columns(c) gives the address of inner index
// 0, or nullptr for zeros; `some` may be read.  `width` numbers (4, 2, 1) may be read at once from each line and divide
// `depth`. Rows that are `packed` are bf16, all there, and zero up to a whole stage: a stage's lie one after the other.
template <bool packed, int held>
struct TileStream {
  using K = Product;
  using S = Stages<packed, held>;
  static constexpr unsigned fours = K::depth / 4, row_fours = S::row_words / 4,
                            row_step = K::threads / row_fours;  // lines
  static constexpr unsigned row_loads = K::rows / row_step, column_loads = K::columns * fours / K::threads;
  static constexpr unsigned next = K::threads * 4;  // words from one of a thread's pieces to the next

  template <class Columns>
  __device__ __forceinline__ TileStream(const Lines& lines, Columns&& columns, int64_t inner, int access,
                                        const float* readable, float* shared)
      : rows(lines),
        depth(inner),
        width(access),
        some(readable),
        staged(shared),
        stages(int(blocks_for(inner, K::depth))) {
    row_place = piece_at<S::row_words>(row(), threadIdx.x % row_fours), place = piece_at<K::depth>(line(), piece());
    row_from = rows.first + row() * rows.pitch;
    CBK_UNROLL(2)
    for (unsigned j = 0; j < column_loads; ++j) column_from[j] = columns(int(line() + j * K::threads / fours));
  }

  __device__ __forceinline__ float* tile(int stage) const { return staged + stage % S::count * S::size; }
  // After the last stage nothing is copied. Results of what lies there then are never used.
  __device__ __forceinline__ void start(int stage) const {
    if (stage < stages) {
      if (width == 4)
        load<4>(stage);
      else if (width == 2)
        load<2>(stage);
      else
        load<1>(stage);
    }
    commit_copies();
  }

  // f(address, place in the tile) of each 16 bytes that the thread copied.
  template <class F>
  __device__ __forceinline__ void for_own(int stage, F&& f) const {
    CBK_UNROLL(4)
    for (unsigned j = 0; j < row_loads; ++j) f(tile(stage) + row_place + j * next, row_place + j * next);
    CBK_UNROLL(2)
    for (unsigned j = 0; j < column_loads; ++j) f(tile(stage) + S::rows + place + j * next, S::rows + place + j * next);
  }

  // The thread's own columns of a tile as bf16, which ends in another place.
  __device__ __forceinline__ float* converted(int stage) const {
    return staged + S::count * S::size + stage % 2 * S::converted;
  }
  __device__ __forceinline__ void convert(int stage) const {
    CBK_UNROLL(2)
    for (unsigned j = 0; j < column_loads; ++j) {
      const float4 u = *reinterpret_cast<const float4*>(tile(stage) + S::rows + place + j * next);
      float* to = converted(stage) + piece_at<S::column_words>(line(), piece() / 2) + piece() % 2 * 2 + j * next / 2;
      *reinterpret_cast<float2*>(to) = {bits<float>(pack_bf16(u.x, u.y)), bits<float>(pack_bf16(u.z, u.w))};
    }
  }

  Lines rows;
  int64_t depth;
  int width;
  const float* some;
  float* staged;
  int stages;
  unsigned row_place, place;  // of the thread's first pieces in a tile
  const float *row_from, *column_from[column_loads];

 private:
  static __device__ __forceinline__ unsigned row() { return threadIdx.x / row_fours; }
  static __device__ __forceinline__ unsigned line() { return threadIdx.x / fours; }
  static __device__ __forceinline__ unsigned piece() { return threadIdx.x % fours; }

  template <int n>
  __device__ __forceinline__ void copy(const float* from, bool there, int at, float* to) const {
    CBK_UNROLL(4)
    for (int e = 0; e < 4; e += n) {
      const bool valid = there && at + e < depth;
      copy_async<4 * n>(to + e, valid ? from + at + e : some, valid);
    }
  }
  template <int n>
  __device__ __forceinline__ void load(int stage) const {
    float* const to = tile(stage);
    const int at = stage * K::depth + 4 * int(piece());
    CBK_UNROLL(4)
    for (unsigned j = 0; j < row_loads; ++j) {
      const float* from = row_from + int64_t(j * row_step) * rows.pitch;
      if constexpr (packed)
        copy_async<16>(to + row_place + j * next,
                       from + stage * int(K::rows * S::row_words) + threadIdx.x % row_fours * 4, true);
      else
        copy<n>(from, int(row() + j * row_step) < rows.count, at, to + row_place + j * next);
    }
    CBK_UNROLL(2)
    for (unsigned j = 0; j < column_loads; ++j)
      copy<n>(column_from[j], column_from[j], at, to + S::rows + place + j * next);
  }
};

__device__ __forceinline__ void clear(ProductSums& z) {
  CBK_UNROLL(2)
  for (int i = 0; i < Product::row_tiles; ++i) {
    CBK_UNROLL(16)
    for (int j = 0; j < Product::column_tiles; ++j)
      for (int e = 0; e < 4; ++e) z[i][j][e] = 0;
  }
}

// z = the stream's rows times its columns, a warp's 32 rows in turn.  Columns of packed rows are packed by the threads
// that copied them, a stage ahead.  A warp whose rows are not `used` only helps to load.  Ends with all threads still
// reading.
struct Warps {
  using K = Product;
  static constexpr int64_t shared = K::shared;
  template <Precision precision, bool packed>
  static constexpr int held = packed ? 4 : 3;
  static __device__ __forceinline__ float* place(float* memory) { return memory; }
  static __device__ __forceinline__ int row(int tile) { return int(threadIdx.x) / 32 * K::warp_rows + 16 * tile; }
  static __device__ __forceinline__ bool used(int64_t rows) { return row(0) < rows; }

  template <Precision precision, bool packed>
  static __device__ __forceinline__ void multiply(const TileStream<packed, held<precision, packed>>& stream, bool used,
                                                  ProductSums& z) {
    using S = Stages<packed, held<precision, packed>>;
    static_assert(S::shared <= shared);
    clear(z);
    for (int stage = 0; stage < S::count - 1; ++stage) stream.start(stage);
    wait_copies<S::count - 2>();
    if constexpr (packed) stream.convert(0);
    for (int stage = 0; stage < stream.stages; ++stage) {
      __syncthreads();
      stream.start(stage + S::count - 1);  // over what was read before the barrier
      if constexpr (packed) {
        wait_copies<S::count - 2>();
        stream.convert(stage + 1);
      }
      const float *tile = stream.tile(stage), *columns = packed ? stream.converted(stage) : tile + S::rows;
      if constexpr (precision == Precision::tf32) {
        if (used) add_stage_tf32(tile, columns, z);
      } else {
        if (used) add_stage<precision, packed>(tile, columns, z);
      }
      if constexpr (!packed) wait_copies<S::count - 2>();
    }
    wait_copies<0>();
  }
};

}  // namespace cbk::device
