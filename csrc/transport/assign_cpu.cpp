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

// A parallel region costs about as much as computing so many reduced costs.
int threads_for(int num_threads, int64_t problems, int64_t count) {
  const int64_t steps = problems * count * (count + 50);
  return steps < 200000 ? 1 : thread_count(num_threads, problems, nanoseconds(0.2, steps));
}

// One problem after another on one thread, in arithmetic C.
template <class T, class C>
class Precision {
 public:
  Precision(const Shape& shape, int64_t most)
      : unit(shape.scale), shape_(shape), points_(shape), space_(shape, most), apart_(shape.count) {}

  void support(const T* points) {
    points_.fill(points);
    solved_ = 0;
  }
  C* duals() { return space_.duals(); }
  int32_t* match() { return space_.match(); }
  AssignTask<T, C> task(const T* atoms, bool cold) {
    C* apart = solved_ > 0 ? apart_.data() : nullptr;  // found only when a second problem has this support
    if (solved_++ == 1) apart[0] = -1;
    return {atoms,        points_.data(), shape_.count, shape_.size, shape_.padded, shape_.tile,
            shape_.scale, duals(),        cold,         apart,       match(),       space_.fresh(shape_.count)};
  }
  // Starts from prices of the unscaled problem, or from 0 for nullptr.  Returns whether all are 0.
  bool start(const int32_t* match, const double* duals) {
    std::copy_n(match, shape_.count, this->match());
    double least = infinity, most = -infinity;
    bool finite = duals != nullptr;
    for (int64_t j = 0; finite && j < shape_.count; ++j) {
      const double price = duals[j] * unit * unit;
      least = std::min(least, price), most = std::max(most, price);
      finite = std::isfinite(price);
    }
    // The best prices differ by the largest cost at most, 4 size, and only differences matter.
    const double spread = most - least, shift = std::abs(most) > 1024 * spread ? most : 0;
    if (!finite || !(spread <= 8 * double(shape_.size))) return forget(), true;
    bool cold = true;
    for (int64_t j = 0; j < shape_.count; ++j) {
      this->duals()[j] = C(duals[j] * unit * unit - shift);
      cold = cold && this->duals()[j] == 0;
    }
    return cold;
  }
  void finish(int32_t* match, double* duals) {
    std::copy_n(this->match(), shape_.count, match);
    if (!duals) return;
    bool finite = true;
    for (int64_t j = 0; j < shape_.count; ++j) {
      duals[j] = double(this->duals()[j]) / unit / unit;
      finite = finite && std::isfinite(duals[j]);
    }
    if (!finite) std::fill_n(duals, shape_.count, 0.0);  // the unscaled prices overflow
  }
  void forget() { std::fill_n(duals(), shape_.count, C(0)); }
  void take_identity() { std::iota(match(), match() + shape_.count, 0); }
  // Squares of float32's differences are normal numbers in float64: these are scaled once.
  double cost(const T* atoms, const T* support) {
    constexpr bool scaled_once = sizeof(T) == 4;
    const double each = scaled_once ? 1 : shape_.scale, all = scaled_once ? shape_.scale * shape_.scale : 1;
    double total = 0;
    for (int64_t i = 0; i < shape_.count; ++i)
      total += squared_distance(atoms + i * shape_.size, support + match()[i] * shape_.size, shape_.size, each);
    return total * all / double(shape_.count);
  }
  // Whether rounding of the prices is negligible beside the pairs' mean cost.
  bool precise(double cost) {
    const auto [least, most] = std::minmax_element(duals(), duals() + shape_.count);
    return std::max(double(*most), -double(*least)) <= 0x1p21 * cost;
  }

  double unit;  // coordinates have been multiplied by it

 private:
  static constexpr double infinity = std::numeric_limits<double>::infinity();
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
    if constexpr (narrow_first)
      narrow_->support(points);
    else
      support_small_ = vanishes(points);
  }

  // match [count]: a guess, which becomes the optimum.  duals [count]: prices of the unscaled problem to start from,
  // which become the optimum's, or nullptr.  Returns the mean cost over atoms, in units of the problem; gap, where it
  // is not nullptr, receives the mean excess over the dual bound.
  double solve(const T* atoms, int32_t* match, double* duals, double* gap) {
    if constexpr (narrow_first) {
      if (in_single(atoms, match, duals)) {
        narrow_->finish(match, duals);
        return told(wide(), gap);
      }
      solve_exactly(wide(), kernels_, atoms, support_, false, gap != nullptr);
    } else {
      if (support_small_ || vanishes(atoms)) return in_own_frame(atoms, match, duals, gap);
      const bool cold = wide().start(match, duals);
      solve_exactly(wide(), kernels_, atoms, support_, cold, gap != nullptr);
    }
    wide().finish(match, duals);
    return told(wide(), gap);
  }

 private:
  // Whether squares of scaled coordinates may underflow.
  bool vanishes(const T* points) const {
    double least = 1;
    for (int64_t i = 0; i < shape_.count * shape_.size; ++i) {
      const double magnitude = std::abs(double(points[i]) * shape_.scale);
      least = points[i] != 0 && magnitude < least ? magnitude : least;
    }
    return least < 0x1p-400;
  }

  // Solves in float32.  Returns whether its match is optimal but for 4e-6 of the cost.  What it leaves is the start of
  // float64's solver: its match and prices, or prices of 0 where these were misleading.
  bool in_single(const T* atoms, int32_t* match, const double* duals) {
    const bool cold = narrow_->start(match, duals), solved = kernels_.single(narrow_->task(atoms, cold));
    if (!solved) return wide().start(match, nullptr), false;
    std::copy_n(narrow_->match(), shape_.count, wide().match());
    std::copy_n(narrow_->duals(), shape_.count, wide().duals());
    cost_ = wide().cost(atoms, support_);
    gap_ = kernels_.gap(wide().task(atoms, false)) / double(shape_.count);
    if (cold || wide().precise(cost_)) return gap_ <= 4e-6 * cost_;
    return wide().start(match, nullptr), false;
  }

  // Solves in float64, from the match and duals of p.
  template <class U>
  void solve_exactly(Precision<U, double>& p, const TransportKernels<U>& kernels, const U* atoms, const U* support,
                     bool cold, bool gap) {
    bool solved = kernels.exact(p.task(atoms, cold));
    if (solved) cost_ = p.cost(atoms, support);
    if (!cold && !(solved && p.precise(cost_))) {  // the start was misleading
      p.forget();
      if (!solved) p.take_identity();
      solved = kernels.exact(p.task(atoms, true));
      if (solved) cost_ = p.cost(atoms, support);
    }
    if (!solved) {
      p.forget(), p.take_identity();
      cost_ = p.cost(atoms, support);
    }
    if (gap) gap_ = kernels.gap(p.task(atoms, false)) / double(shape_.count);
  }

  // float64 atoms whose squares would underflow at the call's common scale, which may be another particle's.
  double in_own_frame(const T* atoms, int32_t* match, double* duals, double* gap) {
    const Frame<T> frame(atoms, shape_.count, support_, shape_.count, shape_.size);
    const int64_t length = shape_.count * shape_.size;
    std::vector<double> x, y;
    for (int64_t i = 0; i < length; ++i) x.push_back(frame.at(atoms[i], i % shape_.size));
    for (int64_t i = 0; i < length; ++i) y.push_back(frame.at(support_[i], i % shape_.size));
    Precision<double, double> own(
        Shape(shape_.count, shape_.size, 0.5, kernels_.lanes, shape_.size >= many_coordinates), most_wide / threads_);
    own.unit = frame.scale;
    own.support(y.data());
    const bool cold = own.start(match, duals);
    solve_exactly(own, isa_table().transport<double>(), x.data(), y.data(), cold, gap != nullptr);
    own.finish(match, duals);
    return told(own, gap);
  }

  template <class U>
  double told(const Precision<U, double>& p, double* gap) const {
    if (gap) *gap = gap_ / p.unit / p.unit;
    return cost_ / p.unit / p.unit;
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
  bool stale_ = true, support_small_ = false;
  double cost_ = 0, gap_ = 0;  // of the last problem, means over atoms, scaled
  std::unique_ptr<Precision<T, float>> narrow_;
  std::unique_ptr<Precision<T, double>> wide_;
};

// What a thread that solves problems needs.
template <class T>
struct Worker {
  Worker(const Shape& shape, int threads) : solver(shape, threads), match(shape.count) {}
  void support(const T* points) {
    if (packed != points) solver.support(points);
    packed = points;
  }
  Solver<T> solver;
  Buffer<int32_t> match;
  const T* packed = nullptr;
};

// work(worker, task) for all tasks.
template <class T, class Work>
void share(const Shape& shape, int64_t tasks, int num_threads, Work work) {
  const int threads = threads_for(num_threads, tasks, shape.count);
  const int64_t most = short_tasks(shape.count * (shape.count + 50));
  const int64_t together = std::clamp(divide_up(tasks, threads), int64_t(1), most);
  Failure failure;
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    std::unique_ptr<Worker<T>> worker;
    failure.guard([&] { worker = std::make_unique<Worker<T>>(shape, threads); });
#pragma omp for schedule(dynamic, 1)
    for (int64_t block = 0; block < divide_up(tasks, together); ++block)
      failure.guard([&] {
        const int64_t end = std::min((block + 1) * together, tasks);
        for (int64_t task = block * together; task < end; ++task) work(*worker, task);
      });
  }
  failure.rethrow();
}

}  // namespace

template <class T>
double largest(const T* a, int64_t count) {
  // magnitudes compare as integers, and those of infinities and NaNs are the greatest
  using Word = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  constexpr int64_t often = 1 << 20;
  Word most = 0;
  for (int64_t first = 0; first < count; first += often) {
    if (first > 0) poll();
    for (int64_t i = first; i < std::min(first + often, count); ++i) {
      Word word;
      std::memcpy(&word, a + i, sizeof word);
      most = std::max(most, word & std::numeric_limits<Word>::max());
    }
  }
  T value;
  std::memcpy(&value, &most, sizeof value);
  return std::isfinite(value) ? double(value) : std::numeric_limits<double>::infinity();
}

template <class T>
void assign(const AssignProblem<T>& p, const int64_t* rows, int64_t row_count, int num_threads) {
  const Shape shape(p.count, p.size, p.largest, isa_table().transport<T>().lanes, p.size >= many_coordinates);
  share<T>(shape, row_count, num_threads, [&](Worker<T>& worker, int64_t r) {
    const int64_t n = rows ? rows[r] : r, task = n / p.particles;
    worker.support(p.support + task * p.count * p.size);
    int64_t* found = p.match + n * p.count;
    int32_t* match = worker.match.data();
    if (p.guess)
      std::copy_n(found, p.count, match);
    else
      std::iota(match, match + p.count, 0);
    const double cost = worker.solver.solve(p.atoms + n % p.particles * p.count * p.size, match,
                                            p.duals ? p.duals + n * p.count : nullptr, p.gap ? p.gap + n : nullptr);
    std::copy_n(match, p.count, found);
    if (p.cost) p.cost[n] = cost;
  });
}

template <class T>
void wasserstein2(const T* a, int64_t rows, const T* b, int64_t columns, int64_t count, int64_t size, double largest,
                  double* out, int num_threads) {
  const Shape shape(count, size, largest, isa_table().transport<T>().lanes, size >= many_coordinates);
  share<T>(shape, rows * columns, num_threads, [&](Worker<T>& worker, int64_t pair) {
    const int64_t i = pair % rows, j = pair / rows;
    worker.support(b + j * count * size);
    int32_t* match = worker.match.data();
    std::iota(match, match + count, 0);
    out[i * columns + j] = worker.solver.solve(a + i * count * size, match, nullptr, nullptr);
  });
}

void assign_matrix(const double* costs, int64_t count, int32_t* match) {
  const TransportKernels<double>& kernels = isa_table().transport<double>();
  const Shape shape(count, 1, 1.0, kernels.lanes);
  Space<double> space(shape, 0);
  Buffer<double> padded(count * shape.padded);
  std::fill_n(padded.data(), count * shape.padded, 0.0);
  const double scale = unit_scale(largest(costs, count * count));  // sums of them do not overflow
  for (int64_t i = 0; i < count; ++i)
    for (int64_t j = 0; j < count; ++j) padded.data()[i * shape.padded + j] = costs[i * count + j] * scale;
  AssignSpace<double> scratch = space.fresh(count);
  scratch.costs = padded.data();
  std::fill_n(scratch.known, count, true);
  std::fill_n(space.duals(), count, 0.0);
  if (kernels.exact({nullptr, nullptr, count, 1, shape.padded, shape.tile, 1.0, space.duals(), false, nullptr,
                     space.match(), scratch}))
    std::copy_n(space.match(), count, match);
  else
    std::iota(match, match + count, 0);
}

#define CBK_INSTANTIATE(T) \
  template double largest(const T*, int64_t); \
  template void assign(const AssignProblem<T>&, const int64_t*, int64_t, int); \
  template void wasserstein2(const T*, int64_t, const T*, int64_t, int64_t, int64_t, double, double*, int);
CBK_INSTANTIATE(float)
CBK_INSTANTIATE(double)
#undef CBK_INSTANTIATE

}  // namespace cbk
