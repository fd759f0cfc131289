// Shortest augmenting paths for one particle, compiled once per instruction set.
#include "../common/philox.hpp"
#include "transport.hpp"

namespace cbk::CBK_ISA {
namespace {

constexpr double infinity = __builtin_inf();
constexpr int64_t nobody = -1;

template <class E, int count>
struct Pack {
  typedef E type __attribute__((vector_size(count * sizeof(E))));
};

template <int count, class E, class V>
CBK_INLINE E least(V v) {
  if constexpr (count == 2) {
    return v[0] < v[1] ? v[0] : v[1];
  } else {
    typename Pack<E, count / 2>::type half[2];
    std::memcpy(half, &v, sizeof v);
    return least<count / 2, E>(half[0] < half[1] ? half[0] : half[1]);
  }
}
CBK_INLINE double least(F64 v) { return least<lanes<double>, double>(v); }
CBK_INLINE int64_t least(I64 v) { return least<lanes<double>, int64_t>(v); }

// The least and the second least reduced cost of a row; equal where two columns tie.
struct Best {
  double first, second;
  int64_t column;  // the lowest index of the least
};

CBK_INLINE Best best_of(const double* row, const double* duals, int64_t padded) {
  F64 best = splat<F64>(infinity), next = best;
  I64 at{}, index;
  for (int i = 0; i < lanes<double>; ++i) index[i] = i;
  for (int64_t j = 0; j < padded; j += lanes<double>) {
    const F64 h = load(row + j) - load(duals + j);
    const I64 better = h < best;
    next = min(next, better ? best : h);
    at = better ? index : at;
    best = better ? h : best;
    index += lanes<double>;
  }
  const double first = least(best);
  const I64 equal = best == splat<F64>(first);
  const int64_t column = least(equal ? at : I64{} + INT64_MAX);
  return {first, least((equal & (at == I64{} + column)) ? next : best), column};
}

// rows[r][j] = |x_r - y_j|^2 for `count` rows.  No fma: the baseline set has none, and its matches are everyone's.
template <int count>
void cost_rows(const double* x, int64_t size, const double* y, int64_t padded, double* rows) {
  for (int64_t j = 0; j < padded; j += lanes<double>) {
    F64 total[count] = {};
    for (int64_t k = 0; k < size; ++k) {
      const F64 at = load(y + k * padded + j);
#pragma GCC unroll 4
      for (int r = 0; r < count; ++r) {
        const F64 d = splat<F64>(x[r * size + k]) - at;
        total[r] += d * d;
      }
    }
    for (int r = 0; r < count; ++r) store(rows + r * padded + j, total[r]);
  }
}

template <class T>
class Assignment {
 public:
  explicit Assignment(const AssignTask<T>& task) : task_(task), space_(task.space), duals_(task.duals) {}

  void solve() {
    take_best();
    for (int sweep = 0; sweep < 2 && waiting_ > 0; ++sweep) reduce_rows();
    std::memcpy(space_.open, duals_, size_t(task_.padded) * sizeof(double));
    for (int64_t k = 0; k < waiting_; ++k) augment(space_.waiting[k]);
  }

 private:
  // Costs of rows [first, first + count), kept where there is a matrix.
  const double* compute(int64_t first, int64_t count) {
    double* to = space_.matrix ? space_.matrix + first * task_.padded : space_.rows;
    if (!task_.atoms) return to;
    for (int64_t i = 0; i < count * task_.size; ++i)
      space_.scaled[i] = double(task_.atoms[first * task_.size + i]) * task_.scale;
    if (count == assign_block)
      cost_rows<assign_block>(space_.scaled, task_.size, task_.support, task_.padded, to);
    else
      for (int64_t r = 0; r < count; ++r)
        cost_rows<1>(space_.scaled + r * task_.size, task_.size, task_.support, task_.padded, to + r * task_.padded);
    return to;
  }

  const double* row(int64_t i) { return space_.matrix ? space_.matrix + i * task_.padded : compute(i, 1); }

  // Every row takes its cheapest column where that is free; a guess that is as cheap goes first.
  void take_best() {
    for (int64_t j = 0; j < task_.padded; ++j) space_.row_of[j] = nobody;
    waiting_ = 0;
    for (int64_t first = 0; first < task_.count; first += assign_block) {
      const int64_t left = task_.count - first, count = left < assign_block ? left : assign_block;
      const double* costs = compute(first, count);
      for (int64_t r = 0; r < count; ++r) {
        const double* c = costs + r * task_.padded;
        const int64_t i = first + r, guess = task_.match[i];
        const Best best = best_of(c, duals_, task_.padded);
        int64_t j = best.column;
        if (guess >= 0 && c[guess] - duals_[guess] == best.first && space_.row_of[guess] == nobody)
          j = guess;
        else if (space_.row_of[j] != nobody && best.first == best.second)
          j = free_tie(c, best.first, j);
        task_.match[i] = nobody;
        if (space_.row_of[j] == nobody)
          take(i, j);
        else
          space_.waiting[waiting_++] = int32_t(i);
      }
    }
  }

  // A free column that costs as much as `column` does, or `column`.
  int64_t free_tie(const double* c, double cost, int64_t column) const {
    for (int64_t j = 0; j < task_.count; ++j)
      if (space_.row_of[j] == nobody && c[j] - duals_[j] == cost) return j;
    return column;
  }

  void take(int64_t i, int64_t j) {
    task_.match[i] = int32_t(j);
    space_.row_of[j] = int32_t(i);
  }

  // Augmenting row reduction: a waiting row takes its cheapest column, whose price falls until its second choice is as
  // cheap; who stood there goes next.  Steps are counted: rounding may leave a price as it was, for ever.
  void reduce_rows() {
    const int64_t rows = waiting_, limit = 4 * task_.count;
    int64_t next = 0, steps = 0;
    waiting_ = 0;
    while (next < rows && steps++ < limit) {
      const int64_t i = space_.waiting[next++];
      const double* c = row(i);
      const Best best = best_of(c, duals_, task_.padded);
      int64_t j = best.column;
      const double price = duals_[j] - (best.second - best.first);
      const bool falls = price < duals_[j] && best.second < infinity;
      if (!falls && space_.row_of[j] != nobody) j = free_tie(c, best.first, j);
      const int64_t other = space_.row_of[j];
      if (other != nobody && !falls) {
        space_.waiting[waiting_++] = int32_t(i);
        continue;
      }
      if (falls) duals_[j] = price;
      take(i, j);
      if (other == nobody) continue;
      task_.match[other] = nobody;
      space_.waiting[--next] = int32_t(other);
    }
    while (next < rows) space_.waiting[waiting_++] = space_.waiting[next++];
  }

  // Lowers distances to what they are through row i; the least of all that are open.
  double relax(int64_t i, const double* c, double shift) {
    F64 best = splat<F64>(infinity);
    const F64 by = splat<F64>(shift);
    const I64 from = I64{} + i;
    for (int64_t j = 0; j < task_.padded; j += lanes<double>) {
      const F64 h = (load(c + j) - load(space_.open + j)) + by, d = load(space_.distance + j);
      const I64 better = h < d;
      const F64 now = better ? h : d;
      store(space_.distance + j, now);
      store(space_.parent + j, better ? from : load(space_.parent + j));
      best = min(best, now);
    }
    return least(best);
  }

  // Open columns at this distance join the scanned; returns one that is free, the lowest, or nobody.
  int64_t collect(double distance) {
    for (int64_t j = 0; j < task_.count; ++j) {
      if (space_.distance[j] != distance) continue;
      if (space_.row_of[j] == nobody) return j;
      space_.scanned[scanned_++] = int32_t(j);
    }
    return nobody;
  }

  int64_t free_at(double distance) const {
    for (int64_t j = 0; j < task_.count; ++j)
      if (space_.distance[j] == distance && space_.row_of[j] == nobody) return j;
    return nobody;
  }

  // Dijkstra over reduced costs from row `start` to the nearest free column.  A scanned column leaves the race: its
  // distance becomes infinite and its price in `open` minus infinity.
  void augment(int64_t start) {
    for (int64_t j = 0; j < task_.padded; ++j) space_.distance[j] = infinity;
    scanned_ = 0;
    double next = relax(start, row(start), 0), level = next;
    int64_t end = nobody;
    while (end == nobody) {
      if (next > level) level = next;
      const int64_t first = scanned_;
      end = collect(next);
      if (end != nobody) scanned_ = first;
      for (int64_t s = first; s < scanned_; ++s) {
        const int64_t j = space_.scanned[s];
        space_.reached[s] = level;
        space_.distance[j] = infinity, space_.open[j] = -infinity;
      }
      for (int64_t s = first; s < scanned_ && end == nobody; ++s) {
        const int64_t j = space_.scanned[s], i = space_.row_of[j];
        const double* c = row(i);
        next = relax(i, c, level - (c[j] - duals_[j]));
        if (next <= level) end = free_at(next);
      }
    }
    for (int64_t s = 0; s < scanned_; ++s) {
      const int64_t j = space_.scanned[s];
      space_.open[j] = duals_[j] += space_.reached[s] - level;
    }
    for (int64_t i = nobody, j = end; i != start;) {
      i = space_.parent[j];
      const int64_t left = task_.match[i];
      take(i, j);
      j = left;
    }
  }

  const AssignTask<T>& task_;
  const AssignSpace& space_;
  double* duals_;
  int64_t waiting_ = 0, scanned_ = 0;
};

template <class T>
void assign(const AssignTask<T>& task) {
  Assignment<T>(task).solve();
}

template <class T>
void update(const T* x, const T* y, T* out, int64_t begin, int64_t count, T a, T b, NoiseKey key, uint32_t particle) {
  using V = Vector<T>;
  const Counter counter{key.seed, key.stream, key.step, key.first_particle + particle};
  for (int64_t i = 0; i < count; i += noise_block) {
    V z[noise_block / lanes<T>];
    normals(counter, uint32_t((begin + i) / 4), z);
    T block[2][noise_block] = {};
    const int64_t left = count - i;
    const size_t bytes = size_t(left < noise_block ? left : noise_block) * sizeof(T);
    std::memcpy(block[0], x + i, bytes), std::memcpy(block[1], y + i, bytes);
    for (int j = 0; j < noise_block / lanes<T>; ++j) {
      T* at = block[0] + j * lanes<T>;
      const V from = load(at), delta = from - load(block[1] + j * lanes<T>);
      store(at, fma(splat<V>(b), z[j], fma(splat<V>(a), delta, from)));
    }
    std::memcpy(out + i, block[0], bytes);
  }
}

}  // namespace

template <class T>
TransportKernels<T> transport_kernels() {
  return {assign<T>, update<T>, lanes<double>};
}
template TransportKernels<float> transport_kernels();
template TransportKernels<double> transport_kernels();

}  // namespace cbk::CBK_ISA
