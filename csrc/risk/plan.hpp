// Which path a risk problem takes, and in which pieces; plan_cpu.cpp has the reasons.
#pragma once

#include <algorithm>
#include <string>
#include <type_traits>

#include "../common/parallel.hpp"
#include "../hopping/hopping.hpp"
#include "knots/knots.hpp"
#include "risk.hpp"

namespace cbk {

// What decides: shapes, the batch's density, and the instruction set's vectors.
struct RiskShape {
  Network net;
  Loss loss;
  int64_t particles, samples, tasks;
  int64_t element;            // bytes of a number
  int64_t lanes, list_block;  // of the instruction set
  double density;             // share of the inputs that are not zero
};

// The share of a batch's inputs that are not zero; 1 where counting them would cost more than it could save.
template <class T>
double density(const RiskProblem<T>& problem);

// Of these sizes with this instruction set.
template <class T>
RiskShape shape_of(const Network& net, Loss loss, int64_t particles, int64_t samples, int64_t tasks, double density);

// A particle's bits are those of a call with the whole ensemble.
template <class T>
int64_t planned_particles(const RiskProblem<T>& problem) {
  return std::max(problem.particles, problem.net.ensemble);
}

template <class T>
RiskShape shape_of(const RiskProblem<T>& problem) {
  return shape_of<T>(problem.net, problem.loss, planned_particles(problem), problem.samples, problem.tasks,
                     density(problem));
}

enum class Purpose { outputs, risks, gradients };

Path choose_path(const RiskShape& shape, Purpose purpose);
RiskPlan plan_risk(const RiskShape& shape, Path path);
GradientPlan plan_gradient(const RiskShape& shape, Path path);

// What the user is told about risks of a shape.
struct Explanation {
  Path path;
  int64_t particles, samples;  // in a task, in a chunk
  std::string reason;
};
Explanation explain(const RiskShape& shape);

// Takes a problem on its path.  pass(particles, number of the first, their shape, path) goes through the samples.
// Particles that knots leave pass too: all where the batch has no order, else those whose sums are not exact enough.
template <class T, class Pass>
void on_path(const RiskProblem<T>& problem, RiskShape shape, Purpose purpose, const Wanted<T>& to, int num_threads,
             Pass pass) {
  const Path path = choose_path(shape, purpose);
  if constexpr (std::is_same_v<T, float>) {
    Buffer<bool> flags(path == Path::knots ? problem.particles : 0);
    bool* const exact = flags.data();
    if (path == Path::knots && evaluate_by_knots(problem, to, exact, num_threads)) {
      const int64_t size = problem.net.size();
      Buffer<float> drawn(problem.draw ? size : 0);
      for (int64_t n = 0, end; n < problem.particles; n = end) {  // as many at a time as may be
        for (end = n + 1; end < problem.particles && !problem.draw && exact[end] == exact[n];) ++end;
        if (exact[n]) continue;
        RiskProblem<float> left = problem;
        if (problem.draw) draw_rows(*problem.draw, n, 1, size, drawn.data());
        left.draw = nullptr;
        left.theta = problem.draw ? drawn.data() : problem.theta + n * size;
        left.particles = end - n;
        shape.particles = planned_particles(left);
        pass(left, n, shape, Path::direct);
      }
      return;
    }
  }
  pass(problem, int64_t(0), shape, path == Path::knots ? Path::direct : path);
}

}  // namespace cbk
