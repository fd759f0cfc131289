// Weights of particles from their risks, compiled once per instruction set.
#include <limits>

#include "../common/interrupt.hpp"
#include "../common/math.hpp"
#include "consensus.hpp"

namespace cbk::CBK_ISA {
namespace {

constexpr int risk_vectors = risk_sums / lanes<double>;
constexpr double infinity = std::numeric_limits<double>::infinity();

// f(a vector of risks, its place among eight numbers' vectors, where it starts, how many of its lanes are risks) for
// all of them.  NaN stands for those behind the last.
template <class F>
CBK_INLINE void for_risks(const double* risk, int64_t count, F&& f) {
  int64_t i = 0;
  for (; i + risk_sums <= count; i += risk_sums) {
    CBK_UNROLL(4)
    for (int v = 0; v < risk_vectors; ++v)
      f(load(risk + i + v * lanes<double>), v, i + v * lanes<double>, lanes<double>);
  }
  if (i == count) return;
  double rest[risk_sums];
  for (int l = 0; l < risk_sums; ++l) rest[l] = i + l < count ? risk[i + l] : std::numeric_limits<double>::quiet_NaN();
  for (int v = 0; v < risk_vectors; ++v) {
    const int64_t at = i + v * lanes<double>, own = count < at ? 0 : count - at;
    f(load(rest + v * lanes<double>), v, at, own < lanes<double> ? own : lanes<double>);
  }
}

double least_risk(const double* risk, int64_t count, int64_t& not_finite) {
  F64 least[risk_vectors];
  I64 lost{};
  for (F64& v : least) v = splat<F64>(infinity);
  for_risks(risk, count, [&](F64 r, int v, int64_t, int64_t own) {
    const I64 is_lost = r - r != 0;  // -1 where it is
    lost -= is_lost, not_finite -= lanes<double> - own;
    least[v] = min(is_lost ? splat<F64>(infinity) : r, least[v]);
  });
  double all = infinity;
  for (const F64& v : least)
    for (int l = 0; l < lanes<double>; ++l) all = v[l] < all ? v[l] : all;
  for (int l = 0; l < lanes<double>; ++l) not_finite += lost[l];
  return all;
}

// exp(x) for x <= 0, and 0 below -746.  x = n ln 2 + r; 2^n may be no normal number: 2^(n + 100) is one.
CBK_INLINE F64 exp_below_zero(F64 x) {
  constexpr double shift = 6755399441055744.0 + 1023 + 100;  // a sum with it ends in the bits of that number's exponent
  const F64 bound = max(splat<F64>(-746), x), sum = mad(bound, splat<F64>(1.44269504088896340736), splat<F64>(shift));
  const F64 n = sum - shift;
  F64 r = mad(n, splat<F64>(-6.93147180369123816490e-01), bound);
  r = mad(n, splat<F64>(-1.90821492927058770002e-10), r);
  const F64 e = mad(horner<tables::Table<double>::EXP>(r), r * r, r) + 1.0;
  return e * bits<F64>(bits<U64>(sum) << 52) * 0x1p-100;
}

// f(weight), where weight(risk, least risk) is the law that alpha chooses.
template <class F>
CBK_INLINE void with_weight(double alpha, F&& f) {
  const F64 one = splat<F64>(1), none{};
  if (alpha == 0) return f([=](F64 r, F64) { return r - r == 0 ? one : none; });
  if (alpha == infinity) return f([=](F64 r, F64 least) { return r == least ? one : none; });
  f([=](F64 r, F64 least) __attribute__((always_inline)) {
    const F64 exponent = (r - least) * -alpha;
    return exponent <= 0 ? exp_below_zero(exponent) : none;  // NaN, and of a risk of -infinity
  });
}

CBK_INLINE void store_weights(double* weights, F64 w, int64_t own) {
  if (own == lanes<double>) return store(weights, w);
  for (int64_t l = 0; l < own; ++l) weights[l] = w[l];
}

void weigh(const double* risk, int64_t count, double least, double alpha, double* weights, WeightSums& sums) {
  F64 total[risk_vectors], squares[risk_vectors];
  std::memcpy(total, sums.weights, sizeof total), std::memcpy(squares, sums.squares, sizeof squares);
  with_weight(alpha, [&](auto weight) {
    for_risks(risk, count, [&](F64 r, int v, int64_t at, int64_t own) {
      const F64 w = weight(r, splat<F64>(least));
      total[v] += w, squares[v] += w * w;
      store_weights(weights + at, w, own);
    });
  });
  std::memcpy(sums.weights, total, sizeof total), std::memcpy(sums.squares, squares, sizeof squares);
}

void scale(double* weights, int64_t count, double factor) {
  int64_t i = 0;
  for (; i + lanes<double> <= count; i += lanes<double>) store(weights + i, load(weights + i) * factor);
  for (; i < count; ++i) weights[i] *= factor;
}

// f(a vector of risks, its place, where it starts, how many of its lanes are risks) for the places of a table.  NaN
// stands for those behind the last.
template <class F>
CBK_INLINE void for_table(const RiskTable& table, F&& f) {
  const int64_t period = risk_sums * table.tasks, numbers = table.particles * table.tasks;
  Paced paced;
  int64_t row = 0;
  for (; row + period <= numbers; row += period, paced(10 * (table.end - table.begin)))
    for (int64_t place = table.begin; place < table.end; place += lanes<double>)
      f(load(table.risk + row + place), place, row + place, lanes<double>);
  for (int64_t place = table.begin; place < table.end && row + place < numbers; place += lanes<double>) {
    const int64_t at = row + place, own = numbers - at < lanes<double> ? numbers - at : lanes<double>;
    F64 rest = splat<F64>(std::numeric_limits<double>::quiet_NaN());
    for (int64_t l = 0; l < own; ++l) rest[l] = table.risk[at + l];
    f(rest, place, at, own);
  }
}

int64_t least_of(const RiskTable& table, double* least) {
  for (int64_t place = table.begin; place < table.end; ++place) least[place] = infinity;
  int64_t not_finite = 0;
  I64 lost{};
  for_table(table, [&](F64 r, int64_t place, int64_t, int64_t own) {
    const I64 is_lost = r - r != 0;  // -1 where it is
    lost -= is_lost, not_finite -= lanes<double> - own;
    store(least + place, min(is_lost ? splat<F64>(infinity) : r, load(least + place)));
  });
  for (int l = 0; l < lanes<double>; ++l) not_finite += lost[l];
  return not_finite;
}

void weigh_of(const RiskTable& table, const double* least, double alpha, double* weights, double* sums,
              double* squares) {
  with_weight(alpha, [&](auto weight) {
    for_table(table, [&](F64 r, int64_t place, int64_t at, int64_t own) {
      const F64 w = weight(r, load(least + place));
      store(sums + place, load(sums + place) + w);
      store(squares + place, load(squares + place) + w * w);
      store_weights(weights + at, w, own);
    });
  });
}

void scale_of(const RiskTable& table, const double* factor, double* weights) {
  for_table({weights, table.particles, table.tasks, table.begin, table.end},
            [&](F64 w, int64_t place, int64_t at, int64_t own) {
    store_weights(weights + at, w * load(factor + place), own);
  });
}

}  // namespace

WeightKernels weight_kernels() { return {least_risk, weigh, scale, least_of, weigh_of, scale_of}; }

}  // namespace cbk::CBK_ISA
