// hopping_weights on the GPU, as weights of the draws.
#pragma once

#include "../cuda/stream.hpp"
#include "hopping.hpp"

namespace cbk::device {

// risk [rows, columns] in the order of the draws; mirrored: first all c + s xi, then their opposites.  Out come weights
// of the normals [draws, columns]: of a pair's difference, or less the mean's 1/rows; and ess [columns], 0 where no
// risk of a column is finite, which then weighs nothing.  target: nullptr for weights by rank, else the effective
// sample size of Gibbs weights, in device memory; alphas [columns] then are theirs.
void hopping_weights(const double* risk, int64_t rows, int64_t columns, bool mirrored, const double* target,
                     double* weights, double* ess, double* alphas, CudaStream stream);

}  // namespace cbk::device
