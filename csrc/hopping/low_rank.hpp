// Consensus hopping whose noise of the first layer is of low rank [Sarkar et al. 2025, EGGROLL]:
//
//   E_p = (1 / sqrt r) sum_k a_pk b_pk^T,  a_pk in {-1, 1}^M,  b_pk in R^d
//   first layer's product of draw p:  W x +- s (1 / sqrt r) sum_k a_pk (b_pk . x),  W x computed once for all draws
// Directions b are free (normal in R^d) or in the batch's span.  For these let X X^T + ridge I = L L^T, e normal in
// R^S:
//   b = X^T L^-T e,  X b = (L - ridge L^-T) e,  drift = (sum_p delta_p a_p e_p^T / sqrt r) L^-1 X
// Such a b is a normal one projected on the rows of X, where the gradient lies too.  The ridge is 1e-6 of the mean
// diagonal.  Where S >= d, or where the matrix is singular or the ridge below `least_ridge`, directions are free.
//
// Random numbers of draw n come from the counters of particle n (docs/HOPPING.md):
//   biases, second layer, output biases   stream 0, by the coordinate of theta: those of noise of full rank
//   a   stream 4: bit m % 32 of word k ceil(M / 32) + m / 32 says whether a_k is -1 at neuron m
//   b or e   stream 5: normal k d + i or k S + i
// Only a few draws and samples are in memory at a time.  The ensemble is never stored.
//
// Least squares (scope "atom", pairs).  A neuron's drift sum_p delta_p xi_p is to fit the differences of its pairs'
// risks, delta_p = R(c - s xi_p) - R(c + s xi_p), made of length 1:
//   K delta' = delta,  K_pq = xi_p . xi_q / n over its first layer + fit_share xi_p . xi_q over the rest
//                             + fit_ridge [p == q]
// by ridge regression, delta' made of length 1 again.  n is the length of a direction: d, or S in the batch's span,
// where e stands for b.  A pair with a risk or a difference that is not finite has no part in it.  With rank 1 a
// neuron's signs leave K:
//   (E E^T / n + fit_ridge) + fit_share V V^T,  V_p = a_p (normals of bias and output weights)
// so that all neurons share the Cholesky factor L of the first term, and each solves a system of 1 + outputs numbers,
// by Woodbury's identity:
//   a delta' = L^-T (w - W (W^T W + 1 / fit_share)^-1 W^T w),  W = L^-1 V,  w = L^-1 (a delta)
#pragma once

#include "hopping.hpp"

namespace cbk {

struct LowRank {
  int64_t rank;
  bool batch;  // directions in the batch's span
};

constexpr uint32_t stream_signs = 4, stream_directions = 5;
constexpr int64_t most_rank = 65536;
constexpr int64_t draws_together = 16;  // that are scored in one call, whole vectors
constexpr int64_t fit_draws = 256;      // pairs at most whose differences are fitted together
constexpr double fit_ridge = 0.02, fit_share = 0.1;
// No number of L^-1 is above ridge^(-1/2): with float32 10^34 leaves room for sums of draws.  With float64 it is the
// matrix that loses digits below.
template <class T>
constexpr double least_ridge = sizeof(T) == sizeof(float) ? 1e-68 : 1e-300;

// Samples and the centre's values on them.  Each array has lines of `padded` samples; x is zero in the padding.
template <class T>
struct CenterLines {
  const Network* net;
  Loss loss;
  const T* center;
  int64_t samples, padded, panel;
  const T* x;        // [padded / panel][inputs][panel]
  const T* y;        // [target rows], labels as numbers
  const T* weights;  // of mean 1 over all samples, or nullptr
  const int32_t* label;
  T *z, *hidden;  // [width]: w x + b, sigma of it
  T* out;         // [outputs]; of residuals less y
  // Of cross entropy: [padded][outputs] exp(out_k - out_label), 0 at the label; the largest difference; the loss.
  T *excess, *highest, *loss_of;
};

// Some draws.  factor and along have one row for each (draw, k).
template <class T>
struct LowRankDraws {
  int64_t rank, count;
  bool mirrored;
  T spread;
  const T* factor;  // [count][rank][width]: a / sqrt r
  const T* along;   // [count][rank][padded]: X b
  const T* rest;    // [count][rest_size]: normals of biases, second layer, output biases
  int64_t rest_size;
  // along and rest as [count / lanes][rank][padded][lanes] and [count / lanes][rest_size][lanes], where cross entropies
  // of atoms want them
  const T *across = nullptr, *rest_across = nullptr;
};

template <class T>
struct LowRankKernels {
  int64_t lanes;
  // Of panel i: z and hidden of neurons [first, last), and from all of them out and what follows from it.
  void (*center)(const CenterLines<T>& lines, int64_t i, int64_t first, int64_t last);
  void (*center_outputs)(const CenterLines<T>& lines, int64_t i);
  int64_t (*scratch_size)(const Network& net, int64_t padded, int64_t panel);
  // Losses of draws [first, last) of the centre with neuron m replaced are added to sums[(draw, sign)].
  void (*atom)(const CenterLines<T>& lines, const LowRankDraws<T>& draws, int64_t m, int64_t first, int64_t last,
               T* scratch, double* sums);
  // Losses of the networks of draw p are added to sums[(draw, sign)].
  void (*network)(const CenterLines<T>& lines, const LowRankDraws<T>& draws, int64_t p, T* scratch, double* sums);
  // factor [rank][width] of a draw.
  void (*factors)(NoiseKey key, uint32_t particle, int64_t rank, int64_t width, T* factor);
  // z[r][2 lanes] = sum_k a[r * row + k] x[k * stride], or is added to.  Of these columns so many are wanted.
  void (*product)(const T* a, int64_t row, int64_t rows, int64_t depth, const T* x, int64_t stride, int64_t columns,
                  T* z, int64_t z_stride, bool accumulate);
  // z[r][2 lanes] = sum_k a[r * row + k] x[k][first + ...], of rows that stand anywhere.
  void (*product_of_rows)(const T* a, int64_t row, int64_t rows, int64_t depth, const T* const* x, int64_t first, T* z,
                          int64_t z_stride);
  // sum[m][i] += sum over rows of weights[row * step + m] (times factors[row * factor_step + m]) values[row * stride +
  // i], m < columns.
  void (*sum_rows)(int64_t rows, const double* weights, int64_t step, const T* factors, int64_t factor_step,
                   const T* values, int64_t stride, int64_t count, double* sum, int64_t columns);
  // sum[j * columns + i] += sum over rows of weights[row * columns + i] values[row * stride + j * columns + i].
  void (*sum_columns)(int64_t rows, const double* weights, int64_t columns, const T* values, int64_t stride,
                      int64_t repeats, double* sum);
  // One block of Z Z^T, 2 lanes of float64 in rows and columns, of which so many are wanted; of the diagonal's (x is
  // with) at least the upper triangle.  x and with are panels of
  // Z's rows, [depth] lines of 2 lanes, `line` numbers apart.
  void (*gram)(const double* x, const double* with, int64_t line, int64_t depth, int64_t columns, double* block,
               int64_t stride);
  // Cholesky in place: the upper triangle of a symmetric A becomes U with U^T U = A.  Returns whether A is positive
  // definite.  Rows are of whole lanes.
  bool (*cholesky)(double* upper, int64_t size, int64_t stride);
  // Columns [first, first + 2 lanes) of L^-1, L = U^T, into the rows from `first` on of inverse [size][stride].
  void (*invert)(const double* upper, int64_t size, int64_t stride, int64_t first, double* inverse);
};

// The numbers of some draws.
template <class T>
struct DrawnNoise {
  int64_t rank, count, length;  // length: of a direction b, or e
  T *factor, *direction;        // [count][rank][width]: a / sqrt r;  [count][rank][length]
  T* rest;                      // [count][rest_size]

  int64_t rest_size(const Network& net) const { return net.size() - net.biases(); }
};
// Those of `noise.count` draws, the first one the key's, and of draws [first, last) of these, on this thread.
template <class T>
void draw_noise(const Network& net, const DrawnNoise<T>& noise, NoiseKey key, int num_threads);
template <class T>
void draw_noise(const Network& net, const DrawnNoise<T>& noise, NoiseKey key, int64_t first, int64_t last);

// Neurons whose first layer's term is L L^T.
template <class T>
struct SharedFit {
  const Network* net;
  DrawnNoise<T> noise;  // of rank 1
  int64_t stride;
  const T *inverse, *transposed;  // [draws][stride]: L^-1 and its transpose
};
template <class T>
struct FitKernels {
  int64_t lanes;
  int64_t (*scratch_size)(int64_t outputs, int64_t draws);
  // The `lanes` neurons from m on: delta [draws][width], of length 1, becomes delta'.
  void (*neurons)(const SharedFit<T>& fit, int64_t m, double* delta, T* scratch);
};

// The risks [2 draws, width] of pairs become the weights of their noise, which is drawn for it.  ess [width]: particles
// that count.  length: of a direction, net.inputs or as many samples as span them.  key: of the first draw.
template <class T>
Weighed fit_weights(const Network& net, int64_t rank, int64_t length, NoiseKey key, int64_t draws, double* risk,
                    double* ess, int num_threads);

// As hopping_gradient, with noise of low rank in the first layer.  fit: pairs' differences are fitted, of atoms.
// spanned: whether the directions were in the batch's span.
template <class T>
HoppingStep low_rank_gradient(const RiskProblem<T>& problem, const LowRank& noise, double fraction, bool fit,
                              bool atoms, T* gradient, bool& spanned, int num_threads);
// Its risks [particles, width] or [particles, 1], pairs one after the other; whether directions were in the span.
template <class T>
bool low_rank_risks(const RiskProblem<T>& problem, const LowRank& noise, bool atoms, double* out, int num_threads);
// out [size] = sum over the problem's draws of weights [draws, width] or [draws, 1] times xi.
template <class T>
void low_rank_drift(const RiskProblem<T>& problem, const LowRank& noise, bool atoms, const double* weights, double* out,
                    int num_threads);

}  // namespace cbk
