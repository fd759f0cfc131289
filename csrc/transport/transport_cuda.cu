// Assignments and transport steps on the GPU; the CPU's twin is transport_cpu.cpp.
//
// A block solves one assignment by shortest augmenting paths with prices [Jonker, Volgenant 1987; Crouse 2016]; its
// threads share the columns, costs are computed where they are used.
#include "../cuda/reduce.hpp"
#include "../cuda/rows.hpp"

#include <cmath>

#include "../common/philox.hpp"
#include "transport_cuda.hpp"

namespace cbk::device {
namespace {

constexpr int no_index = 0x7fffffff;

// What one problem needs of memory; doubles first.
struct Solver {
  double *price, *shortest, *row_price;  // v, the path lengths, u
  int *row_of, *column_of, *parent, *scanned;
  int64_t count;
};
constexpr int64_t solver_bytes = 3 * sizeof(double) + 4 * sizeof(int);  // an atom

__device__ __forceinline__ Solver solver_in(unsigned char* memory, int64_t count) {
  double* d = reinterpret_cast<double*>(memory);
  int* i = reinterpret_cast<int*>(d + 3 * count);
  return {d, d + count, d + 2 * count, i, i + count, i + 2 * count, i + 3 * count, count};
}

template <class T>
__device__ __forceinline__ double squared_distance(const T* x, const T* y, int64_t size) {
  double total = 0;
  for (int64_t k = 0; k < size; ++k) {
    const double difference = double(x[k]) - double(y[k]);
    total = fma(difference, difference, total);
  }
  return total;
}

struct Least {
  double value;
  int index;
};

// The least value of the block and its lowest index; no_index where no value is finite.
__device__ __forceinline__ Least block_argmin(double value, int index) {
  const double least = block_least(value, infinity);
  const int mine = value == least && least < infinity ? index : no_index;
  return {least, block_least(mine, no_index)};
}

// Prices 0, each row's price its least cost; rows whose column is free take it.
template <class T>
__device__ bool start(const Solver& s, const T* x, const T* y, int64_t size) {
  for (int64_t j = threadIdx.x; j < s.count; j += blockDim.x) s.price[j] = 0, s.row_of[j] = s.column_of[j] = -1;
  __syncthreads();
  for (int64_t i = 0; i < s.count; ++i) {
    Least mine{infinity, no_index};
    for (int64_t j = threadIdx.x; j < s.count; j += blockDim.x) {
      const double c = squared_distance(x + i * size, y + j * size, size);
      if (c < mine.value) mine = {c, int(j)};
    }
    const Least best = block_argmin(mine.value, mine.index);
    if (best.index == no_index) return false;
    if (threadIdx.x == 0) {
      s.row_price[i] = best.value;
      if (s.row_of[best.index] < 0) s.row_of[best.index] = int(i), s.column_of[i] = best.index;
    }
    __syncthreads();
  }
  return true;
}

// The shortest path from a free row to a free column, and the prices that it implies.
template <class T>
__device__ bool augment(const Solver& s, const T* x, const T* y, int64_t size, int free_row) {
  for (int64_t j = threadIdx.x; j < s.count; j += blockDim.x) s.shortest[j] = infinity, s.scanned[j] = 0;
  __syncthreads();
  double length = 0;
  int row = free_row, sink = -1;
  while (sink < 0) {
    Least mine{infinity, no_index};
    for (int64_t j = threadIdx.x; j < s.count; j += blockDim.x) {
      if (s.scanned[j]) continue;
      const double c = squared_distance(x + row * size, y + j * size, size);
      const double through = length + (c - s.row_price[row] - s.price[j]);
      if (through < s.shortest[j]) s.shortest[j] = through, s.parent[j] = row;
      if (s.shortest[j] < mine.value) mine = {s.shortest[j], int(j)};
    }
    const Least best = block_argmin(mine.value, mine.index);
    if (best.index == no_index) return false;
    length = best.value;
    if (threadIdx.x == 0) s.scanned[best.index] = 1;
    row = s.row_of[best.index];
    if (row < 0) sink = best.index;
    __syncthreads();
  }
  for (int64_t j = threadIdx.x; j < s.count; j += blockDim.x) {
    if (!s.scanned[j]) continue;
    const double gain = length - s.shortest[j];
    s.price[j] -= gain;
    if (s.row_of[j] >= 0) s.row_price[s.row_of[j]] += gain;
  }
  if (threadIdx.x == 0) {
    s.row_price[free_row] += length;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int column = sink;;) {
      const int from = s.parent[column], next = s.column_of[from];
      s.row_of[column] = from, s.column_of[from] = column;
      if (from == free_row) break;
      column = next;
    }
  }
  __syncthreads();
  return true;
}

template <class T>
CBK_KERNEL(128) solve_pairs(Measures<T> m, unsigned char* spilled, int64_t* match, double* cost) {
  CBK_DYNAMIC_SHARED(unsigned char, shared);
  const Solver s = solver_in(spilled ? spilled + int64_t(blockIdx.x) * m.count * solver_bytes : shared, m.count);
  for (int64_t pair = blockIdx.x; pair < m.firsts * m.seconds; pair += gridDim.x) {
    const T *x = m.first + pair / m.seconds * m.count * m.size, *y = m.second + pair % m.seconds * m.count * m.size;
    bool solved = start(s, x, y, m.size);
    for (int64_t i = 0; solved && i < m.count; ++i)
      if (s.column_of[i] < 0) solved = augment(s, x, y, m.size, int(i));
    double total = 0;
    for (int64_t i = threadIdx.x; i < m.count; i += blockDim.x) {
      const int64_t j = solved ? s.column_of[i] : i;
      total += squared_distance(x + i * m.size, y + j * m.size, m.size);
      if (match) match[pair * m.count + i] = j;
    }
    total = block_sum(total);
    if (threadIdx.x == 0) cost[pair] = solved ? total / double(m.count) : quiet_nan;
    __syncthreads();
  }
}

template <class T>
CBK_KERNEL(256) transport_rows(const T* atoms, const T* support, const int32_t* match, T* out, int64_t particles,
                               int64_t count, int64_t size, T a, T b, NoiseKey key, int width) {
  for_quads(particles, count * size, [&](int64_t n, int64_t i, int quad) {
    const int64_t at = n * count * size + i;
    T x[4], z[4];
    load_quad(atoms + at, quad, width, x);
    normals(Counter{key.seed, key.stream, key.step, key.first_particle + uint32_t(n)}, uint32_t(i / 4), z);
    for (int j = 0; j < quad; ++j) {
      const int64_t atom = (i + j) / size, partner = match[n * count + atom];
      const T y = partner >= 0 && partner < count ? support[partner * size + (i + j) % size] : T(quiet_nan);
      x[j] = fma(b, z[j], fma(a, x[j] - y, x[j]));
    }
    store_quad(out + at, quad, width, x);
  });
}

}  // namespace

template <class T>
void assign(const Measures<T>& m, int64_t* match, double* cost, CudaStream on) {
  const cudaStream_t stream = native(on);
  constexpr int64_t room = 46 << 10;
  const int64_t bytes = m.count * solver_bytes, pairs = m.firsts * m.seconds;
  const bool spills = bytes > room;
  const int64_t blocks = std::min(pairs, spills ? int64_t(1024) : int64_t(1) << 30);
  Workspace<double> spilled(spills ? blocks * bytes / int64_t(sizeof(double)) + 1 : 0, stream);
  launch(solve_pairs<T>, dim3(unsigned(blocks)), dim3(m.count <= 64 ? 32 : 128), size_t(spills ? 16 : bytes), stream, m,
         reinterpret_cast<unsigned char*>(spilled.data()), match, cost);
}

template <class T>
void transport_update(const T* atoms, const T* support, const int32_t* match, T* out, int64_t particles, int64_t count,
                      int64_t size, double drift, double diffusion, double dt, NoiseKey key, CudaStream stream) {
  const RowGrid g = row_grid(particles, count * size);
  launch(transport_rows<T>, g.grid, g.block, 0, native(stream), atoms, support, match, out, particles, count, size,
         T(-drift * dt), T(diffusion * std::sqrt(dt)), key, access_width(count * size, atoms, out));
}

#define CBK_INSTANTIATE(T)                                                                                      \
  template void assign(const Measures<T>&, int64_t*, double*, CudaStream);                                      \
  template void transport_update(const T*, const T*, const int32_t*, T*, int64_t, int64_t, int64_t, double, double, double, \
                                 NoiseKey, CudaStream);
CBK_INSTANTIATE(float)
CBK_INSTANTIATE(double)
#undef CBK_INSTANTIATE

}  // namespace cbk::device
