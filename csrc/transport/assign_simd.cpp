// Shortest augmenting paths for one particle, compiled once per instruction set.
#include "../common/philox.hpp"
#include "transport.hpp"

namespace cbk::CBK_ISA {
namespace {

constexpr int32_t nobody = -1;

template <class E, int count>
struct Pack {
  typedef E type __attribute__((vector_size(count * sizeof(E))));
};

// The least lane.
template <int count, class E, class V>
CBK_INLINE E least_of(V v) {
  if constexpr (count == 2) {
    return v[0] < v[1] ? v[0] : v[1];
  } else {
    typename Pack<E, count / 2>::type half[2];
    std::memcpy(half, &v, sizeof v);
    return least_of<count / 2, E>(half[0] < half[1] ? half[0] : half[1]);
  }
}
template <class E>
CBK_INLINE E least(Vector<E> v) {
  return least_of<lanes<E>, E>(v);
}

// costs[r][.] at columns [j, j + lanes) for `count` rows.  No fma: the baseline set has none, and its matches are
// everyone's.
template <int count, class C>
CBK_INLINE void cost_block(const C* x, int64_t size, const C* y, int64_t padded, int64_t j, Vector<C> (&costs)[count]) {
  for (int r = 0; r < count; ++r) costs[r] = Vector<C>{};
#pragma GCC unroll 4
  for (int64_t k = 0; k < size; ++k) {
    const Vector<C> at = load(y + k * padded + j);
#pragma GCC unroll 4
    for (int r = 0; r < count; ++r) {
      const Vector<C> d = splat<Vector<C>>(x[r * size + k]) - at;
      costs[r] += d * d;
    }
  }
}

template <class T, class C>
class Assignment {
  using V = Vector<C>;
  using I = Int<V>;
  using Index = typename AssignSpace<C>::Index;
  static constexpr C infinity = C(__builtin_inf());

  struct Nearest {
    C distance;
    int64_t column;
  };

 public:
  explicit Assignment(const AssignTask<T, C>& task) : task_(task), space_(task.space), duals_(task.duals) {}

  bool solve() {
    for (int64_t j = 0; j < task_.padded; ++j) space_.row_of[j] = nobody;
    if (task_.atoms) keep_guesses();
    if (task_.atoms && waiting_ == 0) return true;
    if (task_.cold && 2 * waiting_ > task_.count) {
      align_means();
      waiting_ = 0;
    }
    if (waiting_ == 0) {
      for (int64_t j = 0; j < task_.padded; ++j) space_.row_of[j] = nobody;
      for (int64_t i = 0; i < task_.count; ++i) wait(i);
    }
    std::memcpy(space_.open, duals_, size_t(task_.padded) * sizeof(C));
    for (int64_t k = 0; k < waiting_; ++k) augment(space_.waiting[k]);
    return false;
  }

  double gap() {
    double total = 0;
    C cheapest[assign_block];
    for (int64_t first = 0; first < task_.count; first += assign_block) {
      const int64_t count = cheapest_of(first, cheapest);
      for (int64_t r = 0; r < count; ++r) total += double(reduced(r, task_.match[first + r]) - cheapest[r]);
    }
    return total;
  }

 private:
  // Atoms [first, first + count) as C, scaled.
  void scale_rows(int64_t first, int64_t count) {
    for (int64_t i = 0; i < count * task_.size; ++i)
      space_.scaled[i] = C(double(task_.atoms[first * task_.size + i]) * task_.scale);
  }

  const C* row(int64_t i) {
    C* to = space_.costs ? space_.costs + i * task_.padded : space_.row;
    if (space_.costs && space_.known[i]) return to;
    scale_rows(i, 1);
    switch (task_.size) {  // the usual sizes, unrolled
      case 2: cost_row(2, to); break;
      case 3: cost_row(3, to); break;
      case 4: cost_row(4, to); break;
      default: cost_row(task_.size, to);
    }
    if (space_.costs) space_.known[i] = true;
    return to;
  }

  CBK_INLINE void cost_row(int64_t size, C* to) const {
    const C *x = space_.scaled, *y = task_.support;
    const int64_t padded = task_.padded;
    for (int64_t j = 0; j < padded; j += lanes<C>) {
      V costs[1];
      cost_block(x, size, y, padded, j, costs);
      store(to + j, costs[0]);
    }
  }

  // Reduced cost of the pair, for a row that scale_rows has left at r: the bits that the vectors give.
  C reduced(int64_t r, int64_t j) const {
    C cost = 0;
    for (int64_t k = 0; k < task_.size; ++k) {
      const C d = space_.scaled[r * task_.size + k] - task_.support[k * task_.padded + j];
      cost += d * d;
    }
    return cost - duals_[j];
  }

  // Least reduced costs of up to assign_block rows; how many.
  int64_t cheapest_of(int64_t first, C (&cheapest)[assign_block]) {
    const int64_t left = task_.count - first, count = left < assign_block ? left : assign_block;
    scale_rows(first, count);
    for (int64_t i = count * task_.size; i < assign_block * task_.size; ++i) space_.scaled[i] = 0;
    V best[assign_block];
    switch (task_.size) {
      case 2: cheapest_block(2, best); break;
      case 3: cheapest_block(3, best); break;
      case 4: cheapest_block(4, best); break;
      default: cheapest_block(task_.size, best);
    }
    for (int r = 0; r < assign_block; ++r) cheapest[r] = least<C>(best[r]);
    return count;
  }

  CBK_INLINE void cheapest_block(int64_t size, V (&best)[assign_block]) const {
    const C *x = space_.scaled, *y = task_.support, *duals = duals_;
    const int64_t padded = task_.padded;
    for (V& b : best) b = splat<V>(infinity);
    for (int64_t j = 0; j < padded; j += lanes<C>) {
      V costs[assign_block];
      cost_block(x, size, y, padded, j, costs);
      const V price = load(duals + j);
#pragma GCC unroll 4
      for (int r = 0; r < assign_block; ++r) best[r] = min(best[r], costs[r] - price);
    }
  }

  // Prices v_j = 2 (mean y - mean x) . (y_j - mean y): exact for measures that are translates of each other.
  void align_means() {
    const double unit = 1 / double(task_.count);
    for (int64_t j = 0; j < task_.count; ++j) duals_[j] = 0;
    for (int64_t k = 0; k < task_.size; ++k) {
      const C* y = task_.support + k * task_.padded;
      double x_mean = 0, y_mean = 0;
      for (int64_t i = 0; i < task_.count; ++i) x_mean += double(task_.atoms[i * task_.size + k]);
      for (int64_t j = 0; j < task_.count; ++j) y_mean += double(y[j]);
      x_mean *= task_.scale * unit, y_mean *= unit;
      for (int64_t j = 0; j < task_.count; ++j)
        duals_[j] += C(2 * (y_mean - x_mean) * (double(y[j]) - y_mean));
    }
  }

  // Rows whose guess is a cheapest column keep it.
  void keep_guesses() {
    C cheapest[assign_block];
    for (int64_t first = 0; first < task_.count; first += assign_block) {
      const int64_t count = cheapest_of(first, cheapest);
      for (int64_t r = 0; r < count; ++r) {
        const int64_t guess = task_.match[first + r];
        if (reduced(r, guess) == cheapest[r])
          take(first + r, guess);
        else
          wait(first + r);
      }
    }
  }

  void take(int64_t i, int64_t j) {
    task_.match[i] = int32_t(j);
    space_.row_of[j] = int32_t(i);
  }

  void wait(int64_t i) {
    task_.match[i] = nobody;
    space_.waiting[waiting_++] = int32_t(i);
  }

  // Lowers distances to what they are through row i; the nearest column of all that are open.
  Nearest relax(int64_t i, const C* c, C shift) {
    const C* const open = space_.open;
    C* const distance = space_.distance;
    Index* const parent = space_.parent;
    const int64_t padded = task_.padded;
    const V by = splat<V>(shift);
    const I from = I{} + Index(i);
    V best = splat<V>(infinity);
    I at{}, index;
    for (int l = 0; l < lanes<C>; ++l) index[l] = l;
#pragma GCC unroll 2
    for (int64_t j = 0; j < padded; j += lanes<C>) {
      const V h = (load(c + j) - load(open + j)) + by, d = load(distance + j);
      const I closer = h < d;
      const V now = closer ? h : d;
      store(distance + j, now);
      store(parent + j, closer ? from : load(parent + j));
      const I nearer = now < best;
      at = nearer ? index : at;
      best = nearer ? now : best;
      index += lanes<C>;
    }
    const C nearest = least<C>(best);
    return {nearest, least<Index>(best == splat<V>(nearest) ? at : I{} + Index(padded))};
  }

  // A free column that is as near, or the nearest itself.
  int64_t free_at(Nearest nearest) const {
    for (int64_t j = nearest.column; j < task_.count; ++j)
      if (space_.distance[j] == nearest.distance && space_.row_of[j] == nobody) return j;
    return nearest.column;
  }

  // Dijkstra over reduced costs from row `start` to the nearest free column.  A scanned column leaves the race: its
  // distance becomes infinite and its price in `open` minus infinity.
  void augment(int64_t start) {
    for (int64_t j = 0; j < task_.padded; ++j) space_.distance[j] = infinity;
    Nearest next = relax(start, row(start), 0);
    C level = next.distance;
    int64_t scanned = 0, ties = 0;
    while (space_.row_of[next.column] != nobody) {
      const int64_t j = next.column, i = space_.row_of[j];
      space_.scanned[scanned] = int32_t(j), space_.reached[scanned++] = level;
      space_.distance[j] = infinity, space_.open[j] = -infinity;
      const C* c = row(i);
      next = relax(i, c, level - (c[j] - duals_[j]));
      if (next.distance > level)
        level = next.distance, ties = 0;
      else if (++ties % 8 == 0)  // equal atoms make plateaus, where a free column is looked for
        next.column = free_at(next);
    }
    for (int64_t s = 0; s < scanned; ++s) {
      const int64_t j = space_.scanned[s];
      space_.open[j] = duals_[j] += space_.reached[s] - level;
    }
    int64_t i, j = next.column;
    do {
      i = space_.parent[j];
      const int64_t left = task_.match[i];
      take(i, j);
      j = left;
    } while (i != start);
  }

  const AssignTask<T, C>& task_;
  const AssignSpace<C>& space_;
  C* duals_;
  int64_t waiting_ = 0;
};

template <class T, class C>
bool solve(const AssignTask<T, C>& task) {
  return Assignment<T, C>(task).solve();
}

template <class T>
double gap(const AssignTask<T, double>& task) {
  return Assignment<T, double>(task).gap();
}

template <class T, int N>
CBK_INLINE void update_block(const T* x, const T* y, T* out, const Vector<T> (&z)[N], T a, T b) {
#pragma GCC unroll 8
  for (int j = 0; j < N; ++j, x += lanes<T>, y += lanes<T>, out += lanes<T>) {
    const Vector<T> from = load(x);
    store(out, fma(splat<Vector<T>>(b), z[j], fma(splat<Vector<T>>(a), from - load(y), from)));
  }
}

template <class T>
void update(const T* x, const T* y, T* out, int64_t begin, int64_t count, T a, T b, NoiseKey key, uint32_t particle) {
  const Counter counter{key.seed, key.stream, key.step, key.first_particle + particle};
  Vector<T> z[noise_block / lanes<T>] = {};
  int64_t i = 0;
  for (; i + noise_block <= count; i += noise_block) {
    if (b != 0) normals(counter, uint32_t((begin + i) / 4), z);
    update_block(x + i, y + i, out + i, z, a, b);
  }
  if (i == count) return;
  // the last, incomplete block goes through a padded copy
  T from[noise_block] = {}, to[noise_block] = {};
  const size_t bytes = size_t(count - i) * sizeof(T);
  std::memcpy(from, x + i, bytes), std::memcpy(to, y + i, bytes);
  if (b != 0) normals(counter, uint32_t((begin + i) / 4), z);
  update_block(from, to, from, z, a, b);
  std::memcpy(out + i, from, bytes);
}

}  // namespace

template <class T>
TransportKernels<T> transport_kernels() {
  return {solve<T, double>, solve<T, float>, gap<T>, update<T>, lanes<float>};
}
template TransportKernels<float> transport_kernels();
template TransportKernels<double> transport_kernels();

}  // namespace cbk::CBK_ISA
