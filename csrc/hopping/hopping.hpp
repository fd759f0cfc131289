// Consensus hopping [RKGF 2023]: the ensemble is drawn anew around its centre at every step and never stored.
//
//   theta_n = c + s xi_n,  mirrored: also c - s xi_n, for N/2 draws;  xi_n from the counter (seed, step, n)
//   drift  g = sum_n (beta_n - 1/N) (theta_n - c) / s
// Every normal is made where it is used: in the risks, and once more in the drift.  Rows 2n and 2n + 1 of a mirrored
// ensemble are a pair, so that its normals are made once for both.
//
// Scope "atom": R[n, m] is the risk of the centre with only neuron m taken from theta_n.  The centre's outputs and
// hidden activations are known, so that one first layer per particle gives all its M risks:
//   out = rest + scale c' sigma(w' x + b'),  rest = base - scale c sigma(w x + b).
//
// Weights: by rank, beta_n = max(0, log(N/2 + 1/2) - log(rank_n + 1)) normalised, or Gibbs weights of a given effective
// sample size.  An ensemble of more than block_risks risks is weighed in blocks of draws, as equal as can be, each a
// consensus of its own, and g is their mean, block by block in proportion to their particles: the memory of a step does
// not grow with N, and the mean of g differs from one ensemble's by O(1 / block).  Mirrored pairs share a block.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../random/random.hpp"
#include "../risk/risk.hpp"

namespace cbk {

// What changes from step to step where a GPU's steps are replayed.
template <class T>
struct DrawNumbers {
  T spread;
  uint32_t step;
};

template <class T>
struct Draw {
  const T* center;
  T spread;
  bool mirrored;
  int64_t particles;
  NoiseKey key;
  const DrawNumbers<T>* now = nullptr;  // in device memory: then its numbers count, not spread and key.step
};

// Rows [first, first + count) of the ensemble into out [count, size].
template <class T>
void draw_rows(const Draw<T>& draw, int64_t first, int64_t count, int64_t size, T* out);

template <class T>
struct AtomTask {
  const Network* net;
  Loss loss;
  int64_t panel;
  const T* theta;  // one particle
  PackedChunk<T> chunk;
  const T* rest;  // [panels][width][outputs][panel]
  T* scratch;     // scratch_size
  double* sums;   // [width]: sums of losses are added here
};

template <class T>
struct HoppingKernels {
  // plus = center + spread xi_n and minus (or nullptr) = center - spread xi_n, [size] each.
  void (*draw)(NoiseKey key, uint32_t n, const T* center, T spread, int64_t size, T* plus, T* minus);
  // The centre's outputs of a chunk without each of its neurons; for mse also less y.  scratch: [width +
  // outputs][panel].
  void (*rest)(const Network& net, Loss loss, const T* center, int64_t panel, const PackedChunk<T>& chunk, T* scratch,
               T* rest);
  void (*atoms)(const AtomTask<T>& task);
  // sum[i - begin] += sum over rows n in [first, last) of weights[n * atoms + atom(i)] xi_n,i, i in [begin, end);
  // atom: coordinate -> atom, or nullptr: all 0.  end - begin <= noise_sum_block, begin a multiple of 64.
  void (*noise_sum)(NoiseKey key, int64_t first, int64_t last, const double* weights, int64_t atoms,
                    const int32_t* atom, int64_t begin, int64_t end, double* sum);
  int64_t (*scratch_size)(const Network& net, int64_t panel);
  // One row of round_rows.
  void (*round)(const T* scale, T most, int64_t size, T* row);
  // rank[n] = how many of values[count] are less than values[n], for count a multiple of 16.
  void (*ranks)(const int32_t* values, int64_t count, int32_t* rank);
  int64_t lanes;
};
constexpr int64_t noise_sum_block = 256;

constexpr int64_t block_risks = int64_t(1) << 17, fewest_block_rows = 256;

// Particles that share their ranks where each has so many risks (1, or one per atom).
inline int64_t block_rows(int64_t columns) { return std::max(block_risks / columns, fewest_block_rows); }

struct Weighed {
  double alpha;       // mean over columns; 0 for rank weights
  int64_t nonfinite;  // rows with a risk that is not finite
};

// Rows of risks [rows, columns] with one that is not finite.
int64_t nonfinite_rows(const double* risk, int64_t rows, int64_t columns);

// risk [rows, columns], at least two rows, becomes its weights, column by column; ess [columns].  A risk that is not
// finite weighs 0; a column without a finite one has ess 0 and weights 0.  fraction 0: by rank, equal risks in the
// order of the draws, mirrored: first all c + s xi; else Gibbs weights with an ess of that share of the rows.
Weighed hopping_weights(double* risk, int64_t rows, int64_t columns, bool mirrored, double fraction, double* ess,
                        int num_threads);

struct HoppingStep {
  double ess, alpha;  // ess: mean over atoms; 0 where an atom has no finite risk at all
  int64_t nonfinite;
};

// gradient[size] = -g of the ensemble that the problem draws.  atom: coordinate -> atom for the scope "atom", or
// nullptr.
template <class T>
HoppingStep hopping_gradient(const RiskProblem<T>& problem, double fraction, const int32_t* atom, T* gradient,
                             int num_threads);
// The same from the risks [particles] of a function, at theta_n = c + s xi_n and, mirrored, theta_{n+N/2} = c - s xi_n.
template <class T>
HoppingStep hopping_gradient(const Draw<T>& draw, int64_t size, const double* risk, double fraction, T* gradient,
                             int num_threads);

// That ensemble itself, [particles, size].
template <class T>
void draw_ensemble(const Draw<T>& draw, int64_t size, T* out, int num_threads);

// theta [rows, size]: coordinate i becomes scale[i] times the nearest of the integers -most .. most, halves to even.
// It stays where scale[i] < 0, and is 0 where scale[i] is.  NaN, of either, is NaN.
template <class T>
void round_rows(const T* scale, T most, int64_t rows, int64_t size, T* theta, int num_threads);

// R[n, m] into out [particles, width].  theta [particles, size], or nullptr: drawn.
template <class T>
void atom_risks(const RiskProblem<T>& problem, const T* center, double* out, int num_threads);

// out[size] = sum over drawn pairs or particles of weights [rows, atoms] times xi.
template <class T>
void noise_drift(const double* weights, int64_t rows, int64_t atoms, const int32_t* atom, NoiseKey key, int64_t size,
                 double* out, int num_threads);

}  // namespace cbk
