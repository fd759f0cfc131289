// Normals on the GPU; the CPU's twin is random_cpu.cpp.
#include "../cuda/rows.hpp"

#include "../common/philox.hpp"
#include "random_cuda.hpp"

namespace cbk::device {
namespace {

template <class T>
CBK_KERNEL(256)
normal_rows(T* out, int64_t rows, int64_t columns, NoiseKey key, int width) {
  for_quads(rows, columns, [&](int64_t row, int64_t at, int64_t i, int count) {
    T z[4];
    normals(Counter{key.seed, key.stream, key.step, key.first_particle + uint32_t(row)}, uint32_t(i / 4), z);
    store_quad(out + at, count, width, z);
  });
}

}  // namespace

template <class T>
void standard_normal(T* out, int64_t rows, int64_t columns, NoiseKey key, CudaStream stream) {
  launch_rows(normal_rows<T>, rows, columns, native(stream), out, rows, columns, key, access_width(columns, out));
}

template void standard_normal(float*, int64_t, int64_t, NoiseKey, CudaStream);
template void standard_normal(double*, int64_t, int64_t, NoiseKey, CudaStream);

}  // namespace cbk::device
