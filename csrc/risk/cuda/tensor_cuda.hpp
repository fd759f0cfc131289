// Outputs of a tile on tensor cores: 256 samples by the neurons of whole particles, 128 at a time.
//
// The first layer is a product of tiles (product_cuda.hpp).  Its sums stay in registers, and become activations there.
// The second product reads them as a fragment, which only permutes the neurons: a lane's sums (g, 2t), (g, 2t + 1)
// stand for the fragment's (g, t), (g, t + 4).  The output weights are loaded in the same order.  A warp processes its
// columns one particle at a time: a particle's sums stay in registers and are written as outputs.
//
// Estimate for N = 1000, M = 20, d = 784, S = 1000 on an H200: 668 tiles of 6 particles take 6 rounds of 132 blocks,
// the last one nearly empty.  In a stage of 16 inner indices a warp multiplies 32 (bf16), 64 (tf32) or 192 fragments
// (float32), two warps on each scheduler: 416, 832, 2500 clocks at 62 % of what wgmma reaches.  Meanwhile they issue
// 300, 520, 1300 instructions and read for 416, 640, 640 clocks from shared memory.  49 stages in 6 rounds at 1.755 GHz
// are 0.07, 0.14 and 0.42 ms.
#pragma once

#include "product_cuda.hpp"
#include "tile_cuda.hpp"

namespace cbk::device {

// Engine: the instructions that multiply, and how they assign rows to warps.
template <Precision precision, class Engine>
struct Tensor {
  using K = Product;
  static constexpr bool packed = precision == Precision::bf16;
  static constexpr Precision second = precision == Precision::float32 ? precision : Precision::tf32;
  static constexpr int part = 4;  // column tiles whose activations are formed at once
  // Behind the product's tiles: the columns' biases, then their weights for so many outputs.
  static constexpr int weighed = 16,
                       weights_pitch = K::columns + 8;  // a fragment's eight outputs lie in different banks
  static constexpr int64_t shared = Engine::shared + K::columns + weighed * weights_pitch;
  using Hidden = float[K::row_tiles][part][4];
  using Sums = float[K::row_tiles][2][4];  // of `weighed` outputs, each eight as ptx.hpp says

  // A particle and its neurons, as columns of the tile; the first and the last may lie outside.
  struct Run {
    int particle, begin, end;
  };

  // With the product's first copies.
  static __device__ __forceinline__ void copy_second_layer(const Batch<float>& b, const Place<float>& p,
                                                           float* biases) {
    const unsigned column = threadIdx.x % K::columns, q = unsigned(p.q0) + column, width = unsigned(b.net.width);
    const bool there = int(column) < p.neurons;
    const float* own = p.theta + (there ? q / width * b.size + q % width : 0);
    float* to = biases + column;
    for (int64_t c = threadIdx.x / K::columns; c <= min(b.net.outputs, int64_t(weighed));
         c += K::threads / K::columns) {
      if (c == 0)
        copy_async<4>(to, own + b.net.biases(), there);
      else
        copy_async<4>(to + K::columns + (c - 1) * weights_pitch, own + b.net.output_weights() + (c - 1) * width, there);
    }
  }

  // h = sigma(z + b) of column tiles first ... first + part; pre-activations go to b.hidden where it is wanted.
  static __device__ __forceinline__ void activate_part(const Batch<float>& b, const Place<float>& p,
                                                       const ProductSums& z, const float* biases, int first,
                                                       Hidden& h) {
    const int lane = int(threadIdx.x) % 32, column = 8 * first + 2 * (lane % 4);
    float2 bias[part];
    CBK_UNROLL(4)
    for (int j = 0; j < part; ++j) bias[j] = *reinterpret_cast<const float2*>(biases + column + 8 * j);
    CBK_UNROLL(4)
    for (int from = 0; from < K::column_tiles; from += part) {  // a variable index would move z to memory
      if (from != first) continue;
      CBK_UNROLL(2)
      for (int i = 0; i < K::row_tiles; ++i) {
        CBK_UNROLL(4)
        for (int j = 0; j < part; ++j)
          for (int e = 0; e < 4; ++e) h[i][j][e] = z[i][from + j][e] + (e % 2 ? bias[j].y : bias[j].x);
      }
    }
    if (b.hidden) {
      CBK_UNROLL(4)
      for (int j = 0; j < part; ++j) {
        CBK_UNROLL(2)
        for (int i = 0; i < K::row_tiles; ++i)
          for (int e = 0; e < 4; ++e)
            store_hidden(b, p, column + 8 * j + e % 2, Engine::row(i) + lane / 4 + e / 2 * 8, h[i][j][e]);
      }
    }
    with_activation(b.net.activation, [&](auto sigma) {
      if constexpr (decltype(sigma)::value != any_activation) {  // a call would take registers: tile_cuda.hpp has those
        CBK_UNROLL(2)
        for (int i = 0; i < K::row_tiles; ++i) {
          CBK_UNROLL(4)
          for (int j = 0; j < part; ++j)
            for (int e = 0; e < 4; ++e) h[i][j][e] = sigma(h[i][j][e]);
        }
      }
    });
  }

  // For so few outputs, multiply-adds cost less than splitting the numbers for tensor cores.
  static __device__ __forceinline__ bool has_few(const Batch<float>& b) {
    return precision == Precision::float32 && b.net.outputs <= 2;
  }

  // Weights of output c0 + c for the two columns from `column` on, of which `own` are the run's.
  template <bool whole, bool first>
  static __device__ __forceinline__ float2 weights_of(const Batch<float>& b, const Place<float>& p,
                                                      const float* weights, const Run& run, int column,
                                                      const bool (&own)[2], int c0, int c) {
    if constexpr (first) {
      const float2 w = *reinterpret_cast<const float2*>(weights + c * weights_pitch + column);
      return {whole || own[0] ? w.x : 0, whole || own[1] ? w.y : 0};
    } else {
      const float* first_of = p.theta + run.particle * b.size + b.net.output_weights() + (c0 + c) * b.net.width;
      const float* w = first_of - run.begin + column;
      const bool there = c0 + c < int(b.net.outputs);
      return {there && own[0] ? w[0] : 0, there && own[1] ? w[1] : 0};
    }
  }

  // sums += the part of a column tile's neurons that are the run's: the `whole` tile, or some.  `first`: the outputs
  // are those whose weights lie in shared memory.
  // Columns of other particles may hold NaN, and NaN * 0 is NaN, so 0 replaces both their activations and weights.
  template <bool whole, bool first>
  static __device__ __forceinline__ void add_column_tile(const Batch<float>& b, const Place<float>& p,
                                                         const float* weights, const Run& run, int tile,
                                                         const Hidden& h, int j, int c0, Sums& sums) {
    const int lane = int(threadIdx.x) % 32, column = tile + 2 * (lane % 4), outputs = int(b.net.outputs);
    const bool own[2] = {whole || (column >= run.begin && column < run.end),
                         whole || (column + 1 >= run.begin && column + 1 < run.end)};
    float v[K::row_tiles][4];
    CBK_UNROLL(2)
    for (int i = 0; i < K::row_tiles; ++i)
      for (int e = 0; e < 4; ++e) v[i][e] = own[e % 2] ? h[i][j][e] : 0;
    if (has_few(b)) {
      CBK_UNROLL(2)
      for (int c = 0; c < 2; ++c) {
        if (c >= outputs) break;
        const float2 w = weights_of<whole, first>(b, p, weights, run, column, own, 0, c);
        CBK_UNROLL(4)
        for (int r = 0; r < 2 * K::row_tiles; ++r) {
          const float* both = v[r / 2] + r % 2 * 2;
          float& sum = sums[r / 2][0][r % 2 * 2 + c];
          sum = mad(both[0], w.x, mad(both[1], w.y, sum));
        }
      }
      return;
    }
    Parts<4> a[K::row_tiles];
    CBK_UNROLL(2)
    for (int i = 0; i < K::row_tiles; ++i) a[i] = parts_of<second>({v[i][0], v[i][2], v[i][1], v[i][3]});
    CBK_UNROLL(2)
    for (int o = 0; o < 2; ++o) {
      if (c0 + 8 * o >= outputs) break;
      const float2 w = weights_of<whole, first>(b, p, weights, run, column, own, c0, 8 * o + lane / 4);
      const Parts<2> parts = parts_of<second>({w.x, w.y});
      CBK_UNROLL(2)
      for (int i = 0; i < K::row_tiles; ++i) add_terms<second>(sums[i][o], {a[i]}, {parts});
    }
  }

  // The run's sums of outputs c0 ... go to its outputs, and are 0 then.  They are of its neurons in columns [from, to).
  static __device__ __forceinline__ void put_sums(const Batch<float>& b, const Place<float>& p, const Run& run, int c0,
                                                  int from, int to, Sums& sums, float* outs) {
    const int lane = int(threadIdx.x) % 32, c = c0 + 2 * (lane % 4), left = int(b.net.outputs) - c;
    const int pitch = int(b.pitch);
    const bool ends = run.end <= to;
    const float scale = ends ? float(b.net.scale) : 1;
    float* const own = outs + (run.particle * int(b.tile) + Engine::row(0) + lane / 4) * pitch + c;
    float shift[2][2] = {};
    // f(sum, output, its half and place there) of a lane's sums of outputs that there are
    const auto each = [&](auto&& f) {
      CBK_UNROLL(4)
      for (int r = 0; r < 2 * K::row_tiles; ++r) {
        float* const line = own + (Engine::row(r / 2) - Engine::row(0) + r % 2 * 8) * pitch;
        CBK_UNROLL(4)
        for (int e = 0; e < 4; ++e) {
          const int output = e / 2 * 8 + e % 2;
          if (output < left) f(sums[r / 2][e / 2][r % 2 * 2 + e % 2], line[output], shift[e / 2][e % 2]);
        }
      }
    };
    if (has_few(b)) {
      CBK_UNROLL(2)
      for (int e = 0; e < 2; ++e) {
        if (e >= b.net.outputs) break;
        CBK_UNROLL(4)
        for (int r = 0; r < 2 * K::row_tiles; ++r) {
          float& sum = sums[r / 2][0][r % 2 * 2 + e];
          for (int flip = 1; flip < 4; flip *= 2) sum += __shfl_xor_sync(~0u, sum, flip);
        }
      }
    }
    if (run.begin < from) each([](float& sum, const float& g, float) { sum += g; });
    if (ends && b.net.output_bias) {
      const float* bias = p.theta + run.particle * b.size + b.net.output_biases() + c;
      CBK_UNROLL(4)
      for (int e = 0; e < 4; ++e)
        if (e / 2 * 8 + e % 2 < left) shift[e / 2][e % 2] = bias[e / 2 * 8 + e % 2];
    }
    each([&](float& sum, float& g, float bias) { g = mad(sum, scale, bias); });
    CBK_UNROLL(2)
    for (int i = 0; i < K::row_tiles; ++i) {
      CBK_UNROLL(4)
      for (int e = 0; e < 8; ++e) sums[i][e / 4][e % 4] = 0;
    }
  }

  static __device__ __forceinline__ void outputs(const Batch<float>& b, Place<float> p, float* shared, float* outs) {
    // The shuffle tells the compiler that a warp's threads agree.
    const bool used = __shfl_sync(~0u, Engine::used(p.valid), 0);
    const int64_t all = p.count * b.net.width, d = b.net.inputs;
    const int width = int(b.net.width), outputs = int(b.net.outputs);
    float* const biases = shared + Engine::shared;
    for (p.q0 = 0; p.q0 < all; p.q0 += K::columns) {
      p.neurons = int(min(all - p.q0, int64_t(K::columns)));
      copy_second_layer(b, p, biases);
      const TileStream<packed, Engine::template held<precision, packed>> stream(
          packed ? Lines{b.packed + p.s0 * b.packed_pitch, K::depth / 2, K::rows} : Lines{b.x + p.s0 * d, d, p.valid},
          [&](int r) -> const float* {
        const unsigned q = unsigned(p.q0) + unsigned(r), width = unsigned(b.net.width);
        return r < p.neurons ? p.theta + q / width * b.size + q % width * d : nullptr;
      }, d, b.access, b.x, Engine::place(shared));
      ProductSums z;
      Engine::template multiply<precision>(stream, used, z);
      __syncthreads();  // outputs may lie where tiles were read
      const int neurons = used ? p.neurons : 0, particle = int(unsigned(p.q0) / unsigned(width));
      Run run{particle, particle * width - int(p.q0), (particle + 1) * width - int(p.q0)};
      Sums sums = {};
      for (int first = 0; 8 * first < neurons; first += part) {
        Hidden h;
        activate_part(b, p, z, biases, first, h);
        const Run before = run;
        const bool several = outputs > weighed;  // more than the sums' registers
        const int from = several ? 8 * first : 0, to = min(8 * (first + part), neurons);
        for (int c0 = 0; c0 < outputs; c0 += weighed) {
          run = before;
          CBK_UNROLL(4)
          for (int j = 0; j < part; ++j) {
            const int tile = 8 * (first + j), end = min(tile + 8, neurons);
            while (run.begin < end) {
              const float* const weights = biases + K::columns;
              if (c0)
                add_column_tile<false, false>(b, p, weights, run, tile, h, j, c0, sums);
              else if (run.begin > tile || run.end < tile + 8)
                add_column_tile<false, true>(b, p, weights, run, tile, h, j, 0, sums);
              else
                add_column_tile<true, true>(b, p, weights, run, tile, h, j, 0, sums);
              if (run.end > end) break;
              put_sums(b, p, run, c0, from, end, sums, outs);
              run = {run.particle + 1, run.end, run.end + width};
            }
          }
          if (run.begin < to && (several || to == neurons)) put_sums(b, p, run, c0, from, to, sums, outs);
        }
      }
      __syncthreads();
    }
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
template <Precision precision, class Engine, bool spills>
CBK_KERNEL(Product::threads)
tensor_risks(Batch<float> b, float* out) {
  CBK_DYNAMIC_SHARED(float, shared);
  using OnTensorCores = Tensor<precision, Engine>;
  const bool overlaid = b.group * b.net.width <= Product::columns;
  const int64_t used = overlaid && !spills ? b.group * b.tile * b.pitch : 0;
  run_block<OnTensorCores, spills>(b, out, shared, overlaid ? shared : shared + OnTensorCores::shared, shared + used,
                                   OnTensorCores::shared - used);
}

template <class Engine>
constexpr int64_t fixed_shared = Tensor<Precision::float32, Engine>::shared;  // for every precision

// behind: shared memory besides the fixed.
template <class Engine>
void launch_engine(const Batch<float>& b, int64_t blocks, int64_t behind, Precision precision, float* out,
                   cudaStream_t stream) {
  with_precision(precision, [&](auto tag) {
    constexpr Precision own = decltype(tag)::value;
    launch(b.outputs ? tensor_risks<own, Engine, true> : tensor_risks<own, Engine, false>, dim3(unsigned(blocks)),
           dim3(Product::threads), size_t(fixed_shared<Engine> + behind) * sizeof(float), stream, b, out);
  });
}

// tensor_groups_cuda.cu: by warp groups.
void launch_tensor_groups(const Batch<float>& b, int64_t blocks, int64_t behind, Precision precision, float* out,
                          cudaStream_t stream);

}  // namespace cbk::device
