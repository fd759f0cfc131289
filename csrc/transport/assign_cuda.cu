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
  int64_t count, size;
  double scale;  // of the coordinates: a power of two, 1 where no square over- or underflows
};
constexpr int64_t solver_bytes = 3 * sizeof(double) + 4 * sizeof(int);  // an atom

__device__ __forceinline__ Solver solver_in(unsigned char* memory, int64_t count, int64_t size) {
  double* d = reinterpret_cast<double*>(memory);
  int* i = reinterpret_cast<int*>(d + 3 * count);
  return {d, d + count, d + 2 * count, i, i + count, i + 2 * count, i + 3 * count, count, size, 1};
}

// Squared distance of atom i and point j.
template <class T>
__device__ __forceinline__ double cost_of(const Solver& s, const T* x, const T* y, int64_t i, int64_t j) {
  x += i * s.size, y += j * s.size;
  return s.scale == 1 ? squared_distance(x, y, s.size) : squared_distance(x, y, s.size, s.scale);
}

template <class T>
__device__ double scale_of(const Solver& s, const T* x, const T* y) {
  double least = 0;
  for (int64_t i = threadIdx.x; sizeof(T) == 8 && i < s.count * s.size; i += blockDim.x)
    least = fmin(least, -fmax(fabs(double(x[i])), fabs(double(y[i]))));
  const double largest = -block_least(least, 0.0);
  return largest == 0 || (largest > 0x1p-400 && largest < 0x1p400) ? 1 : unit_scale(largest);
}

struct Least {
  double value;
  int index;
};

// The least value and its lowest index, or `nobody` where no value is finite.
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
__device__ Least cheapest_column(const Solver& s, const T* x, const T* y, int64_t i) {
  Least mine{infinity, nobody};
  for (int64_t j = threadIdx.x % 32; j < s.count; j += 32) {
    const double reduced = cost_of(s, x, y, i, j) - s.price[j];
    if (reduced < mine.value) mine = {reduced, int(j)};
  }
  return warp_argmin(mine);
}

// The prices to start from, in shared units; false where all are 0.  Those that differ by more than twice what the
// costs do at most are dropped, and what all have in common is taken off: only differences matter.
template <class T>
__device__ bool set_prices(const Solver& s, const T* x, const T* y, const double* prices) {
  double low = infinity, high = infinity, far = 0;  // of the prices, and of the points from one of them
  for (int64_t j = threadIdx.x; j < s.count; j += blockDim.x) {
    const double price = prices[j] * s.scale * s.scale;
    low = fmin(low, price), high = fmin(high, -price);
    far = fmin(far, -fmax(cost_of(s, x, y, j, 0), cost_of(s, y, y, j, 0)));
  }
  const double least = block_least(low, infinity), most = -block_least(high, infinity);
  const double range = -8 * block_least(far, 0.0), shift = fabs(most) > 1024 * (most - least) ? most : 0;
  const bool dropped = !(most - least <= range);
  int some = 0;
  for (int64_t j = threadIdx.x; j < s.count; j += blockDim.x) {
    const double price = prices[j];
    s.price[j] = fabs(price) < infinity ? (dropped ? 0 : price * s.scale * s.scale - shift) : quiet_nan;
    some += s.price[j] != 0;
  }
  return __syncthreads_or(some);
}

// Whether rounding of the prices is negligible beside the pairs' mean cost.
template <class T>
__device__ bool precise(const Solver& s, const T* x, const T* y) {
  double least = 0, total = 0;
  for (int64_t i = threadIdx.x; i < s.count; i += blockDim.x) {
    least = fmin(least, -fabs(s.price[i]));
    total += cost_of(s, x, y, i, s.column_of[i]);
  }
  const double largest = -block_least(least, 0.0);
  return largest <= 0x1p21 * block_sum(total) / double(s.count);
}

// Each row's price is its least reduced cost; rows keep a guess that is cheapest, then take a cheapest column that is
// free.
template <class T>
__device__ bool start(const Solver& s, const T* x, const T* y, const int64_t* guess) {
  for (int64_t j = threadIdx.x; j < s.count; j += blockDim.x) s.row_of[j] = s.column_of[j] = nobody;
  __syncthreads();
  int lost = 0;
  for (int64_t i = threadIdx.x / 32; i < s.count; i += blockDim.x / 32) {
    const Least best = cheapest_column(s, x, y, i);
    lost += best.index == nobody;
    if (threadIdx.x % 32) continue;
    s.row_price[i] = best.value, s.parent[i] = best.index, s.scanned[i] = nobody;
    const int64_t j = guess ? guess[i] : -1;
    if (j < 0 || j >= s.count || cost_of(s, x, y, i, j) - s.price[j] != best.value) continue;
    s.scanned[i] = int(j);
    atomicMin(&s.row_of[j], int(i));
  }
  if (__syncthreads_or(lost)) return false;
  if (threadIdx.x == 0) {
    for (int64_t i = 0; i < s.count; ++i)
      if (s.scanned[i] != nobody && s.row_of[s.scanned[i]] == i) s.column_of[i] = s.scanned[i];
    for (int64_t i = 0; i < s.count; ++i)
      if (s.column_of[i] == nobody && s.row_of[s.parent[i]] == nobody)
        s.column_of[i] = s.parent[i], s.row_of[s.parent[i]] = int(i);
  }
  __syncthreads();
  return true;
}

// The shortest path from a free row to a free column, and the prices that it implies.
template <class T>
__device__ bool augment(const Solver& s, const T* x, const T* y, int free_row) {
  for (int64_t j = threadIdx.x; j < s.count; j += blockDim.x) s.shortest[j] = infinity, s.scanned[j] = 0;
  __syncthreads();
  double length = 0;
  int row = free_row, sink = nobody;
  while (sink == nobody) {
    Least mine{infinity, nobody};
    for (int64_t j = threadIdx.x; j < s.count; j += blockDim.x) {
      if (s.scanned[j]) continue;
      const double c = cost_of(s, x, y, row, j);
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
__device__ double mean_gap(const Solver& s, const T* x, const T* y) {
  double total = 0;
  for (int64_t i = threadIdx.x / 32; i < s.count; i += blockDim.x / 32) {
    const double least = cheapest_column(s, x, y, i).value;
    const int j = s.column_of[i];
    if (threadIdx.x % 32 == 0) total += cost_of(s, x, y, i, j) - s.price[j] - least;
  }
  return block_sum(total) / double(s.count);
}

template <class T>
__device__ bool solve(const Solver& s, const T* x, const T* y, const int64_t* guess) {
  bool solved = start(s, x, y, guess);
  for (int64_t i = 0; solved && i < s.count; ++i)
    if (s.column_of[i] == nobody) solved = augment(s, x, y, int(i));
  return solved;
}

template <class T>
CBK_KERNEL(512)
solve_pairs(Measures<T> m, Assigned to, unsigned char* spilled) {
  CBK_DYNAMIC_SHARED(unsigned char, shared);
  Solver s = solver_in(spilled ? spilled + int64_t(blockIdx.x) * m.count * solver_bytes : shared, m.count, m.size);
  for (int64_t pair = blockIdx.x; pair < m.firsts * m.seconds; pair += gridDim.x) {
    if (to.only && !(to.only[pair] > 0) == to.positive) continue;
    const T *x = m.first + pair / m.seconds * m.count * m.size, *y = m.second + pair % m.seconds * m.count * m.size;
    int64_t* match = to.match ? to.match + pair * m.count : nullptr;
    double* duals = to.duals ? to.duals + pair * m.count : nullptr;
    const int64_t* guess = to.guess ? match : nullptr;
    s.scale = scale_of(s, x, y);
    const bool warm = duals && set_prices(s, x, y, duals);
    const auto forget = [&] {
      __syncthreads();
      for (int64_t j = threadIdx.x; j < s.count; j += blockDim.x) s.price[j] = 0;
      __syncthreads();
    };
    if (!warm) forget();
    bool solved = solve(s, x, y, guess);
    if (warm && solved && !precise(s, x, y)) {  // the start was misleading
      forget();
      solved = solve(s, x, y, guess);
    }
    double total = 0, finite = 0;
    for (int64_t i = threadIdx.x; i < m.count; i += blockDim.x) {
      const int64_t j = solved ? s.column_of[i] : i;
      total += cost_of(s, x, y, i, j);
      if (match) match[i] = j;
      if (to.partner) to.partner[pair * m.count + j] = int32_t(i);
      finite += s.price[i] / s.scale / s.scale * 0;
    }
    total = block_sum(total) / double(m.count);
    finite = block_sum(finite);
    for (int64_t j = threadIdx.x; duals && solved && j < m.count; j += blockDim.x)
      duals[j] = finite == 0 ? s.price[j] / s.scale / s.scale : 0;  // 0 where the unscaled prices overflow
    if (threadIdx.x == 0 && to.cost) to.cost[pair] = solved ? total / s.scale / s.scale : quiet_nan;
    if (to.gap) {
      const double gap = solved ? mean_gap(s, x, y) : quiet_nan;
      if (threadIdx.x == 0) to.gap[pair] = gap / s.scale / s.scale;
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
