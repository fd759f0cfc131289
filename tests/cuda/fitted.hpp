// The exercise of least squares, for kernels.cpp.
#pragma once

#include <cmath>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "../../csrc/hopping/draws_cuda.hpp"
#include "../../csrc/hopping/low_rank_cuda.hpp"
#include "../../csrc/hopping/spans_cuda.hpp"
#include "device_array.hpp"

namespace cbk::device {

// Weights of pairs by least squares: at once, with a matrix in global memory at a time, and from noise in parts.
template <class T>
std::string fitted(CudaStream stream, const Network& net, int64_t pairs) {
  constexpr int64_t samples = 5;
  std::vector<double> values = numbers<double>(2 * pairs * net.width, 24);
  values[size_t(net.width)] = NAN;
  DeviceArray<double> risk(values), weights(pairs * net.width), ess(net.width);
  DeviceArray<T> x(numbers<T>(samples * net.inputs, 25));
  const Draw<T> draw{nullptr, T(1), true, 2 * pairs, {3, 0, 1, 0}};
  RiskProblem<T> problem{net, LossKind::mse, nullptr, 2 * pairs, x.data(), samples, nullptr, nullptr, 1};
  problem.draw = &draw;
  std::string whole, single, parts;
  for (std::string* bytes : {&whole, &single, &parts}) {
    const int64_t drawn = std::exchange(drawn_numbers, bytes == &parts ? 1 : drawn_numbers);
    const int64_t fitted = std::exchange(fitted_numbers, bytes == &whole ? fitted_numbers : 1);
    fit_weights(problem, {1, true}, risk.data(), weights.data(), ess.data(), stream);
    cudaStreamSynchronize(reinterpret_cast<cudaStream_t>(stream.handle));
    drawn_numbers = drawn, fitted_numbers = fitted;
    weights.append(*bytes), ess.append(*bytes);
  }
  if (single != whole) throw CudaError("neurons that are fitted one at a time have other weights");
  for (size_t i = 0; i < whole.size(); i += sizeof(double)) {
    double a, b;
    std::memcpy(&a, &whole[i], sizeof a), std::memcpy(&b, &parts[i], sizeof b);
    if (!(std::abs(a - b) < 1e-4)) throw CudaError("noise that is made in parts gives other weights by least squares");
  }
  return whole;
}

}  // namespace cbk::device
