// Alphas at an effective sample size on the GPU; the CPU's twin is alpha_for_ess (consensus_cpu.cpp).
//
// Where the CPU halves an interval of log(alpha range) until it is 1e-12 long, 16 alphas are tried at once here, one by
// each warp: 13 dependent passes over the risks in place of 49 or more.  A task of few particles is one block's, all
// rounds of it.  For many particles a round is a launch, and slices of the particles are blocks.  Shapes alone decide
// the order of the sums.
#include "../cuda/reduce.hpp"
#include "../cuda/rows.hpp"

#include "consensus_cuda.hpp"
#include "weight_cuda.hpp"

namespace cbk::device {
namespace {

constexpr int tried = 16, threads = 32 * tried;
constexpr int64_t staged = 2048, most_slices = 128;
constexpr double length_wanted = 1e-12;
// the first, and those that make its longest interval, of 512, so short: 17^12 > 512e12
constexpr int most_rounds = 13;

// Of a slice's finite risks, or all: their extremes, how many there are, and how many of the least.
struct Extremes {
  double least, greatest, finite, best;
};

// The interval of log(alpha range).  The first round tries the bounds that the CPU doubles, and `below` more alphas
// between the lowest two of them.
struct Interval {
  double low, high;
};
constexpr double lowest = -30, highest = 1022;
constexpr int below = 8;  // of the first round's: between -30 and 2
__device__ __forceinline__ double tried_at(const Interval& s, bool first, int i) {
  if (!first) return s.low + (s.high - s.low) * double(i + 1) / (tried + 1);
  return i < below ? lowest + 32.0 * double(i + 1) / (below + 1) : double((4 << (i - below)) - 2);
}
// Between the last alpha whose effective sample size is above the target and the next.
__device__ __forceinline__ Interval narrowed(const Interval& s, bool first, const double* ess, double wanted) {
  int more = 0;
  while (more < tried && ess[more] > wanted) ++more;
  return {more > 0 ? tried_at(s, first, more - 1) : s.low, more < tried ? tried_at(s, first, more) : s.high};
}
__device__ __forceinline__ bool is_short(const Interval& s) { return s.high - s.low <= length_wanted; }

// What no search is needed for: all risks equal, the target below the number of the best, or above that of all.
__device__ __forceinline__ double alpha_without_search(const Extremes& e, double wanted) {
  if (!(e.greatest > e.least) || e.best >= wanted) return infinity;
  return e.finite <= wanted ? 0 : quiet_nan;
}
__device__ __forceinline__ double alpha_in(const Interval& s, const Extremes& e) {
  return ::exp(0.5 * (s.low + s.high)) / (e.greatest - e.least);
}

// The block's, of count risks, `stride` apart.
__device__ Extremes extremes_of(const double* risk, int64_t count, int64_t stride) {
  Extremes e{infinity, -infinity, 0, 0};
  for (int64_t n = threadIdx.x; n < count; n += threads) {
    const double r = risk[n * stride];
    if (!is_finite(r)) continue;
    e.best = r < e.least ? 1 : e.best + (r == e.least);
    e.least = r < e.least ? r : e.least, e.greatest = r > e.greatest ? r : e.greatest, e.finite += 1;
  }
  const double own = e.least;
  e.least = block_least(e.least, infinity), e.greatest = -block_least(-e.greatest, infinity);
  e.finite = block_sum(e.finite), e.best = block_sum(own == e.least ? e.best : 0);
  return e;
}

struct Sums {
  double total, squares;
};
// A lane's part of the sums of weights and their squares at the warp's alpha.
__device__ __forceinline__ Sums add_weights(Sums sums, const double* risk, int count, double least, double alpha) {
  for (int n = int(threadIdx.x) % 32; n < count; n += 32) {
    const double w = unnormalised(risk[n], least, alpha);
    sums.total += w, sums.squares += w * w;
  }
  return sums;
}

// A block has a task of at most `staged` particles.
CBK_KERNEL(threads)
section(const double* risk, int64_t particles, int64_t tasks, const double* target, double* alphas) {
  CBK_SHARED(double, r, staged);
  CBK_SHARED(double, ess, tried);
  const int warp = int(threadIdx.x) / 32;
  const double wanted = *target;
  for (int64_t n = threadIdx.x; n < particles; n += threads) r[n] = risk[n * tasks + blockIdx.x];
  __syncthreads();
  const Extremes e = extremes_of(r, particles, 1);
  double alpha = alpha_without_search(e, wanted);
  if (alpha != alpha) {  // the whole block
    Interval s{lowest, highest};
    for (int round = 0; round < most_rounds && !is_short(s); ++round) {
      const double own = ::exp(tried_at(s, round == 0, warp)) / (e.greatest - e.least);
      Sums sums = add_weights({}, r, int(particles), e.least, own);
      sums = {warp_sum(sums.total), warp_sum(sums.squares)};
      if (threadIdx.x % 32 == 0) ess[warp] = sums.total * sums.total / sums.squares;
      __syncthreads();
      s = narrowed(s, round == 0, ess, wanted);
      __syncthreads();
    }
    alpha = alpha_in(s, e);
  }
  if (threadIdx.x == 0) alphas[blockIdx.x] = alpha;
}

// Of many particles: a block has a slice of a task's, blockIdx.y.
struct Slices {
  const double* risk;
  int64_t particles, tasks, slice, slices;
  const double* target;
  Extremes* extremes;   // [tasks][slices]
  Sums* sums;           // [2][tasks][slices][tried], of this round and the last
  Interval* intervals;  // [2][tasks]
  double* alphas;
};

CBK_KERNEL(threads) find_extremes(Slices k) {
  const int64_t task = blockIdx.y, begin = blockIdx.x * k.slice;
  const int64_t end = begin + k.slice < k.particles ? begin + k.slice : k.particles;
  const Extremes e = extremes_of(k.risk + begin * k.tasks + task, end - begin, k.tasks);
  if (threadIdx.x == 0) k.extremes[task * k.slices + blockIdx.x] = e;
}

// A round: every block adds the last round's sums anew, in the same order.  The round behind the last writes alphas.
CBK_KERNEL(threads) section_slices(Slices k, int round) {
  CBK_SHARED(double, r, staged);
  CBK_SHARED(double, ess, tried);
  const int64_t task = blockIdx.y;
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  const double wanted = *k.target;
  Extremes e{infinity, -infinity, 0, 0};
  for (int64_t i = 0; i < k.slices; ++i) {
    const Extremes other = k.extremes[task * k.slices + i];
    e.best = other.least < e.least ? other.best : e.best + (other.least == e.least ? other.best : 0);
    e.least = other.least < e.least ? other.least : e.least;
    e.greatest = other.greatest > e.greatest ? other.greatest : e.greatest, e.finite += other.finite;
  }
  const int64_t last = (round + 1) % 2, now = round % 2;
  Interval s{lowest, highest};
  if (round > 0) {
    if (round > 1) s = k.intervals[last * k.tasks + task];
    Sums sums{};
    const Sums* parts = k.sums + (last * k.tasks + task) * k.slices * tried;
    for (int64_t i = lane; i < k.slices; i += 32)
      sums.total += parts[i * tried + warp].total, sums.squares += parts[i * tried + warp].squares;
    sums = {warp_sum(sums.total), warp_sum(sums.squares)};
    if (lane == 0) ess[warp] = sums.total * sums.total / sums.squares;
    __syncthreads();
    if (round == 1 || !is_short(s)) s = narrowed(s, round == 1, ess, wanted);
  }
  const double known = alpha_without_search(e, wanted);
  if (blockIdx.x == 0 && threadIdx.x == 0) {
    k.intervals[now * k.tasks + task] = s;
    k.alphas[task] = known == known ? known : alpha_in(s, e);
  }
  if (round == most_rounds || known == known || is_short(s)) return;  // all blocks of the task
  Sums sums{};
  const double alpha = ::exp(tried_at(s, round == 0, warp)) / (e.greatest - e.least);
  const int64_t begin = blockIdx.x * k.slice, end = begin + k.slice < k.particles ? begin + k.slice : k.particles;
  for (int64_t from = begin; from < end; from += staged) {
    const int count = int(end - from < staged ? end - from : staged);
    __syncthreads();
    for (int n = int(threadIdx.x); n < count; n += threads) r[n] = k.risk[(from + n) * k.tasks + task];
    __syncthreads();
    sums = add_weights(sums, r, count, e.least, alpha);
  }
  sums = {warp_sum(sums.total), warp_sum(sums.squares)};
  if (lane == 0) k.sums[((now * k.tasks + task) * k.slices + blockIdx.x) * tried + warp] = sums;
}

}  // namespace

void solve_alphas(const double* risk, int64_t particles, int64_t tasks, const double* target, double* alphas,
                  CudaStream on) {
  const cudaStream_t stream = native(on);
  if (particles <= staged) {
    launch(section, dim3(unsigned(tasks)), dim3(threads), 0, stream, risk, particles, tasks, target, alphas);
    return;
  }
  const int64_t slice = blocks_for(particles, std::min(blocks_for(particles, staged), most_slices));
  const int64_t slices = blocks_for(particles, slice);
  Workspace<Extremes> extremes(tasks * slices, stream);
  Workspace<Sums> sums(2 * tasks * slices * tried, stream);
  Workspace<Interval> intervals(2 * tasks, stream);
  const Slices k{risk, particles, tasks, slice, slices, target, extremes.data(), sums.data(), intervals.data(), alphas};
  const dim3 grid(static_cast<unsigned>(slices), static_cast<unsigned>(tasks));
  launch(find_extremes, grid, dim3(threads), 0, stream, k);
  for (int round = 0; round <= most_rounds; ++round) launch(section_slices, grid, dim3(threads), 0, stream, k, round);
}

}  // namespace cbk::device
