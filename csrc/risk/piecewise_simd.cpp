// The inner kernel of piecewise.hpp, compiled once per instruction set.
#include "piecewise.hpp"

#include <limits>

#include "../common/simd.hpp"

namespace cbk::CBK_ISA {
namespace {

struct Slope {
  double a, b;  // of a x + b
};

struct Scratch {
  Slope* jump;     // [samples + 1], where the slope changes; zero between calls
  uint64_t* used;  // one bit per position; zero between calls
};

constexpr int64_t words(int64_t samples) { return samples / 64 + 1; }

Scratch carve(void* scratch, int64_t samples) {
  Slope* jump = static_cast<Slope*>(scratch);
  return {jump, reinterpret_cast<uint64_t*>(jump + samples + 1)};
}

int64_t scratch_size(int64_t samples) {
  return (samples + 1) * int64_t(sizeof(Slope)) + words(samples) * int64_t(sizeof(uint64_t));
}

// The first sample with x > t; the cell has been found already.  Cells are so fine that most hold at most one sample:
// the first comparison needs no branch.
CBK_INLINE int32_t position(const SortedBatch& batch, float t, int32_t cell) {
  int32_t low = batch.first[cell];
  low += batch.x[low] <= t;
  if (__builtin_expect(batch.x[low] <= t, 0)) {
    int32_t high = batch.first[cell + 1];
    while (high - low > 8) {
      const int32_t middle = (low + high) / 2;
      (batch.x[middle] <= t ? low : high) = middle;
    }
    while (batch.x[low] <= t) ++low;  // ends at the NaN behind the last sample
  }
  return low;
}

// Products with y: sums[t] += on_y [y]_t + on_xy [xy]_t, where [.]_t = whole * last - sign * line is a sum over the
// samples behind the line's position (whole = sign = 1) or before it (0, -1).  A single task's sum stays in a register.
struct OneTask {
  double sum = 0;
  CBK_INLINE void add(const double* line, const double* last, double whole, double sign, Slope step) {
    sum += (whole * last[0] - sign * line[0]) * step.b + (whole * last[1] - sign * line[1]) * step.a;
  }
  CBK_INLINE double operator[](int64_t) const { return sum; }
};

struct ManyTasks {
  double* sums;
  int64_t tasks;
  CBK_INLINE void add(const double* line, const double* last, double whole, double sign, Slope step) {
    const auto part = [&](int64_t i) { return splat<F64>(whole) * load(last + i) - splat<F64>(sign) * load(line + i); };
    int64_t t = 0;
    for (; t + lanes<double> <= tasks; t += lanes<double>)
      store(sums + t, mad(part(tasks + t), splat<F64>(step.a), mad(part(t), splat<F64>(step.b), load(sums + t))));
    for (; t < tasks; ++t)
      sums[t] += (whole * last[t] - sign * line[t]) * step.b + (whole * last[tasks + t] - sign * line[tasks + t]) * step.a;
  }
  CBK_INLINE double operator[](int64_t t) const { return sums[t]; }
};

template <class Cross>
CBK_INLINE bool risk_of(const Network& net, const float* theta, const SortedBatch& batch, double tolerance, void* memory,
                        Cross cross, double* sums) {
  constexpr int64_t block = 64;
  const int64_t samples = batch.samples, tasks = batch.tasks;
  const Scratch scratch = carve(memory, samples);
  const float *w = theta, *b = theta + net.biases(), *c = theta + net.output_weights();
  const double *last_powers = batch.powers + 2 * samples, *last_cross = batch.cross + 2 * tasks * samples;
  const float bias = net.output_bias ? theta[net.output_biases()] : 0.0f;

  // slope on the first segment
  Slope now{0, bias};
  double magnitude = std::fabs(bias);
  bool finite = true;  // of neurons that no sample reaches, too
  cross.add(batch.cross, last_cross, 1, 1, now);
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
      const Slope step{ci * wi, ci * bi};
      const double reach = std::fabs(step.a) + std::fabs(step.b);
      finite = finite && reach < std::numeric_limits<double>::infinity();
      if (wi == 0) {  // constant
        if (!(bi > 0)) continue;
        now.b += step.b;
        magnitude += reach;
        cross.add(batch.cross, last_cross, 1, 1, {0, step.b});
        continue;
      }
      const int32_t k = position(batch, knot[i], cell[i]);
      if (k == (wi > 0 ? samples : 0)) continue;  // active on no sample, however large it may be elsewhere
      magnitude += reach;
      scratch.used[k / 64] |= uint64_t(1) << (k % 64);
      // active behind k where w > 0, before k where w < 0: without a branch, since signs are random
      const double behind = wi > 0, sign = 2 * behind - 1;
      Slope& jump = scratch.jump[k];
      jump.a += sign * step.a, jump.b += sign * step.b;
      now.a += (1 - behind) * step.a, now.b += (1 - behind) * step.b;
      cross.add(batch.cross + 2 * tasks * k, last_cross, behind, sign, step);
    }
  }

  double squares = 0, largest = 0, x0 = 0, xx0 = 0;
  int64_t start = 0;
  const auto segment = [&](int64_t end) {
    const double x1 = batch.powers[2 * end], xx1 = batch.powers[2 * end + 1];
    const double aa = now.a * now.a, bb = now.b * now.b;
    squares += bb * double(end - start) + (2 * now.a * now.b * (x1 - x0) + aa * (xx1 - xx0));
    largest = aa > largest ? aa : largest;
    largest = bb > largest ? bb : largest;
    start = end, x0 = x1, xx0 = xx1;
  };
  for (int64_t word = 0; word < words(samples); ++word) {
    uint64_t bits = scratch.used[word];
    if (!bits) continue;
    scratch.used[word] = 0;
    for (; bits; bits &= bits - 1) {
      const int64_t k = word * 64 + __builtin_ctzll(bits);
      if (k > start) segment(k);
      Slope& jump = scratch.jump[k];
      now.a += jump.a, now.b += jump.b;
      jump = {0, 0};
    }
  }
  segment(samples);

  // Rounding: prefix sums are off by eps of themselves, slopes by eps of the sum of all jumps; 8 eps of these products
  // bounded ten times what was ever seen.  Beside that stands the error of a float32 pass over the samples, whose
  // outputs are off by 1e-9 of the jumps' sum at the least: where it is the larger one, there is no reason to decline.
  const double size = double(samples) + last_powers[1], slope = std::sqrt(largest);
  bool exact = finite;
  for (int64_t t = 0; t < tasks; ++t) {
    const double total = squares - 2 * cross[t] + batch.squares[t];
    const double terms = slope * (slope + magnitude) * size + magnitude * std::sqrt(size * batch.squares[t]);
    const double allowed = tolerance * total + 1e-9 * magnitude * std::sqrt(total * double(samples));
    exact = exact && (terms + batch.squares[t]) * (8 * 2.3e-16) <= allowed;  // false for NaN
    sums[t] = total;
  }
  return exact;
}

bool risk(const Network& net, const float* theta, const SortedBatch& batch, double tolerance, void* scratch,
          double* sums) {
  if (batch.tasks == 1) return risk_of(net, theta, batch, tolerance, scratch, OneTask{}, sums);
  for (int64_t t = 0; t < batch.tasks; ++t) sums[t] = 0;
  return risk_of(net, theta, batch, tolerance, scratch, ManyTasks{sums, batch.tasks}, sums);
}

}  // namespace

PiecewiseKernels piecewise_kernels() { return {scratch_size, risk}; }

}  // namespace cbk::CBK_ISA
