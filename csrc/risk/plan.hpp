// Which way a risk problem goes, and in which pieces; plan_cpu.cpp has the reasons.
#pragma once

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
GradientPlan plan_gradient(const RiskShape& shape);

}  // namespace cbk
