// Which way a risk problem goes, and in which pieces; plan_cpu.cpp has the reasons.
#pragma once

#include "../common/parallel.hpp"
#include "../hopping/hopping.hpp"
#include "risk.hpp"

namespace cbk {

enum class Path { knots, direct, lists, products };

// What decides: shapes, the batch's density, and the instruction set's vectors.
struct RiskShape {
  Network net;
  Loss loss;
  int64_t particles, samples, tasks;
  int64_t element;               // bytes of a number
  int64_t lanes, sparse_block;   // of the instruction set
  double density;                // share of the inputs that are not zero
};

// The share of a batch's inputs that are not zero; 1 where counting them would cost more than it could save.
template <class T>
double density(const RiskProblem<T>& problem);

template <class T>
RiskShape shape_of(const RiskProblem<T>& problem);

Path choose_path(const RiskShape& shape);
RiskPlan plan_risk(const RiskShape& shape);          // where the path is not by knots
bool gradient_by_knots(const RiskShape& shape);
GradientPlan plan_gradient(const RiskShape& shape);  // where it is not

// Calls run(problem, n) for the particles from n on that knots.hpp declined, as many at a time as may be.
template <class Run>
void for_declined(const RiskProblem<float>& problem, const bool* exact, Run run) {
  const int64_t size = problem.net.size();
  Buffer<float> drawn(problem.draw ? size : 0);
  for (int64_t n = 0, end; n < problem.particles; n = end) {
    for (end = n + 1; end < problem.particles && !problem.draw && exact[end] == exact[n];) ++end;
    if (exact[n]) continue;
    RiskProblem<float> declined = problem;
    if (problem.draw) draw_rows(*problem.draw, n, 1, size, drawn.data());
    declined.draw = nullptr;
    declined.theta = problem.draw ? drawn.data() : problem.theta + n * size;
    declined.particles = end - n;
    run(declined, n);
  }
}

}  // namespace cbk
