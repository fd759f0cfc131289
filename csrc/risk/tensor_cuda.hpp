// Outputs of a tile on tensor cores: 256 samples by the neurons of whole particles, 128 at a time.
//
// The first layer is a product of tiles (product_cuda.hpp); activations stay in the registers that hold its sums, and the
// second layer takes them from there, since a tile of sums read as a fragment only permutes the neurons.  A lane's sums
// (g, 2t), (g, 2t + 1) stand for the fragment's (g, t), (g, t + 4): the output weights are given in the same order.
//
// N = 1000, M = 20, d = 784, S = 1000 on an H200, by counting: 668 tiles of 6 particles are 6 rounds of 132 blocks, though 5
// of them nearly do.  In a stage of 16 inner indices a warp multiplies 32 (bf16), 64 (tf32) or 192 fragments (float32), two
// warps on each scheduler: 416, 832, 2500 clocks at 62 % of what wgmma reaches.  Meanwhile they issue 300, 520, 1300
// instructions and read for 416, 640, 640 clocks from shared memory.  49 stages in 6 rounds at 1.755 GHz are 0.07, 0.14 and
// 0.42 ms.
#pragma once

#include "product_cuda.hpp"
#include "tile_cuda.hpp"

namespace cbk::device {

// Engine: who multiplies, and which rows a warp has then.
template <Precision precision, class Engine>
struct Tensor {
  using K = Product;
  static constexpr bool packed = precision == Precision::bf16;
  static constexpr int part = 4;  // column tiles whose activations are formed at once
  // Behind the product's tiles: the columns' biases, then their weights for so many outputs.
  static constexpr int weighed = 16, weights_pitch = K::columns + 8;  // a fragment's eight outputs lie in different banks
  static constexpr int64_t shared = Engine::shared + K::columns + weighed * weights_pitch;
  using Hidden = float[K::row_tiles][part][4];

  // With the product's first copies.
  static __device__ __forceinline__ void copy_second_layer(const Batch<float>& b, const Place<float>& p, float* biases) {
    const unsigned column = threadIdx.x % K::columns, q = unsigned(p.q0) + column, width = unsigned(b.net.width);
    const bool there = column < p.neurons;
    const float* own = p.theta + (there ? q / width * b.size + q % width : 0);
    float* to = biases + column;
    for (int64_t c = threadIdx.x / K::columns; c <= min(b.net.outputs, int64_t(weighed)); c += K::threads / K::columns) {
      if (c == 0)
        copy_async<4>(to, own + b.net.biases(), there);
      else
        copy_async<4>(to + K::columns + (c - 1) * weights_pitch, own + b.net.output_weights() + (c - 1) * width, there);
    }
  }

  // h = sigma(z + b) of column tiles first ... first + part; pre-activations go to b.hidden where it is wanted.
  static __device__ __forceinline__ void activate_part(const Batch<float>& b, const Place<float>& p, const ProductSums& z,
                                                       const float* biases, int first, Hidden& h) {
    const int lane = int(threadIdx.x) % 32;
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
        const float bias = biases[column];
        CBK_UNROLL(4)
        for (int e = 0; e < 2 * K::row_tiles; ++e) {
          float& v = h[e / 2][j][e % 2 * 2 + odd];
          v = v + bias;
          store_hidden(b, p, column, Engine::row(e / 2) + lane / 4 + e % 2 * 8, v);
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
  static __device__ __forceinline__ void add_column_tile(const Batch<float>& b, const Place<float>& p, const float* weights,
                                                         unsigned column, const float (&h)[K::row_tiles][part][4], int j,
                                                         float* outs) {
    constexpr Precision second = precision == Precision::float32 ? precision : Precision::tf32;
    const int lane = int(threadIdx.x) % 32;
    const unsigned g = unsigned(lane) / 4, t = unsigned(lane) % 4, own = column + 2 * t;
    const unsigned width = unsigned(b.net.width), outputs = unsigned(b.net.outputs), q0 = unsigned(p.q0);
    Parts<4> a[K::row_tiles];
    CBK_UNROLL(2)
    for (int i = 0; i < K::row_tiles; ++i) a[i] = parts_of<second>({h[i][j][0], h[i][j][2], h[i][j][1], h[i][j][3]});
    unsigned particle = (q0 + column) / width;
    for (unsigned begin = particle * width; begin < q0 + min(column + 8, unsigned(p.neurons)); ++particle, begin += width) {
      float* to = outs + (particle * b.tile + g) * b.pitch;
      for (unsigned c = 0; c < outputs; c += 8) {
        const auto weight = [&](unsigned at) {  // of the particle's neurons alone
          const unsigned q = q0 + at, output = c + g;
          if (q < begin || q - begin >= width || output >= outputs || at >= p.neurons) return 0.0f;
          return output < weighed ? weights[output * weights_pitch + at]
                                  : p.theta[particle * b.size + b.net.output_weights() + int64_t(output) * width + (q - begin)];
        };
        const Parts<2> w = parts_of<second>({weight(own), weight(own + 1)});
        CBK_UNROLL(2)
        for (int i = 0; i < K::row_tiles; ++i) {
          float sums[4] = {};
          add_small_products<second>(sums, a[i], w);
          multiply_tf32(sums, a[i].high, w.high);
          for (int e = 0; e < 4; ++e) {
            const unsigned output = c + 2 * t + unsigned(e % 2);
            if (output < outputs) to[(Engine::row(i) + e / 2 * 8) * b.pitch + output] += sums[e];
          }
        }
      }
    }
  }

  // The same of the one particle's few outputs, for a part at once: what mma would multiply by zeros costs more.
  static constexpr int few = 4;
  static __device__ __forceinline__ void add_few(const Batch<float>& b, const float* weights, int first, const Hidden& h,
                                                 float* outs) {
    const int lane = int(threadIdx.x) % 32, t = lane % 4;
    for (int c = 0; c < int(b.net.outputs); ++c) {
      float sums[2 * K::row_tiles] = {};
      CBK_UNROLL(4)
      for (int j = 0; j < part; ++j) {
        const float2 w = *reinterpret_cast<const float2*>(weights + c * weights_pitch + 8 * (first + j) + 2 * t);
        CBK_UNROLL(4)
        for (int i = 0; i < 2 * K::row_tiles; ++i) {
          const float* own = h[i / 2][j] + i % 2 * 2;
          sums[i] = mad(own[0], w.x, mad(own[1], w.y, sums[i]));
        }
      }
      CBK_UNROLL(4)
      for (int i = 0; i < 2 * K::row_tiles; ++i) {
        for (int flip = 1; flip < 4; flip *= 2) sums[i] += __shfl_xor_sync(~0u, sums[i], flip);
        if (t == i) outs[(Engine::row(i / 2) + i % 2 * 8 + lane / 4) * b.pitch + c] += sums[i];
      }
    }
  }

  static __device__ __forceinline__ void outputs(const Batch<float>& b, Place<float> p, float* shared, float* outs) {
    const auto clear = [&] {
      for (int64_t i = threadIdx.x; i < p.count * b.tile * b.pitch; i += K::threads) outs[i] = 0;
      __syncthreads();
    };
    const bool overlaid = outs == shared;  // the only tile's sums are complete before outputs are written
    const bool used = Engine::used(p.valid);
    if (!overlaid) clear();
    const int64_t neurons = p.count * b.net.width, d = b.net.inputs;
    float* const biases = shared + Engine::shared;
    for (p.q0 = 0; p.q0 < neurons; p.q0 += K::columns) {
      p.neurons = min(neurons - p.q0, int64_t(K::columns));
      copy_second_layer(b, p, biases);
      const TileStream<packed> stream(
          packed ? Lines{b.packed + p.s0 * b.packed_pitch, b.packed_pitch, K::rows} : Lines{b.x + p.s0 * d, d, int(p.valid)},
          [&](int r) -> const float* {
            const unsigned q = unsigned(p.q0) + unsigned(r), width = unsigned(b.net.width);
            return r < p.neurons ? p.theta + q / width * b.size + q % width * d : nullptr;
          },
          d, b.access, b.x, Engine::place(shared));
      ProductSums z;
      Engine::template multiply<precision>(stream, used, z);
      __syncthreads();
      if (overlaid) clear();
      for (int first = 0; first < K::column_tiles; first += part) {
        if (!used || 8 * first >= p.neurons) break;
        Hidden h;
        activate_part(b, p, z, biases, first, h);
        if (p.count == 1 && b.net.outputs <= few) {
          add_few(b, biases + K::columns, first, h, outs);
          continue;
        }
        CBK_UNROLL(4)
        for (int j = 0; j < part; ++j) {
          if (8 * (first + j) < p.neurons) add_column_tile(b, p, biases + K::columns, unsigned(8 * (first + j)), h, j, outs);
        }
      }
      __syncthreads();
    }
    scale_tile(b, p.theta, p.count, p.valid, outs);
  }
};

template <class F>
void with_precision(Precision precision, F&& f) {
  switch (precision) {
    case Precision::bf16: return f(std::integral_constant<Precision, Precision::bf16>{});
    case Precision::tf32: return f(std::integral_constant<Precision, Precision::tf32>{});
    case Precision::float32: return f(std::integral_constant<Precision, Precision::float32>{});
  }
  throw std::logic_error("unknown precision");
}

// Outputs that fit lie where the product's tiles lay, if all the block's neurons are one tile, or behind these.
template <Precision precision, class Engine>
CBK_KERNEL(Product::threads) tensor_risks(Batch<float> b, float* out) {
  CBK_DYNAMIC_SHARED(float, shared);
  using Method = Tensor<precision, Engine>;
  run_block<Method>(b, out, shared, b.group * b.net.width <= Product::columns ? shared : shared + Method::shared);
}

template <class Engine>
constexpr int64_t fixed_shared = Tensor<Precision::float32, Engine>::shared;  // for every precision

// With so much shared memory behind the fixed.
template <class Engine>
void launch_engine(const Batch<float>& b, int64_t blocks, int64_t behind, Precision precision, float* out,
                   cudaStream_t stream) {
  with_precision(precision, [&](auto tag) {
    launch(tensor_risks<decltype(tag)::value, Engine>, dim3(unsigned(blocks)), dim3(Product::threads),
           size_t(fixed_shared<Engine> + behind) * sizeof(float), stream, b, out);
  });
}

// tensor_groups_cuda.cu: by warp groups.
void launch_tensor_groups(const Batch<float>& b, int64_t blocks, int64_t behind, Precision precision, float* out,
                          cudaStream_t stream);

}  // namespace cbk::device
