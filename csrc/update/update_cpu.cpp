#include <omp.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "../common/isa.hpp"
#include "../common/parallel.hpp"
#include "update_law.hpp"

namespace cbk {
namespace {

template <class T>
int64_t row_count(const UpdateProblem<T>& problem) {
  return problem.rows ? problem.row_count : problem.particles;
}
template <class T>
int64_t particle_of(const UpdateProblem<T>& problem, int64_t row) {
  return problem.rows ? problem.rows[row] : row;
}
template <class T>
const T* point_of(const UpdateProblem<T>& problem, int64_t particle) {
  return problem.point + (problem.task ? problem.task[particle] : 0) * problem.size;
}

// The first particle's row, without its end and point.
template <class T>
UpdateRow<T> first_row(const UpdateProblem<T>& problem, const AdamState<T>* adam) {
  const UpdateScalars k = scalars_of(problem);
  UpdateRow<T> row{};
  row.theta = problem.theta, row.out = problem.out;
  row.a = T(k.a), row.b = T(k.b), row.floor = T(k.floor);
  if (adam) {
    row.gradient = adam->gradient, row.first = adam->first, row.second = adam->second;
    row.adam = coefficients(*adam);
  }
  return row;
}

// The row with its pointers moved on by so many numbers.
template <class T>
UpdateRow<T> behind(UpdateRow<T> row, int64_t numbers) {
  row.theta += numbers, row.out += numbers;
  if (row.gradient) row.gradient += numbers, row.first += numbers, row.second += numbers;
  return row;
}

// What memmove takes for a call is more than a short row takes.
template <class T>
void copy_short(const T* from, int64_t size, T* to) {
  int64_t i = 0;
  for (; i + 4 <= size; i += 4) std::memcpy(to + i, from + i, 4 * sizeof(T));
  switch (size - i) {
    case 3: to[i + 2] = from[i + 2]; [[fallthrough]];
    case 2: to[i + 1] = from[i + 1]; [[fallthrough]];
    case 1: to[i] = from[i];
  }
}

// Each number `size` times.
template <class T>
void repeat(const double* from, int64_t count, int64_t size, T* to) {
  if (size == 2) {
    for (int64_t i = 0; i < count; ++i) to[2 * i] = to[2 * i + 1] = T(from[i]);
  } else if (size == 3) {
    for (int64_t i = 0; i < count; ++i) to[3 * i] = to[3 * i + 1] = to[3 * i + 2] = T(from[i]);
  } else {
    for (int64_t i = 0; i < count; ++i, to += size) std::fill_n(to, size, T(from[i]));
  }
}

// One thread's memory for rows that are moved together.  A row's point and its b are repeated for each coordinate.
template <class T>
class Together {
 public:
  // As many rows as their noise is drawn of at a time.  Without noise nothing but memory bounds them.
  static int64_t most(const UpdateProblem<T>& problem, UpdateForm form) {
    const bool drawn = draws(form) || problem.rows;
    return drawn ? rows_drawn(problem.size) : 4 * rows_drawn(problem.size);
  }
  static int64_t size(const UpdateProblem<T>& problem, UpdateForm form) { return 4 * length(problem, form); }
  Together(T* memory, const UpdateProblem<T>& problem, UpdateForm form, const AdamState<T>* adam)
      : problem_(problem),
        form_(form),
        row_(first_row(problem, adam)),
        b_(scalars_of(problem).b),
        noise_(memory),
        towards_(noise_ + length(problem, form)),
        factor_(towards_ + length(problem, form)),
        moving_(factor_ + length(problem, form)) {
    const int64_t rows = std::min(most(problem, form), row_count(problem));
    std::fill_n(factor_, round_up(rows * problem.size, 64), row_.b);
    if (problem.task) return;
    const int64_t all = rows * problem.size;
    std::copy_n(problem.point, problem.size, towards_);
    for (int64_t filled = problem.size; filled < all; filled *= 2)
      std::copy_n(towards_, std::min(filled, all - filled), towards_ + filled);
  }

  void move(int64_t first, int64_t count) {
    const int64_t size = problem_.size;
    uint32_t particle[drawn_blocks];
    const bool noisy = draws(form_);
    if (noisy || problem_.rows)
      for (int64_t i = 0; i < count; ++i) particle[i] = uint32_t(particle_of(problem_, first + i));
    for (int64_t i = 0; i < count && problem_.task; ++i)
      copy_short(point_of(problem_, particle_of(problem_, first + i)), size, towards_ + i * size);
    for (int64_t i = 0; i < count && problem_.rows; ++i)
      copy_short(problem_.theta + particle[i] * size, size, moving_ + i * size);
    UpdateRow<T> row = behind(row_, first * size);
    if (problem_.rows) row.theta = row.out = moving_;
    row.point = towards_, row.end = count * size;
    if (noisy && by_distance(problem_.noise)) spread_distances(row.theta, count);
    if (noisy) isa_table().random<T>().short_rows(problem_.key, particle, count, size, noise_);
    isa_table().update<T>().drawn(form_, row, noise_, factor_);
    if (problem_.rows)
      for (int64_t i = 0; i < count; ++i) copy_short(moving_ + i * size, size, problem_.out + particle[i] * size);
  }

 private:
  static int64_t length(const UpdateProblem<T>& problem, UpdateForm form) {
    return round_up(most(problem, form) * problem.size, 64);
  }

  void spread_distances(const T* theta, int64_t count) {
    const double most = farthest(problem_);
    double distance2[drawn_blocks];
    isa_table().update<T>().distances2(theta, towards_, count, problem_.size, distance2);
    for (int64_t i = 0; i < count; ++i) distance2[i] = b_ * std::min(std::sqrt(distance2[i]), most);
    repeat(distance2, count, problem_.size, factor_);
  }

  const UpdateProblem<T>& problem_;
  const UpdateForm form_;
  const UpdateRow<T> row_;
  const double b_;
  T *const noise_, *const towards_, *const factor_, *const moving_;
};

template <class T>
void update_short(const UpdateProblem<T>& problem, UpdateForm form, const AdamState<T>* adam, int num_threads) {
  const int64_t rows = row_count(problem), together = Together<T>::most(problem, form);
  const int64_t groups = divide_up(rows, together);
  const int threads = thread_count(num_threads, groups, nanoseconds(3, rows, problem.size));
  const int64_t own_size = Together<T>::size(problem, form);
  Buffer<T> memory(threads * own_size);
  // groups between two polls, and no thread without one
  const int64_t turn = std::clamp(divide_up(groups, threads), int64_t(1), short_tasks(together * problem.size));
  Failure failure;
#pragma omp parallel num_threads(threads)
  {
    Together<T> own(memory.data() + omp_get_thread_num() * own_size, problem, form, adam);
#pragma omp for schedule(dynamic, 1)
    for (int64_t from = 0; from < groups; from += turn)
      failure.guard([&] {
        for (int64_t group = from; group < std::min(from + turn, groups); ++group)
          own.move(group * together, std::min(together, rows - group * together));
      });
  }
  failure.rethrow();
}

template <class T>
void update(const UpdateProblem<T>& problem, UpdateForm form, const AdamState<T>* adam, int num_threads) {
  if (problem.size < short_row && form != UpdateForm::still) return update_short(problem, form, adam, num_threads);
  constexpr int64_t piece = 8192;  // coordinates; a row longer than this is shared by several threads
  const UpdateKernels<T>& kernels = isa_table().update<T>();
  const bool distances = by_distance(problem.noise);
  const double most = farthest(problem);
  const int64_t rows = row_count(problem), size = problem.size;

  // in-place steps change theta: all distances first
  Buffer<double> distance(distances ? rows : 0);
  if (distances) {
    const int threads = thread_count(num_threads, rows, nanoseconds(0.3, rows, size));
    parallel_for(rows, threads, [&](int64_t i) {
      const int64_t n = particle_of(problem, i);
      const double d = std::sqrt(kernels.distance2(problem.theta + n * size, point_of(problem, n), size));
      distance.data()[i] = std::min(d, most);
    }, short_tasks(size));
  }

  const UpdateRow<T> whole = first_row(problem, adam);
  const double b = scalars_of(problem).b, bias = adam ? bias_of_first(*adam) : 1;
  const int64_t pieces = divide_up(size, piece), tasks = rows * pieces;
  const int threads = thread_count(num_threads, tasks, nanoseconds(1.5, rows, size));
  parallel_for(tasks, threads, [&](int64_t i) {
    const int64_t n = particle_of(problem, i / pieces), begin = i % pieces * piece;
    UpdateRow<T> row = behind(whole, n * size);
    row.begin = begin, row.end = std::min(begin + piece, size);
    if (form != UpdateForm::still) row.point = point_of(problem, n);
    if (distances) row.b = T(b * distance.data()[i / pieces]);
    if (adam) row.decay = T(adam->rates ? adam->decay * adam->rates[n] : adam->decay);
    if (adam && adam->rates) row.adam.rate = T(adam->rates[n] / bias);
    kernels.row(form, row, problem.key, uint32_t(n));
  }, short_tasks(size));
}

}  // namespace

template <class T>
void cbo_update(const UpdateProblem<T>& problem, int num_threads) {
  update<T>(problem, form_of(problem), nullptr, num_threads);
}

template <class T>
void hybrid_update(const UpdateProblem<T>& problem, const AdamState<T>& adam, int num_threads) {
  update(problem, form_of(problem), &adam, num_threads);
}

template <class T>
void adam_update(const T* theta, T* out, int64_t particles, int64_t size, const AdamState<T>& adam, int num_threads) {
  UpdateProblem<T> problem{};
  problem.theta = theta, problem.out = out, problem.noise = Noise::none;
  problem.particles = particles, problem.size = size;
  if (!adam.rates) problem.particles = 1, problem.size *= particles;  // each coordinate by itself: one long row
  update(problem, UpdateForm::still, &adam, num_threads);
}

#define CBK_INSTANTIATE(T) \
  template void cbo_update(const UpdateProblem<T>&, int); \
  template void hybrid_update(const UpdateProblem<T>&, const AdamState<T>&, int); \
  template void adam_update(const T*, T*, int64_t, int64_t, const AdamState<T>&, int);
CBK_INSTANTIATE(float)
CBK_INSTANTIATE(double)
#undef CBK_INSTANTIATE

}  // namespace cbk
