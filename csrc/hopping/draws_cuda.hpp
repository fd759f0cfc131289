// Draws of low rank, made some MB at a time where they are needed.
#pragma once

#include "low_rank_lines_cuda.hpp"

namespace cbk::device {

constexpr int64_t most_draws = 32768;              // that are kept at a time
inline int64_t fitted_numbers = int64_t(1) << 23;  // of matrices of least squares in global memory at a time

// Some draws in device memory.  Rows of factors and directions are of draw and k.
template <class T>
class Drawn {
 public:
  Drawn(int64_t count, int64_t rank, const Network& net, cudaStream_t stream)
      : factor(count * rank * net.width, stream),
        direction(count * rank * net.inputs, stream),
        rest(count * (net.size() - net.biases()), stream),
        rank_(rank),
        net_(net) {}
  // The key's are those of the first draw; directions.numbers are `direction`.
  void draw(NoiseKey key, const DrawNumbers<T>* now, const Directions<T>& directions, int64_t count,
            cudaStream_t stream) const;

  Workspace<T> factor, direction, rest;

 private:
  int64_t rank_;
  Network net_;
};

template <class T>
int64_t draws_of(const RiskProblem<T>& problem) {
  return problem.draw->particles / (problem.draw->mirrored ? 2 : 1);
}

// How many of the problem's draws are kept at a time, where each needs so many numbers `more`.
template <class T>
int64_t kept_draws(const RiskProblem<T>& problem, const LowRank& noise, int64_t more_each) {
  const Network& net = problem.net;
  const int64_t each = noise.rank * (net.width + net.inputs + more_each) + net.size() - net.biases();
  return std::clamp(std::min(drawn_numbers / each, most_draws), int64_t(1), draws_of(problem));
}

// Some draws after others: f(first, count, drawn, their directions).
template <class T, class F>
void for_draws(const RiskProblem<T>& problem, const LowRank& noise, const Directions<T>& directions, int64_t more_each,
               cudaStream_t stream, F&& f) {
  const int64_t draws = draws_of(problem), most = kept_draws(problem, noise, more_each);
  const Drawn<T> drawn(most, noise.rank, problem.net, stream);
  Directions<T> to = directions;
  to.numbers = drawn.direction.data();
  for (int64_t first = 0; first < draws; first += most) {
    const int64_t count = std::min(most, draws - first);
    NoiseKey key = problem.draw->key;
    key.first_particle += uint32_t(first);
    drawn.draw(key, problem.draw->now, to, count, stream);
    f(first, count, drawn, to);
  }
}

template <class T>
Directions<T> directions_of(const RiskProblem<T>& problem, const Span<T>* span) {
  Directions<T> d{};
  d.x = problem.x, d.samples = problem.samples, d.inputs = problem.net.inputs;
  if (span) d.span = *span;
  return d;
}

}  // namespace cbk::device
