// Risks on tensor cores by warp groups; compiled for sm_90a alone.  tensor_cuda.cu decides when.
#include "groups_cuda.hpp"
#include "tensor_cuda.hpp"

namespace cbk::device {

void launch_tensor_groups(const Batch<float>& b, int64_t blocks, int64_t behind, Precision precision, float* out,
                          cudaStream_t stream) {
  launch_engine<Groups>(b, blocks, behind, precision, out, stream);
}

}  // namespace cbk::device
