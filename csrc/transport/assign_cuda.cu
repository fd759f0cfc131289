// Assignments on the GPU; the CPU's twin is assign_cpu.cpp.
//
// A block solves one problem by shortest augmenting paths with prices [Jonker, Volgenant 1987; Crouse 2016]; costs are
// computed where they are used.  To start, its warps look for each row's cheapest column under the prices given, in
// parallel; then its threads share the columns of one path after another.
#include "../cuda/reduce.hpp"
#include "../cuda/rows.hpp"

#include "../common/simd.hpp"
#include "distance_cuda.hpp"
#include "transport_cuda.hpp"

namespace cbk::device {
namespace {

constexpr int nobody = 0x7fffffff;

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

struct Least {
  double value;
  int index;
};

// The least value and its lowest index; nobody where no value is finite.
__device__ __forceinline__ Least warp_argmin(Least own) {
  const double least = warp_least(own.value);
  return {least, warp_least(own.value == least && least < infinity ? own.index : nobody)};
}
__device__ __forceinline__ Least block_argmin(Least own) {
  const double least = block_least(own.value, infinity);
  return {least, block_least(own.value == least && least < infinity ? own.index : nobody, nobody)};
}

// The cheapest column of row i under the prices, for a warp.
template <class T>
__device__ Least cheapest_column(const Solver& s, const T* x, const T* y, int64_t size, int64_t i) {
  Least mine{infinity, nobody};
  for (int64_t j = threadIdx.x % 32; j < s.count; j += 32) {
    const double reduced = squared_distance(x + i * size, y + j * size, size) - s.price[j];
    if (reduced < mine.value) mine = {reduced, int(j)};
  }
  return warp_argmin(mine);
}

// Each row's price is its least reduced cost; rows keep a guess that is cheapest, then take a cheapest column that is free.
template <class T>
__device__ bool start(const Solver& s, const T* x, const T* y, int64_t size, const double* prices, const int64_t* guess) {
  for (int64_t j = threadIdx.x; j < s.count; j += blockDim.x)
    s.price[j] = prices ? prices[j] : 0, s.row_of[j] = s.column_of[j] = nobody;
  __syncthreads();
  int lost = 0;
  for (int64_t i = threadIdx.x / 32; i < s.count; i += blockDim.x / 32) {
    const Least best = cheapest_column(s, x, y, size, i);
    lost += best.index == nobody;
    if (threadIdx.x % 32) continue;
    s.row_price[i] = best.value, s.parent[i] = best.index, s.scanned[i] = nobody;
    const int64_t j = guess ? guess[i] : -1;
    if (j < 0 || j >= s.count || squared_distance(x + i * size, y + j * size, size) - s.price[j] != best.value) continue;
    s.scanned[i] = int(j);
    atomicMin(&s.row_of[j], int(i));
  }
  if (__syncthreads_or(lost)) return false;
  if (threadIdx.x == 0) {
    for (int64_t i = 0; i < s.count; ++i)
      if (s.scanned[i] != nobody && s.row_of[s.scanned[i]] == i) s.column_of[i] = s.scanned[i];
    for (int64_t i = 0; i < s.count; ++i)
      if (s.column_of[i] == nobody && s.row_of[s.parent[i]] == nobody) s.column_of[i] = s.parent[i], s.row_of[s.parent[i]] = int(i);
  }
  __syncthreads();
  return true;
}

// The shortest path from a free row to a free column, and the prices that it implies.
template <class T>
__device__ bool augment(const Solver& s, const T* x, const T* y, int64_t size, int free_row) {
  for (int64_t j = threadIdx.x; j < s.count; j += blockDim.x) s.shortest[j] = infinity, s.scanned[j] = 0;
  __syncthreads();
  double length = 0;
  int row = free_row, sink = nobody;
  while (sink == nobody) {
    Least mine{infinity, nobody};
    for (int64_t j = threadIdx.x; j < s.count; j += blockDim.x) {
      if (s.scanned[j]) continue;
      const double c = squared_distance(x + row * size, y + j * size, size);
      const double through = length + (c - s.row_price[row] - s.price[j]);
      if (through < s.shortest[j]) s.shortest[j] = through, s.parent[j] = row;
      if (s.shortest[j] < mine.value) mine = {s.shortest[j], int(j)};
    }
    const Least best = block_argmin(mine);
    if (best.index == nobody) return false;
    length = best.value;
    if (threadIdx.x == 0) s.scanned[best.index] = 1;
    row = s.row_of[best.index];
    if (row == nobody) sink = best.index;
    __syncthreads();
  }
  for (int64_t j = threadIdx.x; j < s.count; j += blockDim.x) {
    if (!s.scanned[j]) continue;
    const double gain = length - s.shortest[j];
    s.price[j] -= gain;
    if (s.row_of[j] != nobody) s.row_price[s.row_of[j]] += gain;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    s.row_price[free_row] += length;
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

// Mean excess of the match over the prices' bound.
template <class T>
__device__ double mean_gap(const Solver& s, const T* x, const T* y, int64_t size) {
  double total = 0;
  for (int64_t i = threadIdx.x / 32; i < s.count; i += blockDim.x / 32) {
    const double least = cheapest_column(s, x, y, size, i).value;
    const int j = s.column_of[i];
    if (threadIdx.x % 32 == 0) total += squared_distance(x + i * size, y + j * size, size) - s.price[j] - least;
  }
  return block_sum(total) / double(s.count);
}

template <class T>
CBK_KERNEL(512) solve_pairs(Measures<T> m, Assigned to, unsigned char* spilled) {
  CBK_DYNAMIC_SHARED(unsigned char, shared);
  const Solver s = solver_in(spilled ? spilled + int64_t(blockIdx.x) * m.count * solver_bytes : shared, m.count);
  for (int64_t pair = blockIdx.x; pair < m.firsts * m.seconds; pair += gridDim.x) {
    if (to.only && !(to.only[pair] > 0) == to.positive) continue;
    const T *x = m.first + pair / m.seconds * m.count * m.size, *y = m.second + pair % m.seconds * m.count * m.size;
    int64_t* match = to.match ? to.match + pair * m.count : nullptr;
    double* duals = to.duals ? to.duals + pair * m.count : nullptr;
    bool solved = start(s, x, y, m.size, duals, to.guess ? match : nullptr);
    for (int64_t i = 0; solved && i < m.count; ++i)
      if (s.column_of[i] == nobody) solved = augment(s, x, y, m.size, int(i));
    double total = 0;
    for (int64_t i = threadIdx.x; i < m.count; i += blockDim.x) {
      const int64_t j = solved ? s.column_of[i] : i;
      total += squared_distance(x + i * m.size, y + j * m.size, m.size);
      if (match) match[i] = j;
      if (to.partner) to.partner[pair * m.count + j] = int32_t(i);
      if (duals && solved) duals[i] = s.price[i];
    }
    total = block_sum(total) / double(m.count);
    if (threadIdx.x == 0 && to.cost) to.cost[pair] = solved ? total : quiet_nan;
    if (to.gap) {
      const double gap = solved ? mean_gap(s, x, y, m.size) : quiet_nan;
      if (threadIdx.x == 0) to.gap[pair] = gap;
    }
    __syncthreads();
  }
}

}  // namespace

template <class T>
void assign(const Measures<T>& m, const Assigned& to, CudaStream on) {
  const cudaStream_t stream = native(on);
  constexpr int64_t room = 46 << 10;
  const int64_t bytes = m.count * solver_bytes, pairs = m.firsts * m.seconds;
  const bool spills = bytes > room;
  const unsigned threads = m.count <= 64 ? 32 : m.count <= 512 ? 128 : 512;
  const int64_t blocks = std::min(pairs, spills ? held_blocks(solve_pairs<T>, int(threads), 16) : int64_t(1) << 30);
  Workspace<double> spilled(spills ? blocks * bytes / int64_t(sizeof(double)) + 1 : 0, stream);
  launch(solve_pairs<T>, dim3(unsigned(blocks)), dim3(threads), size_t(spills ? 16 : bytes), stream, m, to,
         reinterpret_cast<unsigned char*>(spilled.data()));
}

template void assign(const Measures<float>&, const Assigned&, CudaStream);
template void assign(const Measures<double>&, const Assigned&, CudaStream);

}  // namespace cbk::device
