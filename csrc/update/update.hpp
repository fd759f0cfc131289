// The noisy step towards the consensus point [PTTM 2017; De Deyn, Herty, Samaey 2025, eq. 21]:
//
//   theta' = theta - lambda dt (theta - v) + noise,  xi from the counter, never an array
//   anisotropic  sigma sqrt(dt) (theta - v) xi         one rounding: fma(fma(b, xi, a), theta - v, theta)
//     with floor sqrt(sigma^2 (theta - v)^2 + floor^2) sqrt(dt) xi
//   isotropic    sigma sqrt(dt) |theta - v| xi         (norm in float64)
//   truncated    sigma sqrt(dt) min(|theta - v|, radius) xi
//   additive     sigma sqrt(dt) xi
//   none
// with a = -lambda dt and b = sigma sqrt(dt), computed in float64 and rounded once.
//
// Adam [Kingma, Ba 2015]: first = beta1 first + (1 - beta1) d, second = beta2 second + (1 - beta2) d^2,
//   theta' = theta - lr first^ / (sqrt(second^) + delta), hats: divided by 1 - beta^step
// hybrid [De Deyn, Herty, Samaey 2025, eq. 25-26]: Adam with lr = mix dt, and the step above with a and b times
//   1 - mix, in one pass.
#pragma once

#include <cstdint>

#include "../common/kinds.hpp"
#include "../random/random.hpp"

namespace cbk {

CBK_EVERYWHERE constexpr bool draws(UpdateForm form) { return form != UpdateForm::quiet && form != UpdateForm::still; }

// f(form), as a constant.
template <class F>
inline __attribute__((always_inline)) void with_form(UpdateForm form, F&& f) {
  using Kind = UpdateForm;
  switch (form) { CBK_UPDATE_FORMS(CBK_KIND_CALL) }
}

template <class T>
struct AdamCoefficients {
  T beta1, rest1, beta2, rest2;  // rest = 1 - beta
  T rate, correction, delta;     // lr / (1 - beta1^step), 1 / (1 - beta2^step)
};

template <class T>
struct UpdateRow {
  const T *theta, *point;
  T* out;
  int64_t begin, end;  // coordinates; begin is a multiple of 64
  T a;                 // -lambda dt
  T b;                 // multiplied, floored: sigma sqrt(dt); added: the normals' factor
  T floor;             // floored: floor sqrt(dt)
  const T* gradient;   // nullptr: no Adam
  T *first, *second;
  AdamCoefficients<T> adam;
  T decay;  // still: taken off theta times theta before Adam's step
};

template <class T>
struct UpdateKernels {
  void (*row)(UpdateForm form, const UpdateRow<T>& row, NoiseKey key, uint32_t particle);
  double (*distance2)(const T* theta, const T* point, int64_t count);  // |theta - point|^2, float64
  // Coordinates [0, row.end) of several rows as of one, with their points, normals and b; the last two are read as far
  // as a vector reaches.
  void (*drawn)(UpdateForm form, const UpdateRow<T>& row, const T* noise, const T* factor);
  void (*distances2)(const T* theta, const T* point, int64_t rows, int64_t size, double* out);  // of each row
};

template <class T>
struct UpdateProblem {
  const T* theta;  // [particles, size]
  T* out;          // [particles, size], may be theta
  int64_t particles, size;
  const T* point;       // [tasks, size]
  const int32_t* task;  // [particles], or nullptr: all follow point 0
  const int64_t* rows;  // the particles that move, or nullptr: all
  int64_t row_count;
  double drift, diffusion, dt;
  Noise noise;
  double floor, radius;
  NoiseKey key;
};

template <class T>
struct AdamState {
  const T* gradient;  // all [particles, size]
  T *first, *second;
  double lr, beta1, beta2, delta;
  uint32_t step;  // from 1
  // For adam_update alone: [particles] in place of lr; what a step first takes off theta times theta, and times the
  // rate where there are rates.
  const double* rates = nullptr;
  double decay = 0;
};

template <class T>
void cbo_update(const UpdateProblem<T>& problem, int num_threads);
// The drift, noise and Adam's lr come already weighted by the mix.
template <class T>
void hybrid_update(const UpdateProblem<T>& problem, const AdamState<T>& adam, int num_threads);
template <class T>
void adam_update(const T* theta, T* out, int64_t particles, int64_t size, const AdamState<T>& adam, int num_threads);

}  // namespace cbk
