// The square root of the normals' radius on every word that a generator can give, against the correctly rounded one.
//
// On a card (-DCBK_CARD=ON; 2^32 words, well under a second) the card's own approximation is corrected, against
// __fsqrt_rn. On the emulation the approximation is made worse than PTX allows an instruction to be (2^-22.9 of the
// value, here up to two units in the last place either way), against std::sqrt, on every 65,536th word and both ends.
#include <chrono>
#include <cstdio>
#include <vector>

#include "../../csrc/cuda/gpu.hpp"
#include "../../csrc/cuda/occupancy.hpp"

#include "../../csrc/common/philox.hpp"

namespace cbk::device {
namespace {

constexpr int threads = 256;
constexpr uint64_t words = uint64_t(1) << 32;

// Whether a word's radius is what it should be.
__device__ bool is_right(uint32_t word) {
  float e;
  const float f = split_uniform(word, e), square = log1p_core(f, e) * -2.0f, expected = sqrt(square);
#if defined(__CUDACC__)
  return normal_radius(f, e) == expected;
#else
  const float inverse = float(1 / std::sqrt(double(square)));
  bool right = normal_radius(f, e) == expected;
  for (int off = -2; off <= 2; ++off)
    right = right && corrected_root(square, bits<float>(bits<int>(inverse) + off)) == expected;
  return right;
#endif
}

CBK_KERNEL(threads) count_wrong(uint64_t step, unsigned long long* wrong, unsigned long long* tried) {
  unsigned long long bad = 0, all = 0;
  const uint64_t stride = uint64_t(gridDim.x) * threads;
  for (uint64_t i = uint64_t(blockIdx.x) * threads + threadIdx.x; i * step < words; i += stride) {
    bad += !is_right(uint32_t(i * step)) + !is_right(uint32_t(i * step + step - 1));
    all += 2;
  }
  if (bad > 0) atomicAdd(wrong, bad);
  atomicAdd(tried, all);
}

int count_roots() {
#if defined(__CUDACC__)
  constexpr uint64_t step = 2;  // each word once
#else
  constexpr uint64_t step = 65536;
#endif
  const DeviceBuffer<unsigned long long> counts(2);
  unsigned long long found[2] = {};
  check(cudaMemcpy(counts.data(), found, sizeof found, cudaMemcpyHostToDevice), "copy");
  const auto start = std::chrono::steady_clock::now();
  launch(count_wrong, strided_grid(count_wrong, int64_t(words / step / threads), threads), dim3(threads), 0, nullptr,
         step, counts.data(), counts.data() + 1);
  check(cudaMemcpy(found, counts.data(), sizeof found, cudaMemcpyDeviceToHost), "copy");
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  std::printf("roots of the normals: %llu words in %.3f s, %llu differ\n", found[1], seconds.count(), found[0]);
  return found[0] != 0 || found[1] != 2 * words / step;
}

}  // namespace
}  // namespace cbk::device

int main() { return cbk::device::count_roots(); }
