// Shortest augmenting paths for one particle, compiled once per instruction set.
#include "lists.hpp"

namespace cbk::CBK_ISA {
namespace {

constexpr int32_t nobody = -1;

template <class T, class C>
class Assignment : Lists<T, C> {
  using V = Vector<C>;
  using I = Int<V>;
  using Index = typename AssignSpace<C>::Index;
  static constexpr C infinity = C(__builtin_inf());

  struct Nearest {
    C distance;
    int64_t column;
  };

 public:
  using Lists<T, C>::Lists;

  // False where it cannot be solved, since values are not finite.
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
    for (int64_t k = 0; k < waiting_; ++k)
      if (!augment(space_.waiting[k])) return false;
    return true;
  }

  double gap() {
    double total = 0;
    C cheapest[assign_block];
    const C highest = highest_price();
    this->separate();
    for (int64_t first = 0; first < task_.count; first += assign_block) {
      paced_(assign_block * task_.padded * task_.size);
      if (surely_kept(first, highest)) continue;
      const int64_t count = this->cheapest_of(first, cheapest);
      for (int64_t r = 0; r < count; ++r) total += double(this->reduced(r, task_.match[first + r]) - cheapest[r]);
    }
    return total;
  }

 private:
  // Prices v_j = 2 (mean y - mean x) . (y_j - mean y): exact for measures that are translates of each other.
  void align_means() {
    const double unit = 1 / double(task_.count);
    for (int64_t j = 0; j < task_.count; ++j) duals_[j] = 0;
    for (int64_t k = 0; k < task_.size; ++k) {
      paced_(20 * task_.count);
      double x_mean = 0, y_mean = 0;
      for (int64_t i = 0; i < task_.count; ++i) x_mean += double(task_.atoms[i * task_.size + k]);
      for (int64_t j = 0; j < task_.count; ++j) y_mean += double(this->point(j)[k * task_.tile]);
      x_mean *= task_.scale * unit, y_mean *= unit;
      for (int64_t j = 0; j < task_.count; ++j)
        duals_[j] += C(2 * (y_mean - x_mean) * (double(this->point(j)[k * task_.tile]) - y_mean));
    }
  }

  C highest_price() const {
    V highest = splat<V>(-infinity);
    for (int64_t j = 0; j < task_.padded; j += lanes<C>) highest = max(highest, load(duals_ + j));
    return -least<C>(-highest);
  }

  // Whether a block's matches are its rows' only cheapest columns, and few operations tell.
  bool surely_kept(int64_t first, C highest) const {
    if (!task_.apart) return false;
    const int64_t count = this->rows_from(first);
    this->scale_rows(first, count);
    for (int64_t r = 0; r < count; ++r)
      if (!this->surely_cheapest(r, task_.match[first + r], highest)) return false;
    return true;
  }

  // Rows whose guess is a cheapest column keep it, the first of those that guess the same.
  void keep_guesses() {
    C cheapest[assign_block];
    const C highest = highest_price();
    this->separate();
    for (int64_t first = 0; first < task_.count; first += assign_block) {
      paced_(assign_block * task_.padded * task_.size);
      if (surely_kept(first, highest)) {
        for (int64_t i = first; i < first + this->rows_from(first); ++i) take_if_free(i, task_.match[i]);
        continue;
      }
      const int64_t count = this->cheapest_of(first, cheapest);
      for (int64_t r = 0; r < count; ++r) {
        const int64_t guess = task_.match[first + r];
        if (cheapest[r] < infinity && this->reduced(r, guess) == cheapest[r])
          take_if_free(first + r, guess);
        else
          wait(first + r);
      }
    }
  }

  void take(int64_t i, int64_t j) {
    task_.match[i] = int32_t(j);
    space_.row_of[j] = int32_t(i);
  }

  void take_if_free(int64_t i, int64_t j) { space_.row_of[j] == nobody ? take(i, j) : wait(i); }

  void wait(int64_t i) {
    task_.match[i] = nobody;
    space_.waiting[waiting_++] = int32_t(i);
  }

  // Lowers distances to what they are through the row scanned as number `scan`; the nearest column of all that are
  // open.  Of rows that come equally near the first scanned is the parent, in whichever order they are relaxed.
  template <bool late>
  Nearest relax(int64_t scan, const C* c, C shift) {
    const C* const open = space_.open;
    C* const distance = space_.distance;
    Index* const parent = space_.parent;
    const int64_t padded = task_.padded;
    const V by = splat<V>(shift);
    const I from = I{} + Index(scan);
    V best = splat<V>(infinity);
    I at{}, index;
    for (int l = 0; l < lanes<C>; ++l) index[l] = l;
#pragma GCC unroll 2
    for (int64_t j = 0; j < padded; j += lanes<C>) {
      const V h = (load(c + j) - load(open + j)) + by, d = load(distance + j);
      const I before = load(parent + j);
      I closer = h < d;
      if constexpr (late) closer |= (h == d) & (from < before) & (h < splat<V>(infinity));  // scanned: infinite
      const V now = closer ? h : d;
      store(distance + j, now);
      store(parent + j, closer ? from : before);
      const I nearer = now < best;
      at = nearer ? index : at;
      best = nearer ? now : best;
      index += lanes<C>;
    }
    const C nearest = least<C>(best);
    return {nearest, least<Index>(best == splat<V>(nearest) ? at : I{} + Index(padded))};
  }

  void relax_list(int64_t scan, int64_t i, C shift) {
    const AssignLists<C>& list = space_.list;
    for (int64_t e = i * list.most; e < i * list.most + list.length[i]; ++e) {
      const int64_t j = list.column[e];
      const C h = (list.cost[e] - space_.open[j]) + shift;
      if (h < space_.distance[j]) space_.distance[j] = h, space_.parent[j] = Index(scan);
    }
  }

  Nearest nearest() const {
    V best = splat<V>(infinity);
    I at{}, index;
    for (int l = 0; l < lanes<C>; ++l) index[l] = l;
    for (int64_t j = 0; j < task_.padded; j += lanes<C>) {
      const V d = load(space_.distance + j);
      const I nearer = d < best;
      at = nearer ? index : at;
      best = nearer ? d : best;
      index += lanes<C>;
    }
    const C nearest = least<C>(best);
    return {nearest, least<Index>(best == splat<V>(nearest) ? at : I{} + Index(task_.padded))};
  }

  // Scans row i, whose column j left the race at `level`; the first row has none.
  CBK_INLINE Nearest scan(int64_t number, int64_t i, int64_t j, C level) {
    if (this->used()) return scan_list(number, i, j, level);
    const C* c = this->row(i);
    return relax<false>(number, c, j < 0 ? 0 : level - (c[j] - duals_[j]));
  }

  // The same by the row's list, and by all columns of those rows whose lists may lack the nearest.
  Nearest scan_list(int64_t number, int64_t i, int64_t j, C level) {
    const AssignLists<C>& list = space_.list;
    this->need(i);
    const C shift = j < 0 ? 0 : level - (this->at(i, j) - duals_[j]);
    relax_list(number, i, shift);
    list.shift[number] = shift, list.limit[number] = list.bound[i] + shift;
    Nearest next = nearest();
    for (int64_t first; list.limit[first = least_limit(number)] <= next.distance;) {
      if (list.limit[first] == infinity) break;  // all are complete, and no column is near
      paced_(task_.size * task_.padded);
      next = complete(first);
    }
    return next;
  }

  // The scanned row whose missing columns may be the nearest.
  int64_t least_limit(int64_t last) const {
    int64_t first = 0;
    for (int64_t s = 1; s <= last; ++s)
      if (space_.list.limit[s] < space_.list.limit[first]) first = s;
    return first;
  }

  // Relaxes all columns of a scanned row, and makes its list anew.
  Nearest complete(int64_t number) {
    const int64_t i = scanned_row(number);
    const C* c = this->row(i);
    space_.list.limit[number] = infinity;
    const Nearest next = relax<true>(number, c, space_.list.shift[number]);
    this->make(i, c);
    return next;
  }

  int64_t scanned_row(int64_t number) const { return number ? space_.row_of[space_.scanned[number - 1]] : start_; }

  // A free column that is as near, or the nearest itself.
  int64_t free_at(Nearest nearest) const {
    for (int64_t j = nearest.column; j < task_.count; ++j)
      if (space_.distance[j] == nearest.distance && space_.row_of[j] == nobody) return j;
    return nearest.column;
  }

  // Dijkstra over reduced costs from row `start` to the nearest free column.  A scanned column leaves the race: its
  // distance becomes infinite and its price in `open` minus infinity.  False where no column has a finite distance: the
  // index of the nearest then means nothing.
  bool augment(int64_t start) {
    for (int64_t j = 0; j < task_.padded; ++j) space_.distance[j] = infinity;
    start_ = start;
    Nearest next = scan(0, start, nobody, 0);
    C level = next.distance;
    int64_t scanned = 0, ties = 0;
    while (next.distance < infinity && space_.row_of[next.column] != nobody) {
      const int64_t j = next.column, i = space_.row_of[j];
      space_.scanned[scanned] = int32_t(j), space_.reached[scanned++] = level;
      space_.distance[j] = infinity, space_.open[j] = -infinity;
      paced_((task_.size + 4) * task_.padded);
      next = scan(scanned, i, j, level);
      if (next.distance > level)
        level = next.distance, ties = 0;
      else if (++ties % 8 == 0)  // equal atoms make plateaus, where a free column is looked for
        next.column = free_at(next);
    }
    if (!(next.distance < infinity)) return false;
    for (int64_t s = 0; s < scanned; ++s) {
      const int64_t j = space_.scanned[s];
      space_.open[j] = duals_[j] += space_.reached[s] - level;
    }
    int64_t i, j = next.column;
    do {
      i = scanned_row(space_.parent[j]);
      const int64_t left = task_.match[i];
      take(i, j);
      j = left;
    } while (i != start);
    return true;
  }

  using Lists<T, C>::task_;
  using Lists<T, C>::space_;
  using Lists<T, C>::duals_;
  int64_t waiting_ = 0, start_ = 0;
  Paced paced_;
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
  NoiseRow<T> noise({key.seed, key.stream, key.step, key.first_particle + particle}, begin, count);
  Vector<T> z[noise_block / lanes<T>] = {};
  int64_t i = 0;
  for (; i + noise_block <= count; i += noise_block) {
    if (b != 0) noise.next(z);
    update_block(x + i, y + i, out + i, z, a, b);
  }
  if (i == count) return;
  // the last, incomplete block goes through a padded copy
  T from[noise_block] = {}, to[noise_block] = {};
  const size_t bytes = size_t(count - i) * sizeof(T);
  std::memcpy(from, x + i, bytes), std::memcpy(to, y + i, bytes);
  if (b != 0) noise.next(z);
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
