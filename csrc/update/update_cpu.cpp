#include <algorithm>

#include "../common/isa.hpp"
#include "../common/parallel.hpp"
#include "update_law.hpp"

namespace cbk {
namespace {

template <class T>
void update(const UpdateProblem<T>& problem, UpdateForm form, const AdamState<T>* adam, int num_threads) {
  constexpr int64_t piece = 8192;  // coordinates; a row longer than this is shared by several threads
  const UpdateKernels<T>& kernels = isa_table().update<T>();
  const bool distances = by_distance(problem.noise);
  const int64_t rows = problem.rows ? problem.row_count : problem.particles, size = problem.size;
  const auto particle = [&](int64_t i) { return problem.rows ? problem.rows[i] : i; };
  const auto point = [&](int64_t n) { return problem.point + (problem.task ? problem.task[n] : 0) * size; };

  // in-place steps change theta: all distances first
  Buffer<double> distance(distances ? rows : 0);
  if (distances) {
#pragma omp parallel for schedule(static) num_threads(thread_count(num_threads, rows, nanoseconds(0.3, rows, size)))
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t n = particle(i);
      const double d = std::sqrt(kernels.distance2(problem.theta + n * size, point(n), size));
      distance.data()[i] = problem.noise == Noise::truncated ? std::min(d, problem.radius) : d;
    }
  }

  const UpdateScalars k = scalars_of(problem);
  const AdamCoefficients<T> coefficient = adam ? coefficients(*adam) : AdamCoefficients<T>{};
  const int64_t pieces = divide_up(size, piece), tasks = rows * pieces;
#pragma omp parallel for schedule(static) num_threads(thread_count(num_threads, tasks, nanoseconds(1.5, rows, size)))
  for (int64_t i = 0; i < tasks; ++i) {
    const int64_t n = particle(i / pieces), begin = i % pieces * piece, at = n * size;
    const T* towards = form == UpdateForm::still ? nullptr : point(n);
    UpdateRow<T> row{problem.theta + at, towards, problem.out + at, begin, std::min(begin + piece, size), T(k.a), T(k.b),
                     T(k.floor), nullptr, nullptr, nullptr, coefficient};
    if (distances) row.b = T(k.b * distance.data()[i / pieces]);
    if (adam) row.gradient = adam->gradient + at, row.first = adam->first + at, row.second = adam->second + at;
    kernels.row(form, row, problem.key, uint32_t(n));
  }
}

}  // namespace

template <class T>
void cbo_update(const UpdateProblem<T>& problem, int num_threads) {
  update<T>(problem, form_of(problem.noise, problem.diffusion, problem.floor), nullptr, num_threads);
}

template <class T>
void hybrid_update(const UpdateProblem<T>& problem, const AdamState<T>& adam, int num_threads) {
  update(problem, form_of(problem.noise, problem.diffusion, problem.floor), &adam, num_threads);
}

template <class T>
void adam_update(const T* theta, T* out, int64_t particles, int64_t size, const AdamState<T>& adam,
                 int num_threads) {
  UpdateProblem<T> problem{};
  problem.theta = theta, problem.out = out, problem.particles = particles, problem.size = size;
  problem.noise = Noise::none;
  update(problem, UpdateForm::still, &adam, num_threads);
}

#define CBK_INSTANTIATE(T)                                                            \
  template void cbo_update(const UpdateProblem<T>&, int);                             \
  template void hybrid_update(const UpdateProblem<T>&, const AdamState<T>&, int);     \
  template void adam_update(const T*, T*, int64_t, int64_t, const AdamState<T>&, int);
CBK_INSTANTIATE(float)
CBK_INSTANTIATE(double)
#undef CBK_INSTANTIATE

}  // namespace cbk
