// low_rank.hpp on the GPU: the same numbers, risks and drifts summed in another order.  All arrays are device memory.
#pragma once

#include "../cuda/stream.hpp"
#include "low_rank.hpp"

namespace cbk::device {

// Risks [particles, width] or [particles, 1] of an ensemble that the problem draws; mirrored: first all c + s xi, then
// their opposites.  Waits, and returns whether directions were in the batch's span.
template <class T>
bool low_rank_risks(const RiskProblem<T>& problem, const LowRank& noise, bool atoms, double* out, CudaStream stream);
// out [size] = sum over the problem's draws of weights [draws, width] or [draws, 1] times xi.
template <class T>
void low_rank_drift(const RiskProblem<T>& problem, const LowRank& noise, bool atoms, const double* weights, double* out,
                    CudaStream stream);
// Weights [draws, width] whose drift in scope "atom" fits the differences of the pairs' risks, at most fit_draws of
// them.  risk [2 draws, width] is that of low_rank_risks; ess [width]: particles of pairs with two finite risks.
template <class T>
void fit_weights(const RiskProblem<T>& problem, const LowRank& noise, const double* risk, double* weights, double* ess,
                 CudaStream stream);

}  // namespace cbk::device
