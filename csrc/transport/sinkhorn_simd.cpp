// Log-sum-exp over one row of costs, compiled once per instruction set.
#include "../common/math.hpp"
#include "sinkhorn.hpp"

namespace cbk::CBK_ISA {
namespace {

SoftSum soft_row(const SoftRow& row) {
  F64 most = splat<F64>(-__builtin_inf());
  for (int64_t j = 0; j < row.padded; j += lanes<double>) {
    F64 cost{};
    for (int64_t k = 0; k < row.size; ++k) {
      const F64 d = splat<F64>(row.x[k]) - load(row.y + k * row.padded + j);
      cost = mad(d, d, cost);
    }
    const F64 term = load(row.potential + j) - cost * row.rate;
    most = max(most, term);
    store(row.terms + j, term);
  }
  double shift = most[0];
  for (int i = 1; i < lanes<double>; ++i) shift = most[i] > shift ? most[i] : shift;
  F64 total{};
  for (int64_t j = 0; j < row.padded; j += lanes<double>) {
    const F64 term = exp(load(row.terms + j) - shift);
    total += term;
    store(row.terms + j, term);
  }
  const double scale = sum(total);
  for (int64_t j = 0; j < row.padded; j += lanes<double>) store(row.terms + j, load(row.terms + j) / scale);
  const F64 logarithm = log(splat<F64>(scale));
  return {shift, scale, shift + logarithm[0]};
}

double soft_column(const SoftColumn& column) {
  F64 total{};
  for (int64_t i = 0; i < column.padded; i += lanes<double>) {
    F64 cost{};
    for (int64_t k = 0; k < column.size; ++k) {
      const F64 d = load(column.x + k * column.padded + i) - splat<F64>(column.y[k]);
      cost = mad(d, d, cost);
    }
    const F64 term = splat<F64>(column.potential) - cost * column.rate;
    total += exp(term - load(column.shift + i)) / load(column.total + i);
  }
  return sum(total);
}

}  // namespace

SinkhornKernels sinkhorn_kernels() { return {soft_row, soft_column, lanes<double>}; }

}  // namespace cbk::CBK_ISA
