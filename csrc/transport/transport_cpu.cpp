#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "../common/isa.hpp"
#include "../common/parallel.hpp"
#include "space.hpp"

namespace cbk {
namespace {

// support_j = sum_n beta_n x_{n, i: match(n, i) = j} over the particles that count, in their order.
template <class T>
void average(const BarycenterProblem<T>& p, const std::vector<int64_t>& rows, int num_threads) {
  const int64_t count = p.count, size = p.size, used = int64_t(rows.size());
  Buffer<int32_t> partner(used * count);  // of each support point
  const double work = nanoseconds(0.5, used, count, size);
  const int threads = used * count * size < 50000 ? 1 : thread_count(num_threads, count, work);
  const int64_t own_size = round_up(size, 8);
  Buffer<double> totals(threads * own_size);
  parallel_for(used, threads, [&](int64_t r) {
    for (int64_t i = 0; i < count; ++i) partner.data()[r * count + p.match[rows[size_t(r)] * count + i]] = int32_t(i);
  }, short_tasks(count));
  parallel_for(count, threads, [&](int64_t j) {
    double* total = totals.data() + omp_get_thread_num() * own_size;
    std::fill_n(total, size, 0.0);
    Paced paced;
    for (int64_t r = 0; r < used; ++r) {
      paced(100 + size);
      const int64_t n = rows[size_t(r)];
      const T* x = p.atoms + (n * count + partner.data()[r * count + j]) * size;
      for (int64_t k = 0; k < size; ++k) total[k] += p.weights[n] * double(x[k]);
    }
    for (int64_t k = 0; k < size; ++k) p.support[j * size + k] = T(total[k]);
  }, short_tasks(used * size));
}

// beta (1/M) sum_i |x_i - y_match(i)|^2; its terms may be too large or too small for float64 where it is not.
template <class T>
double weighted_cost(double beta, const T* x, const T* y, const int64_t* match, int64_t count, int64_t size) {
  const auto total = [&](double scale) {
    double sum = 0;
    for (int64_t i = 0; i < count; ++i) sum += squared_distance(x + i * size, y + match[i] * size, size, scale);
    return sum;
  };
  const double plain = total(1);
  if (plain > 0x1p-900 && plain < 0x1p1020) return beta * plain / double(count);
  const double scale = unit_scale(std::max(largest(x, count * size), largest(y, count * size)));
  return beta * total(scale) / double(count) / scale / scale;
}

// sum_n beta_n (1/M) sum_i |x_{n,i} - y_match(n,i)|^2
template <class T>
double objective(const BarycenterProblem<T>& p, const std::vector<int64_t>& rows, int num_threads) {
  const int64_t count = p.count, size = p.size, used = int64_t(rows.size());
  std::vector<double> part(rows.size());
  const double work = nanoseconds(0.5, used, count, size);
  const int threads = used * count * size < 50000 ? 1 : thread_count(num_threads, used, work);
  parallel_for(used, threads, [&](int64_t r) {
    const int64_t n = rows[size_t(r)];
    part[size_t(r)] =
        weighted_cost(p.weights[n], p.atoms + n * count * size, p.support, p.match + n * count, count, size);
  }, short_tasks(count * size));
  double total = 0;
  for (const double value : part) total += value;
  return total;
}

// Support points in the order of the atoms that are matched to them.  For few coordinates a call of memmove takes
// longer than the point does.
template <int few, class T>
void partners(const T* support, const int32_t* match, int64_t count, int64_t size, T* out) {
  if constexpr (few > 0) {
    if (size != few) return partners<few - 1>(support, match, count, size, out);
    for (int64_t i = 0; i < count; ++i) std::copy_n(support + int64_t(match[i]) * few, few, out + i * few);
  } else {
    for (int64_t i = 0; i < count; ++i) std::copy_n(support + match[i] * size, size, out + i * size);
  }
}

}  // namespace

template <class T>
int64_t barycenter(const BarycenterProblem<T>& p, int num_threads) {
  std::vector<int64_t> used, others;
  for (int64_t n = 0; n < p.particles; ++n) (p.weights[n] > 0 ? used : others).push_back(n);
  std::vector<double> duals(size_t(p.iterations > 1 ? p.particles * p.count : 0));
  std::vector<int64_t> before;
  std::vector<T> start(p.support, p.support + p.count * p.size);
  AssignProblem<T> problem{
      p.atoms, p.particles, p.count, p.size, start.data(), p.largest, duals.empty() ? nullptr : duals.data(),
      false,   p.match,     nullptr, nullptr};
  int64_t done = 0;
  while (done < p.iterations) {
    std::copy_n(p.support, p.count * p.size, start.data());
    assign(problem, used.data(), int64_t(used.size()), num_threads);
    problem.guess = true;
    average(p, used, num_threads);
    p.history[done++] = objective(p, used, num_threads);
    if (done == p.iterations) break;
    std::vector<int64_t> now;
    for (const int64_t n : used) now.insert(now.end(), p.match + n * p.count, p.match + (n + 1) * p.count);
    if (now == before) break;
    before.swap(now);
  }
  problem.guess = false;
  assign(problem, others.data(), int64_t(others.size()), num_threads);
  return done;
}

namespace {

// Particles of few coordinates, several together.
template <class T>
void update_short(const TransportUpdate<T>& p, T a, T b, int num_threads) {
  const int64_t length = p.count * p.size, together = rows_drawn(length), groups = divide_up(p.particles, together);
  const int threads = thread_count(num_threads, groups, nanoseconds(3, p.particles, length));
  alignas(64) T factor[4 * drawn_blocks];
  std::fill_n(factor, std::size(factor), b);
  parallel_for(groups, threads, [&](int64_t group) {
    const int64_t first = group * together, count = std::min(together, p.particles - first), at = first * length;
    alignas(64) T noise[4 * drawn_blocks], towards[4 * drawn_blocks];
    const int32_t* const match = p.match + first * p.count;
    if (p.task) {
      for (int64_t i = 0; i < count; ++i)
        partners<4>(p.support + p.task[first + i] * length, match + i * p.count, p.count, p.size, towards + i * length);
    } else {
      partners<4>(p.support, match, count * p.count, p.size, towards);
    }
    if (b != 0) {
      uint32_t particle[drawn_blocks];
      std::iota(particle, particle + count, uint32_t(first));
      isa_table().random<T>().short_rows(p.key, particle, count, length, noise);
    } else {
      std::fill_n(noise, std::size(noise), T(0));
    }
    UpdateRow<T> row{};
    row.a = a, row.theta = p.atoms + at, row.point = towards, row.out = p.out + at, row.end = count * length;
    isa_table().update<T>().drawn(UpdateForm::added, row, noise, factor);
  }, short_tasks(together * length));
}

}  // namespace

template <class T>
void transport_update(const TransportUpdate<T>& p, int num_threads) {
  constexpr int64_t piece = 8192;  // coordinates that one thread moves at a time
  const TransportKernels<T>& kernels = isa_table().transport<T>();
  const int64_t length = p.count * p.size, pieces = divide_up(length, piece), tasks = p.particles * pieces;
  const T a = T(-p.drift * p.dt), b = T(p.diffusion * std::sqrt(p.dt));
  if (length < short_row) return update_short(p, a, b, num_threads);
  const int threads = thread_count(num_threads, tasks, nanoseconds(1.5, p.particles, length));
  const int64_t own_size = round_up(std::min(piece + 2 * p.size, length), 64);
  Buffer<T> partners_of(threads * own_size);
  parallel_for(tasks, threads, [&](int64_t t) {
    T* towards = partners_of.data() + omp_get_thread_num() * own_size;
    const int64_t n = t / pieces, begin = t % pieces * piece, end = std::min(begin + piece, length);
    const int64_t first = begin / p.size, at = n * length + begin;
    const T* support = p.support + (p.task ? p.task[n] * length : 0);
    partners<4>(support, p.match + n * p.count + first, divide_up(end, p.size) - first, p.size, towards);
    kernels.update(p.atoms + at, towards + (begin - first * p.size), p.out + at, begin, end - begin, a, b, p.key,
                   uint32_t(n));
  }, short_tasks(length));
}

#define CBK_INSTANTIATE(T) \
  template int64_t barycenter(const BarycenterProblem<T>&, int); \
  template void transport_update(const TransportUpdate<T>&, int);
CBK_INSTANTIATE(float)
CBK_INSTANTIATE(double)
#undef CBK_INSTANTIATE

}  // namespace cbk
