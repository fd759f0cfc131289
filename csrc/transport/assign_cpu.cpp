#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>

#include "../common/isa.hpp"
#include "../common/parallel.hpp"
#include "space.hpp"

namespace cbk {
namespace {

// A parallel region costs about as much as so many reduced costs.
int threads_for(int num_threads, int64_t problems, int64_t count) {
  return problems * count * (count + 50) < 200000 ? 1 : thread_count(num_threads, problems);
}

template <class T>
double total_cost(const T* atoms, const T* support, const int32_t* match, int64_t count, int64_t size) {
  double total = 0;
  for (int64_t i = 0; i < count; ++i) total += squared_distance(atoms + i * size, support + match[i] * size, size);
  return total;
}

// One problem after another on one thread, in arithmetic C.
template <class T, class C>
class Precision {
 public:
  Precision(const Shape& shape, int64_t most)
      : shape_(shape), points_(shape), space_(shape, most), apart_(shape.count) {}

  void support(const T* points) {
    points_.fill(points);
    solved_ = 0;
  }
  C* duals() { return space_.duals(); }
  int32_t* match() { return space_.match(); }
  AssignTask<T, C> task(const T* atoms, bool cold) {
    C* apart = solved_ > 0 ? apart_.data() : nullptr;  // worth finding when a second problem has the support
    if (solved_++ == 1) apart[0] = -1;
    return {atoms,   points_.data(), shape_.count, shape_.size, shape_.padded, shape_.tile, shape_.scale,
            duals(), cold,           apart,        match(),     space_.fresh(shape_.count)};
  }
  // Prices of the unscaled problem, or nullptr: 0; whether all are.
  bool start(const int32_t* match, const double* duals) {
    bool cold = true;
    for (int64_t j = 0; j < shape_.count; ++j) {
      this->duals()[j] = duals ? C(duals[j] * shape_.scale * shape_.scale) : C(0);
      cold = cold && this->duals()[j] == 0;
    }
    std::copy_n(match, shape_.count, this->match());
    return cold;
  }
  void finish(int32_t* match, double* duals) {
    std::copy_n(this->match(), shape_.count, match);
    if (!duals) return;
    for (int64_t j = 0; j < shape_.count; ++j) duals[j] = double(this->duals()[j]) / shape_.scale / shape_.scale;
  }

 private:
  const Shape shape_;
  Points<C> points_;
  Space<C> space_;
  Buffer<C> apart_;
  int64_t solved_ = 0;  // problems with this support
};

template <class T>
class Solver {
  static constexpr bool narrow_first = sizeof(T) == 4;
  // bytes of costs that all threads keep
  static constexpr int64_t most_narrow = int64_t(8) << 20, most_wide = int64_t(narrow_first ? 4 : 12) << 20;

 public:
  Solver(const Shape& shape, int threads) : shape_(shape), threads_(threads) {
    if constexpr (narrow_first) narrow_ = std::make_unique<Precision<T, float>>(shape, most_narrow / threads);
  }

  void support(const T* points) {
    support_ = points;
    stale_ = true;
    if constexpr (narrow_first) narrow_->support(points);
  }

  // match [count]: a guess, then the optimum; duals [count]: of the unscaled problem, then theirs, or nullptr.
  void solve(const T* atoms, int32_t* match, double* duals) {
    if constexpr (narrow_first) {
      const bool cold = narrow_->start(match, duals);
      kernels_.single(narrow_->task(atoms, cold));
      narrow_->finish(match, duals);
      if (close_enough(atoms)) return;  // one enormous particle can make the others' scaled costs vanish in float32
      kernels_.exact(wide().task(atoms, false));
    } else {
      const bool cold = wide().start(match, duals);
      kernels_.exact(wide().task(atoms, cold));
    }
    wide().finish(match, duals);
  }

  // Mean excess of the cost over the dual bound.
  double gap(const T* atoms, const int32_t* match, const double* duals) {
    wide().start(match, duals);
    return kernels_.gap(wide().task(atoms, false)) / shape_.scale / shape_.scale / double(shape_.count);
  }

 private:
  // Whether float32's match is as good as float64's but for 4e-6 of the cost; leaves it as the start of float64's.
  bool close_enough(const T* atoms) {
    std::copy_n(narrow_->match(), shape_.count, wide().match());
    std::copy_n(narrow_->duals(), shape_.count, wide().duals());
    const double cost = total_cost(atoms, support_, wide().match(), shape_.count, shape_.size);
    return kernels_.gap(wide().task(atoms, false)) <= 4e-6 * cost * shape_.scale * shape_.scale;
  }

  Precision<T, double>& wide() {
    if (!wide_) wide_ = std::make_unique<Precision<T, double>>(shape_, most_wide / threads_);
    if (stale_) wide_->support(support_);
    stale_ = false;
    return *wide_;
  }

  const TransportKernels<T>& kernels_ = isa_table().transport<T>();
  const Shape shape_;
  const int threads_;
  const T* support_ = nullptr;
  bool stale_ = true;
  std::unique_ptr<Precision<T, float>> narrow_;
  std::unique_ptr<Precision<T, double>> wide_;
};

}  // namespace

template <class T>
double largest(const T* a, int64_t count) {
  // magnitudes compare as integers, and those of infinities and NaNs are the greatest
  using Word = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  Word most = 0;
  for (int64_t i = 0; i < count; ++i) {
    Word word;
    std::memcpy(&word, a + i, sizeof word);
    most = std::max(most, word & std::numeric_limits<Word>::max());
  }
  T value;
  std::memcpy(&value, &most, sizeof value);
  return std::isfinite(value) ? double(value) : std::numeric_limits<double>::infinity();
}

template <class T>
void assign(const AssignProblem<T>& p, const int64_t* rows, int64_t row_count, int num_threads) {
  const Shape shape(p.count, p.size, p.largest, isa_table().transport<T>().lanes, p.size >= many_coordinates);
  const int threads = threads_for(num_threads, row_count, p.count);
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    Solver<T> solver(shape, threads);
    int64_t packed = -1;
    Buffer<int32_t> match(p.count);
    Buffer<double> own(p.count);  // the duals of a problem that wants none
#pragma omp for schedule(dynamic, 1)
    for (int64_t r = 0; r < row_count; ++r) {
      const int64_t n = rows ? rows[r] : r, task = n / p.particles;
      const T *atoms = p.atoms + n % p.particles * p.count * p.size, *support = p.support + task * p.count * p.size;
      if (packed != task) solver.support(support);
      packed = task;
      int64_t* found = p.match + n * p.count;
      double* duals = p.duals ? p.duals + n * p.count : nullptr;
      if (!duals && p.gap) std::fill_n(duals = own.data(), p.count, 0.0);
      if (p.guess)
        std::copy_n(found, p.count, match.data());
      else
        std::iota(match.data(), match.data() + p.count, 0);
      solver.solve(atoms, match.data(), duals);
      std::copy_n(match.data(), p.count, found);
      if (p.cost) p.cost[n] = total_cost(atoms, support, match.data(), p.count, p.size) / double(p.count);
      if (p.gap) p.gap[n] = solver.gap(atoms, match.data(), duals);
    }
  }
}

template <class T>
void wasserstein2(const T* a, int64_t rows, const T* b, int64_t columns, int64_t count, int64_t size, double largest,
                  double* out, int num_threads) {
  const Shape shape(count, size, largest, isa_table().transport<T>().lanes, size >= many_coordinates);
  const int threads = threads_for(num_threads, rows * columns, count);
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    Solver<T> solver(shape, threads);
    Buffer<int32_t> match(count);
    int64_t packed = -1;
#pragma omp for schedule(dynamic, 1)
    for (int64_t pair = 0; pair < rows * columns; ++pair) {
      const int64_t i = pair % rows, j = pair / rows;
      const T *x = a + i * count * size, *y = b + j * count * size;
      if (packed != j) solver.support(y);
      packed = j;
      std::iota(match.data(), match.data() + count, 0);
      solver.solve(x, match.data(), nullptr);
      out[i * columns + j] = total_cost(x, y, match.data(), count, size) / double(count);
    }
  }
}

void assign_matrix(const double* costs, int64_t count, int32_t* match) {
  const TransportKernels<double>& kernels = isa_table().transport<double>();
  const Shape shape(count, 1, 1.0, kernels.lanes);
  Space<double> space(shape, 0);
  Buffer<double> padded(count * shape.padded);
  std::fill_n(padded.data(), count * shape.padded, 0.0);
  for (int64_t i = 0; i < count; ++i) std::copy_n(costs + i * count, count, padded.data() + i * shape.padded);
  AssignSpace<double> scratch = space.fresh(count);
  scratch.costs = padded.data();
  std::fill_n(scratch.known, count, true);
  std::fill_n(space.duals(), count, 0.0);
  kernels.exact({nullptr, nullptr, count, 1, shape.padded, shape.tile, 1.0, space.duals(), false, nullptr, space.match(),
                 scratch});
  std::copy_n(space.match(), count, match);
}

#define CBK_INSTANTIATE(T)                                                     \
  template double largest(const T*, int64_t);                                  \
  template void assign(const AssignProblem<T>&, const int64_t*, int64_t, int); \
  template void wasserstein2(const T*, int64_t, const T*, int64_t, int64_t, int64_t, double, double*, int);
CBK_INSTANTIATE(float)
CBK_INSTANTIATE(double)
#undef CBK_INSTANTIATE

}  // namespace cbk
