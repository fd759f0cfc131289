// Risks on tensor cores by warp groups; compiled for sm_90a alone.  tensor_cuda.cu decides when.
#include "groups_cuda.hpp"
#include "tensor_cuda.hpp"

namespace cbk::device {
namespace {

template <Precision precision>
CBK_KERNEL(Product::threads) group_risks(Batch<float> b, float* out) {
  CBK_DYNAMIC_SHARED(float, shared);
  using Method = Tensor<precision, Groups>;
  run_block<Method>(b, out, shared, b.group * b.net.width <= Product::columns ? shared : shared + Method::shared);
}

}  // namespace

void launch_tensor_groups(const Batch<float>& b, int64_t blocks, int64_t behind, Precision precision, float* out,
                          cudaStream_t stream) {
  with_precision(precision, [&](auto tag) {
    constexpr Precision own = decltype(tag)::value;
    launch(group_risks<own>, dim3(unsigned(blocks)), dim3(Product::threads),
           size_t(Tensor<own, Groups>::shared + behind) * sizeof(float), stream, b, out);
  });
}

}  // namespace cbk::device
