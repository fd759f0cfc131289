// Outputs of a tile on tensor cores: 256 samples by the neurons of whole particles, 128 at a time.
//
// The first layer is a product of tiles (product_cuda.hpp); activations stay in the registers that hold its sums, and the
// second layer takes them from there, since a tile of sums read as a fragment only permutes the neurons.  A lane's sums
// (g, 2t), (g, 2t + 1) stand for the fragment's (g, t), (g, t + 4): the output weights are given in the same order.
//
// N = 1000, M = 20, d = 784, S = 1000 on an H200, by arithmetic alone: 668 tiles of 6 particles each are 6 rounds of 132
// blocks, 40.7 GFLOP with what lies idle.  At 60 % of the rate that wgmma reaches, mma takes 0.41 ms for float32's three
// products, 0.14 for tf32, 0.07 for bf16; reading 804 MB of tiles from L2 takes 0.15 ms, theta from memory 0.02 at the same
// time.  For bf16 x is packed once, which leaves 530 MB, or 0.10 ms.
#pragma once

#include "product_cuda.hpp"
#include "tile_cuda.hpp"

namespace cbk::device {

template <Precision precision>
struct Tensor {
  using K = Product;
  static constexpr bool packed = precision == Precision::bf16;
  static constexpr int part = 4;  // column tiles whose activations are formed at once
  using Hidden = float[K::row_tiles][part][4];

  // h = sigma(z + b) of column tiles first ... first + part; pre-activations go to b.hidden where it is wanted.
  static __device__ __forceinline__ void activate_part(const Batch<float>& b, const Place<float>& p, const ProductSums& z,
                                                       int first, Hidden& h) {
    const int lane = int(threadIdx.x) % 32, row = int(threadIdx.x) / 32 * K::warp_rows + lane / 4;
    CBK_UNROLL(16)
    for (int j = 0; j < K::column_tiles; ++j) {  // registers have no index: a choice of them has
      if (j / part * part != first) continue;
      CBK_UNROLL(2)
      for (int i = 0; i < K::row_tiles; ++i)
        for (int e = 0; e < 4; ++e) h[i][j % part][e] = z[i][j][e];
    }
    CBK_UNROLL(4)
    for (int j = 0; j < part; ++j) {
      CBK_UNROLL(2)
      for (int odd = 0; odd < 2; ++odd) {
        const int column = 8 * (first + j) + 2 * (lane % 4) + odd;
        const float bias = bias_of(b, p, column);
        CBK_UNROLL(4)
        for (int e = 0; e < 2 * K::row_tiles; ++e) {
          float& v = h[e / 2][j][e % 2 * 2 + odd];
          v = v + bias;
          store_hidden(b, p, column, row + e * 8, v);
        }
      }
    }
    with_activation(b.net.activation, [&](auto tag) {
      CBK_UNROLL(2)
      for (int i = 0; i < K::row_tiles; ++i) {
        CBK_UNROLL(4)
        for (int j = 0; j < part; ++j)
          for (int e = 0; e < 4; ++e) h[i][j][e] = activate<decltype(tag)::value>(h[i][j][e]);
      }
    });
  }

  // outs += one column tile's part of the outputs, eight outputs of a particle at a time.
  static __device__ __forceinline__ void add_column_tile(const Batch<float>& b, const Place<float>& p, int column,
                                                         const float (&h)[K::row_tiles][part][4], int j, float* outs) {
    constexpr Precision second = precision == Precision::float32 ? precision : Precision::tf32;
    const int lane = int(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
    const int row = int(threadIdx.x) / 32 * K::warp_rows + g;
    const unsigned width = unsigned(b.net.width), outputs = unsigned(b.net.outputs);
    const unsigned begin = unsigned(p.q0) + unsigned(column), end = unsigned(p.q0 + p.neurons);
    Parts<4> a[K::row_tiles];
    CBK_UNROLL(2)
    for (int i = 0; i < K::row_tiles; ++i) a[i] = parts_of<second>({h[i][j][0], h[i][j][2], h[i][j][1], h[i][j][3]});
    for (unsigned particle = begin / width; particle * width < min(begin + 8, end); ++particle) {
      const float* weights = p.theta + particle * b.size + b.net.output_weights() - int64_t(particle) * width;
      float* to = outs + (particle * b.tile + row) * b.pitch;
      const auto weight = [&](unsigned q, unsigned c) {
        return q / width == particle && q < end && c < outputs ? weights[int64_t(c) * width + q] : 0.0f;
      };
      for (unsigned c = 0; c < outputs; c += 8) {
        const unsigned q = begin + 2 * unsigned(t);
        const Parts<2> w = parts_of<second>({weight(q, c + unsigned(g)), weight(q + 1, c + unsigned(g))});
        CBK_UNROLL(2)
        for (int i = 0; i < K::row_tiles; ++i) {
          float sums[4] = {};
          add_small_products<second>(sums, a[i], w);
          multiply_tf32(sums, a[i].high, w.high);
          for (int e = 0; e < 4; ++e) {
            const unsigned output = c + 2 * unsigned(t) + unsigned(e % 2);
            if (output < outputs) to[(16 * i + e / 2 * 8) * b.pitch + output] += sums[e];
          }
        }
      }
    }
  }

  static __device__ __forceinline__ void outputs(const Batch<float>& b, Place<float> p, float* shared, float* outs) {
    const auto clear = [&] {
      for (int64_t i = threadIdx.x; i < p.count * b.tile * b.pitch; i += K::threads) outs[i] = 0;
      __syncthreads();
    };
    const bool overlaid = outs == shared;  // the only tile's sums are complete before outputs are written
    const int warp_row = int(threadIdx.x) / 32 * K::warp_rows;
    if (!overlaid) clear();
    const int64_t neurons = p.count * b.net.width, d = b.net.inputs;
    for (p.q0 = 0; p.q0 < neurons; p.q0 += K::columns) {
      p.neurons = min(neurons - p.q0, int64_t(K::columns));
      ProductSums z;
      multiply_tiles<precision, packed>(
          [&](int r) -> const float* {
            if constexpr (packed) return b.packed + (p.s0 + r) * b.packed_pitch;
            return r < p.valid ? b.x + (p.s0 + r) * d : nullptr;
          },
          [&](int r) -> const float* {
            const unsigned q = unsigned(p.q0) + unsigned(r), width = unsigned(b.net.width);
            return r < p.neurons ? p.theta + q / width * b.size + q % width * d : nullptr;
          },
          d, b.access, b.x, warp_row < p.valid, shared, z);
      __syncthreads();
      if (overlaid) clear();
      for (int first = 0; first < K::column_tiles; first += part) {
        if (warp_row >= p.valid || 8 * first >= p.neurons) break;
        Hidden h;
        activate_part(b, p, z, first, h);
        CBK_UNROLL(4)
        for (int j = 0; j < part; ++j) {
          if (8 * (first + j) < p.neurons) add_column_tile(b, p, 8 * (first + j), h, j, outs);
        }
      }
      __syncthreads();
    }
    scale_tile(b, p.theta, p.count, p.valid, outs);
  }
};

}  // namespace cbk::device
