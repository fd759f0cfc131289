// What the drivers of update.hpp compute once a call.
#pragma once

#include <cmath>
#include <stdexcept>

#include "update.hpp"

namespace cbk {

inline UpdateForm form_of(Noise noise, double diffusion, double floor) {
  switch (noise) {
    case Noise::anisotropic: return floor > 0 ? UpdateForm::floored : UpdateForm::multiplied;
    case Noise::isotropic:
    case Noise::truncated:
    case Noise::additive: return diffusion == 0 ? UpdateForm::quiet : UpdateForm::added;
    case Noise::none: return UpdateForm::quiet;
  }
  throw std::logic_error("unknown noise");
}

inline bool by_distance(Noise noise) { return noise == Noise::isotropic || noise == Noise::truncated; }

template <class T>
AdamCoefficients<T> coefficients(const AdamState<T>& adam) {
  return {T(adam.beta1),
          T(1 - adam.beta1),
          T(adam.beta2),
          T(1 - adam.beta2),
          T(adam.lr / (1 - std::pow(adam.beta1, adam.step))),
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
