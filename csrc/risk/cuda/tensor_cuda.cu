// Risks on tensor cores; risk_cuda.cu decides when.
#include "../../cuda/device.hpp"
#include "gradient_cuda.hpp"
#include "tensor_cuda.hpp"

namespace cbk::device {
namespace {

// x [samples, inputs] to words of two bf16 as Batch::packed has them, `pitch` of a sample.
CBK_KERNEL(256) pack(const float* x, int64_t samples, int64_t inputs, int64_t pitch, int64_t words, unsigned* out) {
  constexpr int64_t rows = Product::rows, own = Product::depth / 2;
  const int64_t i = int64_t(blockIdx.x) * 256 + threadIdx.x, stages = pitch / own;
  const int64_t stage = i / (rows * own) % stages, s = i / (rows * pitch) * rows + i / own % rows;
  const int64_t k = (stage * own + i % own) * 2;
  if (i >= words) return;
  const auto number = [&](int64_t n) { return s < samples && n < inputs ? x[s * inputs + n] : 0.0f; };
  out[i] = pack_bf16(number(k), number(k + 1));
}

// Rows are neurons, columns inputs, and samples what is summed over.
template <Precision precision>
CBK_KERNEL(Product::threads)
tensor_slopes(Batch<float> b, const float* inputs, bool fresh, float* gradient) {
  using K = Product;
  CBK_DYNAMIC_SHARED(float, shared);
  const int64_t q0 = int64_t(blockIdx.x) * K::rows, k0 = int64_t(blockIdx.y) * K::columns, d = b.net.inputs;
  const int64_t neurons = b.particles * b.net.width, rows = min(neurons - q0, int64_t(K::rows));
  const TileStream<false, Warps::held<precision, false>> stream(
      Lines{b.hidden + q0 * b.hidden_pitch, b.hidden_pitch, int(rows)}, [&](int r) -> const float* {
    return k0 + r < d ? inputs + (k0 + r) * b.hidden_pitch : nullptr;
  }, b.hidden_pitch, 4, inputs, shared);
  ProductSums z;
  Warps::multiply<precision>(stream, Warps::used(rows), z);
  const int lane = int(threadIdx.x) % 32;
  CBK_UNROLL(4)
  for (int i = 0; i < 2 * K::row_tiles; ++i) {
    const int64_t q = q0 + Warps::row(i / 2) + i % 2 * 8 + lane / 4;
    if (q >= neurons) continue;
    float* to = gradient + q / b.net.width * b.size + q % b.net.width * d;
    CBK_UNROLL(16)
    for (int j = 0; j < K::column_tiles; ++j) {
      CBK_UNROLL(2)
      for (int e = 0; e < 2; ++e) {
        const int64_t k = k0 + 8 * j + 2 * (lane % 4) + e;
        const float sum = z[i / 2][j][i % 2 * 2 + e];
        if (k < d) to[k] = fresh ? sum : to[k] + sum;
      }
    }
  }
}

}  // namespace

bool can_use_warp_groups() {
#if defined(CBK_SM90A)
  return has_warp_groups();
#else
  return false;
#endif
}

bool on_tensor_cores(const Batch<float>& b) { return b.theta && b.net.inputs >= 16 && has_tensor_cores(); }

Launch plan_tensor(Batch<float>& b) {
  using K = Product;
  constexpr int64_t fixed = fixed_shared<Warps>;
  constexpr int64_t behind = (99 << 10) / int64_t(sizeof(float)) - fixed - 256;  // sm_86 and sm_120 have 99 KB
  b.tile = K::rows;
  const int64_t row = b.tile * b.pitch, width = b.net.width;
  const bool overlaid = width <= K::columns;
  b.group = overlaid ? std::clamp(std::min(K::columns / width, K::shared / row), int64_t(1), b.particles) : 1;
  const bool spills = row > (overlaid ? K::shared : behind);
  b.access = std::min(access_width(b.net.inputs, b.x, b.theta), access_width(b.size, b.theta));
  return {fixed + (overlaid || spills ? 0 : row), spills, 0};
}

void launch_tensor(Batch<float> b, const Launch& plan, Precision precision, float* out, cudaStream_t stream) {
  const int64_t rows = precision == Precision::bf16 ? blocks_for(b.samples, b.tile) * b.tile : 0;
  b.packed_pitch = blocks_for(b.net.inputs, Product::depth) * Product::depth / 2;
  Workspace<float> packed(rows * b.packed_pitch, stream);
  b.packed = packed.data();
  if (rows)
    launch(pack, dim3(unsigned(blocks_for(rows * b.packed_pitch, 256))), dim3(256), 0, stream, b.x, b.samples,
           b.net.inputs, b.packed_pitch, rows * b.packed_pitch, reinterpret_cast<unsigned*>(packed.data()));
  const int64_t behind = plan.shared - fixed_shared<Warps>;
#if defined(CBK_SM90A)
  const bool several = b.net.inputs > Product::depth;  // of one stage groups have nothing to do meanwhile
  if (warp_groups && several && can_use_warp_groups())
    return launch_tensor_groups(b, plan.blocks, behind, precision, out, stream);
#endif
  launch_engine<Warps>(b, plan.blocks, behind, precision, out, stream);
}

void launch_tensor_slopes(const Batch<float>& b, const float* columns, bool fresh, float* gradient, Precision precision,
                          cudaStream_t stream) {
  const dim3 grid(unsigned(blocks_for(b.particles * b.net.width, Product::rows)),
                  unsigned(blocks_for(b.net.inputs, Product::columns)));
  with_precision(precision, [&](auto tag) {
    launch(tensor_slopes<decltype(tag)::value>, grid, dim3(Product::threads), size_t(Product::shared) * sizeof(float),
           stream, b, columns, fresh, gradient);
  });
}

}  // namespace cbk::device
