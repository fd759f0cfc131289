// The inner kernels of knots.hpp, compiled once per instruction set.
#include "knots.hpp"

#include <bit>
#include <limits>

#include "../../common/simd.hpp"

namespace cbk::CBK_ISA {
namespace {

typedef double Pair
    __attribute__((vector_size(16)));  // of a line x t + one, as {one, x}; or sums weighted by 1 and by x

CBK_INLINE Pair load_pair(const double* p) {
  Pair v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
CBK_INLINE Pair both(double a) { return Pair{a, a}; }

constexpr int64_t ahead = 8;  // positions that are listed at once
struct Scratch {
  Pair* jump;       // [samples + 1], where the line changes; zero between calls
  uint64_t* used;   // one bit per position; zero between calls
  int32_t* knots;   // [width + ahead], the used positions
  int32_t* active;  // [width + lanes]: a neuron is active behind sample active[m], or before ~active[m] where that is
                    // negative
};

constexpr int64_t words(int64_t samples) { return samples / 64 + 1; }

Scratch carve(void* scratch, const Network& net, int64_t samples) {
  Pair* jump = static_cast<Pair*>(scratch);
  uint64_t* used = reinterpret_cast<uint64_t*>(jump + samples + 1);
  int32_t* knots = reinterpret_cast<int32_t*>(used + words(samples));
  return {jump, used, knots, knots + net.width + ahead};
}

int64_t scratch_size(const Network& net, int64_t samples) {
  return (samples + 1) * int64_t(sizeof(Pair)) + words(samples) * int64_t(sizeof(uint64_t)) +
         (2 * net.width + ahead + lanes<float>)*int64_t(sizeof(int32_t));
}

// The first sample with x > t (or x >= t); the cell has been found already.  Cells are so fine that most hold at most
// one sample: the first comparison needs no branch.
template <bool equal = false>
CBK_INLINE int32_t position(const SortedBatch& batch, float t, int32_t cell) {
  const auto before = [&](int32_t i) { return equal ? batch.x[i] < t : batch.x[i] <= t; };
  int32_t low = batch.first[cell];
  low += before(low);
  if (__builtin_expect(before(low), 0)) {
    int32_t high = batch.first[cell + 1];
    while (high - low > 8) {
      const int32_t middle = (low + high) / 2;
      (before(middle) ? low : high) = middle;
    }
    while (before(low)) ++low;  // ends at the NaN behind the last sample
  }
  return low;
}

constexpr int64_t block = 128;  // neurons that a pass holds on the stack

struct Walk {
  Pair first;        // the line on the first segment
  double magnitude;  // sum of all jumps
  bool finite;       // every neuron, those that no sample reaches too
};

// The positions at[count] of knots, and in `listed` which of them lie between samples; how many do.  Without a branch,
// since where a knot lies is random.  A knot is rounded: with `precise`, a sample at it (in which case `ties` is set)
// lies on the side that its neuron's own value says.  (To the risk it makes no difference.)
template <bool precise>
CBK_INLINE int64_t place_knots(const SortedBatch& batch, const float* w, const float* b, int64_t count,
                               const float* knot, const int32_t* cell, int32_t* at, int32_t* listed, bool* ties) {
  int64_t knots = 0;
  for (int64_t i = 0; i < count; ++i) {
    int32_t k = position(batch, knot[i], cell[i]);
    const bool tie = batch.x[k - 1] >= knot[i];
    *ties |= tie;
    if (precise && tie && (double(w[i]) * double(knot[i]) + double(b[i]) > 0) == (w[i] > 0))
      k = position<true>(batch, knot[i], cell[i]);
    at[i] = k;
    listed[knots] = int32_t(i);
    knots += uint32_t(k - 1) < uint32_t(batch.samples - 1);
  }
  return knots;
}

// All neurons: the line on the first segment, the jumps at their knots into the scratch, and with `places` where they
// are active.
template <bool places>
CBK_INLINE Walk walk(const Network& net, const float* theta, const SortedBatch& batch, const Scratch& scratch) {
  const F32 low = splat<F32>(batch.low), cells = splat<F32>(batch.scale), last = splat<F32>(float(batch.cells - 1));
  const I32 samples = I32{} + int32_t(batch.samples);
  alignas(64) float knot[block];
  alignas(64) int32_t cell[block], at[block] = {}, listed[block];
  alignas(64) double one[block], x[block];  // jumps from left to right
  F64 all{}, reached{}, first_one{}, first_x{};
  for (int64_t begin = 0; begin < net.width; begin += block) {
    const int64_t count = net.width - begin < block ? net.width - begin : block;
    const float *w = theta + begin, *b = w + net.biases(), *c = w + net.output_weights();
    for (int64_t i = 0; i < count; i += lanes<float>) {
      const F32 t = -load_first(b + i, count - i) / load_first(w + i, count - i);
      store(knot + i, t);
      store(cell + i, to_int(min(last, max((t - low) * cells, F32{}))));  // 0 for NaN
    }
    bool ties = false;
    int64_t knots = place_knots<false>(batch, w, b, count, knot, cell, at, listed, &ties);
    if (places && ties) knots = place_knots<true>(batch, w, b, count, knot, cell, at, listed, &ties);
    for (int64_t i = 0; i < count; i += lanes<float>) {
      const F32 wi = load_first(w + i, count - i), bi = load_first(b + i, count - i), ci = load_first(c + i, count - i);
      const I32 k = load(at + i), behind = wi > 0,
                nowhere = bi > 0 ? I32{} : samples;  // where w is 0: all samples or none
      const I32 begins = behind ? k == 0 : wi < 0 ? k > 0 : nowhere == 0, ever = begins | (behind & (k < samples));
      const Pair64 w2 = widen(wi), b2 = widen(bi), size2 = {abs(w2.low) + abs(b2.low), abs(w2.high) + abs(b2.high)};
      const Pair64 c2 = widen(behind ? ci : -ci), begins2 = widen(begins ? ci : F32{}),
                   ever2 = widen(ever ? ci : F32{});
      const auto half = [&](int64_t i, F64 w, F64 b, F64 size, F64 jump, F64 on_first, F64 on_ever) {
        store(one + i, jump * net.scale * b), store(x + i, jump * net.scale * w);
        all = mad(abs(jump), size, all), reached = mad(abs(on_ever), size, reached);
        first_one = mad(on_first, b, first_one), first_x = mad(on_first, w, first_x);
      };
      half(i, w2.low, b2.low, size2.low, c2.low, begins2.low, ever2.low);
      half(i + lanes<double>, w2.high, b2.high, size2.high, c2.high, begins2.high, ever2.high);
      if constexpr (places) store(scratch.active + begin + i, behind ? k : wi < 0 ? ~k : nowhere);
    }
    for (int64_t j = 0; j < knots; ++j) {
      const int32_t i = listed[j], k = at[i];
      scratch.used[k / 64] |= uint64_t(1) << (k % 64);
      scratch.jump[k] += Pair{one[i], x[i]};
    }
  }
  const double bias = net.output_bias ? theta[net.output_biases()] : 0;
  return {both(net.scale) * Pair{sum(first_one), sum(first_x)} + Pair{bias, 0},
          std::fabs(net.scale) * sum(reached) + std::fabs(bias), sum(all) < std::numeric_limits<double>::infinity()};
}

// The used positions in their order, and how many; none is used afterwards.
CBK_INLINE int64_t list_positions(const Scratch& scratch, int64_t samples) {
  int64_t count = 0;
  for (int64_t word = 0; word < words(samples); ++word) {
    uint64_t bits = scratch.used[word];
    const int64_t here = __builtin_popcountll(bits);
    scratch.used[word] = 0;
    for (int64_t done = 0; done < here; done += ahead) {
      CBK_UNROLL(8)
      for (int i = 0; i < ahead; ++i) {
        scratch.knots[count + done + i] = int32_t(word * 64) + std::countr_zero(bits);
        bits &= bits - 1;
      }
    }
    count += here;
  }
  return count;
}

struct Sweep {
  int64_t knots;       // listed in the scratch
  Pair last{0, 0};     // the line on the last segment
  Pair sums{0, 0};     // of a segment's line times what `segment` returned
  Pair largest{0, 0};  // squares of a line's coefficients
};

// All segments in their order, from the line `now` on: segment(end, sums of g and g x) for each, whose product with the
// line is summed, then what knot(k, jump) returns takes the jump's place.
template <class Segment, class Knot>
CBK_INLINE Sweep sweep(const SortedBatch& batch, const Scratch& scratch, Pair now, Segment segment, Knot knot) {
  Sweep all{.knots = list_positions(scratch, batch.samples)};
  Pair before_one{0, 0}, before_x{0, 0};  // sums of 1, x and of x, x^2
  const auto close = [&](int64_t end) {
    const Pair ones = load_pair(batch.moments + 4 * end), xs = load_pair(batch.moments + 4 * end + 1);
    const Pair outputs = both(now[0]) * (ones - before_one) + both(now[1]) * (xs - before_x), squares = now * now;
    all.sums += now * segment(end, outputs);
    all.largest = squares > all.largest ? squares : all.largest;
    before_one = ones, before_x = xs;
  };
  for (int64_t i = 0; i < all.knots; ++i) {
    const int64_t k = scratch.knots[i];
    close(k);
    const Pair jump = scratch.jump[k];
    now += jump;
    scratch.jump[k] = knot(k, jump);
  }
  close(batch.samples);
  all.last = now;
  return all;
}

CBK_INLINE double across(Pair v) { return v[0] + v[1]; }

CBK_INLINE Trace trace_of(const Walk& walk, const Sweep& all) {
  const double largest = all.largest[0] > all.largest[1] ? all.largest[0] : all.largest[1];
  return {across(all.sums), std::sqrt(largest), walk.magnitude, 0, walk.finite};
}

// Whether rounding left a task's `total` exact enough.  Prefix sums are off by eps of themselves, slopes by eps of the
// sum of all jumps; 8 eps of these products bounded ten times what was ever seen.  Beside that stands the error of a
// float32 pass over the samples, whose outputs are off by 1e-9 of the jumps' sum at the least: where it is the larger
// one, there is no reason to decline.
CBK_INLINE bool exact(const Trace& trace, const SortedBatch& batch, double total, double squares, double tolerance) {
  const double size = double(batch.samples) + batch.moments[4 * batch.samples + 2];
  const double terms =
      trace.slope * (trace.slope + trace.magnitude) * size + trace.magnitude * std::sqrt(size * squares);
  const double allowed = tolerance * total + 1e-9 * trace.magnitude * std::sqrt(total * double(batch.samples));
  return trace.finite && (terms + squares) * (8 * 2.3e-16) <= allowed;  // false for NaN
}

// The gradient from sums of g - y and (g - y) x: over all samples, and at each knot in place of its jump over those
// before it.
CBK_INLINE void put_gradient(const Network& net, const float* theta, int64_t samples, const Scratch& scratch, Pair all,
                             float* gradient) {
  const double factor = 2 / double(samples), scale = net.scale * factor;
  for (int64_t begin = 0; begin < net.width; begin += block) {
    const int64_t count = net.width - begin < block ? net.width - begin : block;
    const int32_t* active = scratch.active + begin;
    alignas(64) double one[block], x[block];
    for (int64_t i = 0; i < (count + lanes<float> - 1) / lanes<float> * lanes<float>; ++i) {
      const Pair here = scratch.jump[active[i] ^ (active[i] >> 31)];
      one[i] = here[0], x[i] = here[1];
    }
    const float* from = theta + begin;
    float* to = gradient + begin;
    for (int64_t i = 0; i < count; i += lanes<float>, from += lanes<float>, to += lanes<float>) {
      const Pair64 w = widen(load_first(from, count - i)), b = widen(load_first(from + net.biases(), count - i));
      const Pair64 c = widen(load_first(from + net.output_weights(), count - i));
      const auto sums = [&](const double* here, double total, int64_t i) {
        return load_int64(active + i) < 0 ? load(here + i) : total - load(here + i);  // before the knot, or behind it
      };
      const Pair64 ones{sums(one, all[0], i), sums(one, all[0], i + lanes<double>)};
      const Pair64 xs{sums(x, all[1], i), sums(x, all[1], i + lanes<double>)};
      const auto put = [&](float* to, F64 low, F64 high) {
        store_first(to, narrow({low * scale, high * scale}), count - i);
      };
      put(to, c.low * xs.low, c.high * xs.high);
      put(to + net.biases(), c.low * ones.low, c.high * ones.high);
      put(to + net.output_weights(), w.low * xs.low + b.low * ones.low, w.high * xs.high + b.high * ones.high);
    }
  }
  if (net.output_bias) gradient[net.output_biases()] = float(factor * all[0]);
}

template <bool slopes>
bool one_task(const Network& net, const float* theta, const SortedBatch& batch, const TaskSums& task, double tolerance,
              void* memory, double* sum, float* gradient) {
  const Scratch scratch = carve(memory, net, batch.samples);
  const Walk start = walk<slopes>(net, theta, batch, scratch);
  Pair before{0, 0}, residual{0, 0};  // sums of y and y x; where slopes are wanted, of g - y and (g - y) x
  const Sweep all = sweep(batch, scratch, start.first, [&](int64_t end, Pair outputs) {
    const Pair targets = load_pair(task.cross + 2 * end), here = targets - before;
    before = targets;
    if constexpr (slopes) residual += outputs - here;
    return outputs - (here + here);
  }, [&](int64_t, Pair) { return residual; });
  if constexpr (slopes) {
    scratch.jump[batch.samples] = residual;
    put_gradient(net, theta, batch.samples, scratch, residual, gradient);
    for (int64_t i = 0; i < all.knots; ++i) scratch.jump[scratch.knots[i]] = Pair{0, 0};
    scratch.jump[batch.samples] = Pair{0, 0};
  }
  *sum = across(all.sums) + task.squares[0];
  return exact(trace_of(start, all), batch, *sum, task.squares[0], tolerance);
}

bool risk(const Network& net, const float* theta, const SortedBatch& batch, const TaskSums& task, double tolerance,
          void* scratch, double* sum, float* gradient) {
  return gradient ? one_task<true>(net, theta, batch, task, tolerance, scratch, sum, gradient)
                  : one_task<false>(net, theta, batch, task, tolerance, scratch, sum, gradient);
}

Trace trace(const Network& net, const float* theta, const SortedBatch& batch, void* memory, Knot* knots) {
  const Scratch scratch = carve(memory, net, batch.samples);
  const Walk start = walk<false>(net, theta, batch, scratch);
  Knot* next = knots;
  const Sweep all =
      sweep(batch, scratch, start.first, [](int64_t, Pair outputs) { return outputs; }, [&](int64_t k, Pair jump) {
    *next++ = {-jump[0], -jump[1], k};
    return Pair{0, 0};
  });
  *next++ = {all.last[0], all.last[1], batch.samples};
  Trace trace = trace_of(start, all);
  trace.knots = next - knots;
  return trace;
}

bool task_risks(const Trace& trace, const Knot* knots, const SortedBatch& batch, const TaskSums& tasks,
                double tolerance, double* sums) {
  constexpr int vectors = task_block / lanes<double>, half = vectors > 4 ? vectors / 2 : vectors;
  double cross[task_block];
  for (int part = 0; part < vectors; part += half) {  // as many as there are registers for
    F64 on_one[half] = {}, on_x[half] = {};
    for (int64_t i = 0; i < trace.knots; ++i) {
      const double* line = tasks.cross + 2 * task_block * knots[i].k + part * lanes<double>;
      const F64 one = splat<F64>(knots[i].one), x = splat<F64>(knots[i].x);
      CBK_UNROLL(8)
      for (int v = 0; v < half; ++v) {
        on_one[v] = mad(load(line + v * lanes<double>), one, on_one[v]);
        on_x[v] = mad(load(line + task_block + v * lanes<double>), x, on_x[v]);
      }
    }
    for (int v = 0; v < half; ++v) store(cross + (part + v) * lanes<double>, on_one[v] + on_x[v]);
  }
  bool all = true;
  for (int64_t t = 0; t < tasks.tasks; ++t) {
    sums[t] = trace.squares - 2 * cross[t] + tasks.squares[t];
    all = exact(trace, batch, sums[t], tasks.squares[t], tolerance) && all;
  }
  return all;
}

}  // namespace

KnotsKernels knots_kernels() { return {scratch_size, risk, trace, task_risks}; }

}  // namespace cbk::CBK_ISA
