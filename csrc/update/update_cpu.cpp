#include "update.hpp"

#include <algorithm>
#include <cmath>

#include "../common/isa.hpp"
#include "../common/parallel.hpp"

namespace cbk {
namespace {

UpdateForm form_of(Noise noise, double diffusion, double floor) {
  if (noise == Noise::anisotropic) return floor > 0 ? UpdateForm::floored : UpdateForm::multiplied;
  return noise == Noise::none || diffusion == 0 ? UpdateForm::quiet : UpdateForm::added;
}

}  // namespace

template <class T>
void cbo_update(const UpdateProblem<T>& problem, int num_threads) {
  constexpr int64_t piece = 8192;  // coordinates; a row longer than this is shared by several threads
  const UpdateKernels<T>& kernels = isa_table().update<T>();
  const UpdateForm form = form_of(problem.noise, problem.diffusion, problem.floor);
  const bool by_distance = problem.noise == Noise::isotropic || problem.noise == Noise::truncated;
  const int64_t rows = problem.rows ? problem.row_count : problem.particles, size = problem.size;
  const auto particle = [&](int64_t i) { return problem.rows ? problem.rows[i] : i; };
  const auto point = [&](int64_t n) { return problem.point + (problem.task ? problem.task[n] : 0) * size; };

  // in-place steps change theta: all distances first
  Buffer<double> distance(by_distance ? rows : 0);
  if (by_distance) {
#pragma omp parallel for schedule(static) num_threads(thread_count(num_threads, rows))
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t n = particle(i);
      const double d = std::sqrt(kernels.distance2(problem.theta + n * size, point(n), size));
      distance.data()[i] = problem.noise == Noise::truncated ? std::min(d, problem.radius) : d;
    }
  }

  const double amplitude = problem.diffusion * std::sqrt(problem.dt);
  const int64_t pieces = divide_up(size, piece), tasks = rows * pieces;
#pragma omp parallel for schedule(static) num_threads(thread_count(num_threads, tasks))
  for (int64_t i = 0; i < tasks; ++i) {
    const int64_t n = particle(i / pieces), begin = i % pieces * piece;
    UpdateRow<T> row{problem.theta + n * size, point(n), problem.out + n * size, begin,
                     std::min(begin + piece, size), T(-problem.drift * problem.dt), T(amplitude), T(0)};
    if (form == UpdateForm::floored) {
      row.b = T(amplitude * amplitude);
      row.floor = T(problem.floor * problem.floor * problem.dt);
    }
    if (by_distance) row.b = T(amplitude * distance.data()[i / pieces]);
    kernels.row(form, row, problem.key, uint32_t(n));
  }
}

template void cbo_update(const UpdateProblem<float>&, int);
template void cbo_update(const UpdateProblem<double>&, int);

}  // namespace cbk
