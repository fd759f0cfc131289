// Positive definite matrices in float64, a step's two: of a batch's samples and of the draws' directions.
#pragma once

#include <algorithm>

#include "../common/isa.hpp"
#include "../common/parallel.hpp"

namespace cbk {

// Z Z^T + ridge I = U^T U, U^T = L, for the rows of a Z [rows][depth], and L^-1.  It is made in tasks, which the caller
// divides among threads: multiply for all blocks and parts of the depth, then factor, then invert for all panels.
class Factor {
 public:
  explicit Factor(int64_t rows, int64_t parts = 1)
      : rows_(rows),
        stride_(round_up(rows, panel())),
        parts_(parts),
        upper_(parts * stride_ * stride_),
        inverse_(rows_ * stride_) {}

  static int64_t panel() { return 2 * kernels().lanes; }
  int64_t rows() const { return rows_; }
  int64_t stride() const { return stride_; }
  int64_t panels() const { return stride_ / panel(); }
  int64_t blocks() const { return panels() * (panels() + 1) / 2; }

  // z: for each `line` rows, whole panels, a part's lines [depth][line], `step` numbers behind those of the last.
  void multiply(int64_t part, int64_t block, const double* z, int64_t line, int64_t step, int64_t depth) {
    int64_t i = 0;
    for (; block >= panels() - i; ++i) block -= panels() - i;
    const int64_t j = i + block;
    const auto at = [=](int64_t row) { return z + row / line * step + row % line; };
    kernels().gram(at(i * panel()), at(j * panel()), line, depth, rows_ - j * panel(),
                   upper_.data() + (part * stride_ + i * panel()) * stride_ + j * panel(), stride_);
  }
  // The ridge is `least` and a share of the mean diagonal.  Returns whether the matrix is positive definite.  If not,
  // what follows must not be called.
  bool factor(double share, double least) {
    double* const upper = upper_.data();
    for (int64_t part = 1; part < parts_; ++part)
      for (int64_t i = 0; i < rows_; ++i)
        for (int64_t j = i; j < rows_; ++j) upper[i * stride_ + j] += upper[(part * stride_ + i) * stride_ + j];
    double mean = 0;
    for (int64_t i = 0; i < rows_; ++i) mean += upper[i * (stride_ + 1)] / double(rows_);
    ridge_ = least + share * mean;
    for (int64_t i = 0; i < rows_; ++i) upper[i * (stride_ + 1)] += ridge_;
    return kernels().cholesky(upper, rows_, stride_);
  }
  double ridge() const { return ridge_; }
  // Columns of L^-1, a panel of them.  What stands above the diagonal in other panels is never written.
  void invert(int64_t i) { kernels().invert(upper_.data(), rows_, stride_, i * panel(), inverse_.data()); }

  const double* upper() { return upper_.data(); }
  const double* inverse() { return inverse_.data(); }

  // x with U^T U x = it, in its place.
  void solve(double* x) {
    for (int64_t i = 0; i < rows_; ++i) {
      const double* row = upper_.data() + i * stride_;
      x[i] /= row[i];
      for (int64_t j = i + 1; j < rows_; ++j) x[j] -= x[i] * row[j];
    }
    for (int64_t i = rows_ - 1; i >= 0; --i) {
      const double* row = upper_.data() + i * stride_;
      for (int64_t j = i + 1; j < rows_; ++j) x[i] -= row[j] * x[j];
      x[i] /= row[i];
    }
  }

 private:
  static const LowRankKernels<double>& kernels() { return isa_table().low_rank<double>(); }

  int64_t rows_, stride_, parts_;
  Buffer<double> upper_, inverse_;  // upper_: [parts], of which the first becomes U
  double ridge_ = 0;
};

}  // namespace cbk
