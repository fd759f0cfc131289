// What the drivers of update.hpp compute once a call.
#pragma once

#include <cmath>
#include <limits>

#include "update.hpp"

namespace cbk {

// `of` has the noise's parameters: an UpdateProblem, or the numbers of an epoch.
template <class Parameters>
auto& deciding(Noise noise, Parameters& of) {
  return traits_of(noise).decided_by == DecidedBy::floor ? of.floor : of.diffusion;
}
template <class Parameters>
UpdateForm form_of(Noise noise, const Parameters& of) {
  return deciding(noise, of) > 0 ? traits_of(noise).with : traits_of(noise).without;
}
template <class T>
UpdateForm form_of(const UpdateProblem<T>& problem) {
  return form_of(problem.noise, problem);
}

inline bool by_distance(Noise noise) { return traits_of(noise).reach != Reach::nothing; }
// The distance at which the noise stops growing.
template <class T>
double farthest(const UpdateProblem<T>& problem) {
  return traits_of(problem.noise).reach == Reach::bounded_distance ? problem.radius
                                                                   : std::numeric_limits<double>::infinity();
}

template <class T>
double bias_of_first(const AdamState<T>& adam) {
  return 1 - std::pow(adam.beta1, adam.step);
}

template <class T>
AdamCoefficients<T> coefficients(const AdamState<T>& adam) {
  return {T(adam.beta1),
          T(1 - adam.beta1),
          T(adam.beta2),
          T(1 - adam.beta2),
          T(adam.lr / bias_of_first(adam)),
          T(1 / (1 - std::pow(adam.beta2, adam.step))),
          T(adam.delta)};
}

// a, b and floor of an UpdateRow; where the distance decides, b is to be multiplied by it in float64 first.
struct UpdateScalars {
  double a, b, floor;
};

template <class T>
UpdateScalars scalars_of(const UpdateProblem<T>& problem) {
  const double root = std::sqrt(problem.dt);
  return {-problem.drift * problem.dt, problem.diffusion * root, problem.floor * root};
}

}  // namespace cbk
