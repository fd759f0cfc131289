// The inner kernels of piecewise.hpp, compiled once per instruction set.
#include "piecewise.hpp"

#include <limits>

#include "../common/simd.hpp"

namespace cbk::CBK_ISA {
namespace {

struct Pair {  // of a line x t + one; or sums weighted by x and by 1
  double x, one;
};

struct Scratch {
  Pair* jump;      // [samples + 1], where the line changes; zero between calls
  uint64_t* used;  // one bit per position; zero between calls
  int32_t* at;     // [width]
};

constexpr int64_t words(int64_t samples) { return samples / 64 + 1; }

Scratch carve(void* scratch, int64_t samples) {
  Pair* jump = static_cast<Pair*>(scratch);
  uint64_t* used = reinterpret_cast<uint64_t*>(jump + samples + 1);
  return {jump, used, reinterpret_cast<int32_t*>(used + words(samples))};
}

int64_t scratch_size(const Network& net, int64_t samples) {
  return (samples + 1) * int64_t(sizeof(Pair)) + words(samples) * int64_t(sizeof(uint64_t)) +
         net.width * int64_t(sizeof(int32_t));
}

// The first sample with x > t (or x >= t); the cell has been found already.  Cells are so fine that most hold at most one
// sample: the first comparison needs no branch.
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

struct Walk {
  Pair first;        // the line on the first segment
  Pair whole;        // weights of the sums over all samples in the sum of g y
  double magnitude;  // sum of all jumps
  bool finite;       // every neuron, those that no sample reaches too
};

// All neurons: their jumps into the scratch, and with `places` where they are active: behind sample at[m], or before ~at[m]
// where that is negative.
template <bool places>
CBK_INLINE Walk walk(const Network& net, const float* theta, const SortedBatch& batch, const Scratch& scratch) {
  constexpr int64_t block = 64;
  const int64_t samples = batch.samples;
  const float *w = theta, *b = theta + net.biases(), *c = theta + net.output_weights();
  const float bias = net.output_bias ? theta[net.output_biases()] : 0.0f;
  Walk walk{{0, bias}, {0, bias}, std::fabs(bias), true};
  float knot[block];
  int32_t cell[block];
  for (int64_t begin = 0; begin < net.width; begin += block) {
    const int64_t count = net.width - begin < block ? net.width - begin : block;
    for (int64_t i = 0; i < count; ++i) {
      const float t = -b[begin + i] / w[begin + i], at = (t - batch.low) * batch.scale;
      const float bounded = at > 0 ? at : 0;  // also where t is NaN
      knot[i] = t;
      cell[i] = int32_t(bounded < float(batch.cells - 1) ? bounded : float(batch.cells - 1));
    }
    for (int64_t i = 0; i < count; ++i) {
      const double wi = w[begin + i], bi = b[begin + i], ci = double(c[begin + i]) * net.scale;
      const Pair step{ci * wi, ci * bi};
      const double reach = std::fabs(step.x) + std::fabs(step.one);
      walk.finite = walk.finite && reach < std::numeric_limits<double>::infinity();
      const auto set_place = [&](int64_t at) {
        if constexpr (places) scratch.at[begin + i] = int32_t(at);
      };
      set_place(samples);
      if (wi == 0) {  // everywhere or nowhere
        if (!(bi > 0)) continue;
        walk.first.one += step.one, walk.whole.one += step.one;
        walk.magnitude += reach;
        set_place(0);
        continue;
      }
      int32_t k = position(batch, knot[i], cell[i]);
      // a sample at the rounded knot: which side is it on?  (To the risk it makes no difference.)
      if (places && __builtin_expect(k > 0 && batch.x[k - 1] == knot[i], 0) && (wi * double(knot[i]) + bi > 0) == (wi > 0))
        k = position<true>(batch, knot[i], cell[i]);
      if (k == (wi > 0 ? samples : 0)) continue;  // active on no sample, however large it may be elsewhere
      walk.magnitude += reach;
      set_place(wi > 0 ? k : ~k);
      scratch.used[k / 64] |= uint64_t(1) << (k % 64);
      // without a branch, since signs are random
      const double behind = wi > 0, sign = 2 * behind - 1;
      Pair& jump = scratch.jump[k];
      jump.x += sign * step.x, jump.one += sign * step.one;
      walk.first.x += (1 - behind) * step.x, walk.first.one += (1 - behind) * step.one;
      walk.whole.x += behind * step.x, walk.whole.one += behind * step.one;
    }
  }
  return walk;
}

struct Squares {
  double sum = 0, largest = 0;  // sum of g^2; largest square of a line's coefficients
};

// All segments in their order, from the line `now` on: at each used position k, and at the end, segment(end, line) for the
// one that ends there, then what knot(k, jump) returns takes the jump's place.
template <class Segment, class Knot>
CBK_INLINE Squares sweep(const SortedBatch& batch, const Scratch& scratch, Pair now, Segment segment, Knot knot) {
  Squares squares;
  Pair before{0, 0};  // sums of x^2 and x
  int64_t start = 0;
  const auto close = [&](int64_t end) {
    const Pair sums{batch.powers[2 * end + 1], batch.powers[2 * end]};
    const double n = double(end - start), x = sums.one - before.one, xx = sums.x - before.x;
    const double aa = now.x * now.x, bb = now.one * now.one;
    squares.sum += bb * n + (2 * now.x * now.one * x + aa * xx);
    squares.largest = aa > squares.largest ? aa : squares.largest;
    squares.largest = bb > squares.largest ? bb : squares.largest;
    segment(end, Pair{now.one * x + now.x * xx, now.one * n + now.x * x});
    start = end, before = sums;
  };
  for (int64_t word = 0; word < words(batch.samples); ++word) {
    uint64_t bits = scratch.used[word];
    if (!bits) continue;
    scratch.used[word] = 0;
    for (; bits; bits &= bits - 1) {
      const int64_t k = word * 64 + __builtin_ctzll(bits);
      if (k > start) close(k);
      const Pair jump = scratch.jump[k];
      now.x += jump.x, now.one += jump.one;
      scratch.jump[k] = knot(k, jump);
    }
  }
  close(batch.samples);
  return squares;
}

// A task's sum, and whether rounding left it exact enough.  Prefix sums are off by eps of themselves, slopes by eps of the
// sum of all jumps; 8 eps of these products bounded ten times what was ever seen.  Beside that stands the error of a
// float32 pass over the samples, whose outputs are off by 1e-9 of the jumps' sum at the least: where it is the larger one,
// there is no reason to decline.
CBK_INLINE bool conclude(const Trace& trace, const SortedBatch& batch, double cross, double squares, double tolerance,
                         double* sum) {
  const double size = double(batch.samples) + batch.powers[2 * batch.samples + 1];
  const double total = trace.squares - 2 * cross + squares;
  const double terms =
      trace.slope * (trace.slope + trace.magnitude) * size + trace.magnitude * std::sqrt(size * squares);
  const double allowed = tolerance * total + 1e-9 * trace.magnitude * std::sqrt(total * double(batch.samples));
  *sum = total;
  return trace.finite && (terms + squares) * (8 * 2.3e-16) <= allowed;  // false for NaN
}

CBK_INLINE double share(Pair weights, const double* sums) { return weights.one * sums[0] + weights.x * sums[1]; }

bool risk(const Network& net, const float* theta, const SortedBatch& batch, const TaskSums& task, double tolerance,
          void* memory, double* sum) {
  const Scratch scratch = carve(memory, batch.samples);
  const Walk all = walk<false>(net, theta, batch, scratch);
  double cross = share(all.whole, task.cross + 2 * batch.samples);
  const Squares squares = sweep(batch, scratch, all.first, [](int64_t, Pair) {}, [&](int64_t k, Pair jump) {
    cross -= share(jump, task.cross + 2 * k);
    return Pair{0, 0};
  });
  return conclude({squares.sum, std::sqrt(squares.largest), all.magnitude, 0, all.finite}, batch, cross, task.squares[0],
                  tolerance, sum);
}

bool gradient(const Network& net, const float* theta, const SortedBatch& batch, const TaskSums& task, double tolerance,
              void* memory, double* sum, float* gradient) {
  const Scratch scratch = carve(memory, batch.samples);
  const Walk all = walk<true>(net, theta, batch, scratch);
  double cross = share(all.whole, task.cross + 2 * batch.samples);
  Pair targets{0, 0}, residual{0, 0};  // up to the last segment: sums of x y and y, of (g - y) x and g - y
  const Squares squares = sweep(
      batch, scratch, all.first,
      [&](int64_t end, Pair outputs) {
        const double *line = task.cross + 2 * end;
        residual.one += outputs.one - (line[0] - targets.one), residual.x += outputs.x - (line[1] - targets.x);
        targets = {line[1], line[0]};
      },
      [&](int64_t k, Pair jump) {
        cross -= share(jump, task.cross + 2 * k);
        return residual;
      });
  scratch.jump[batch.samples] = residual;

  const float *w = theta, *b = theta + net.biases(), *c = theta + net.output_weights();
  const double factor = 2 / double(batch.samples), scale = net.scale * factor;
  for (int64_t m = 0; m < net.width; ++m) {
    const int32_t at = scratch.at[m], sign = at >> 31;
    const Pair before = scratch.jump[at ^ sign];
    const double behind = 1 + sign, turn = -1 - 2 * sign;  // of the sum over all samples; of that before the knot
    const double on_x = behind * residual.x + turn * before.x, on_one = behind * residual.one + turn * before.one;
    gradient[m] = float(scale * c[m] * on_x);
    gradient[net.biases() + m] = float(scale * c[m] * on_one);
    gradient[net.output_weights() + m] = float(scale * (w[m] * on_x + b[m] * on_one));
  }
  if (net.output_bias) gradient[net.output_biases()] = float(factor * residual.one);
  for (int64_t m = 0; m < net.width; ++m) scratch.jump[scratch.at[m] < 0 ? ~scratch.at[m] : scratch.at[m]] = {0, 0};
  scratch.jump[batch.samples] = {0, 0};
  return conclude({squares.sum, std::sqrt(squares.largest), all.magnitude, 0, all.finite}, batch, cross, task.squares[0],
                  tolerance, sum);
}

Trace trace(const Network& net, const float* theta, const SortedBatch& batch, void* memory, Knot* knots) {
  const Scratch scratch = carve(memory, batch.samples);
  const Walk all = walk<false>(net, theta, batch, scratch);
  Knot* next = knots;
  const Squares squares = sweep(batch, scratch, all.first, [](int64_t, Pair) {}, [&](int64_t k, Pair jump) {
    *next++ = {-jump.one, -jump.x, k};
    return Pair{0, 0};
  });
  *next++ = {all.whole.one, all.whole.x, batch.samples};
  return {squares.sum, std::sqrt(squares.largest), all.magnitude, next - knots, all.finite};
}

bool task_risks(const Trace& trace, const Knot* knots, const SortedBatch& batch, const TaskSums& tasks, double tolerance,
                double* sums) {
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
  bool exact = true;
  for (int64_t t = 0; t < tasks.tasks; ++t)
    exact = conclude(trace, batch, cross[t], tasks.squares[t], tolerance, sums + t) && exact;
  return exact;
}

}  // namespace

PiecewiseKernels piecewise_kernels() { return {scratch_size, risk, gradient, trace, task_risks}; }

}  // namespace cbk::CBK_ISA
