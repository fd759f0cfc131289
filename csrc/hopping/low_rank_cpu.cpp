#include "low_rank.hpp"

#include <omp.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "../common/isa.hpp"
#include "../risk/packing.hpp"
#include "blocks.hpp"

namespace cbk {
namespace {

constexpr int64_t drawn_numbers = int64_t(1) << 18;  // of draws kept at a time
constexpr int64_t chunk_bytes = int64_t(2) << 20;    // of a chunk's lines
constexpr int64_t rows_together = 24;

// As many draws as there are in whole groups of those that are scored together, or in parts of a group that it is
// divided into: last bits of risks depend on the group.
int64_t whole_groups(int64_t draws) {
  int64_t group = draws_together;
  while (group > draws) group /= 2;
  return draws / group * group;
}

// X X^T + ridge = U^T U, U = L^T, and what follows from it.
template <class T>
class Span {
 public:
  // packed: room for the batch in whole panels, which is packed here.
  Span(const RiskProblem<T>& problem, const LowRankKernels<T>& kernels, T* packed, int64_t panel, int num_threads)
      : size_(problem.samples),
        stride_(round_up(size_, 2 * isa_table().low_rank<double>().lanes)),
        upper_(stride_ * stride_),
        inverse_(size_ * stride_) {
    multiply(problem, kernels, packed, panel, num_threads);
    double ridge = 0;
    for (int64_t i = 0; i < size_; ++i) ridge += 1e-6 / double(size_) * upper_.data()[i * (stride_ + 1)];
    for (int64_t i = 0; i < size_; ++i) upper_.data()[i * (stride_ + 1)] += ridge;
    positive_ = kernels.cholesky(upper_.data(), size_, stride_);
    if (positive_) subtract(ridge, kernels, num_threads);
  }

  bool positive() const { return positive_; }
  // out [rows][stride] = sums [rows][size] L^-1.
  void along_samples(const double* sums, int64_t rows, double* out, int num_threads) {
    const LowRankKernels<double>& kernels = isa_table().low_rank<double>();
    const int64_t panel = 2 * kernels.lanes, panels = stride_ / panel, parts = divide_up(rows, rows_together);
    const int threads = thread_count(num_threads, panels * parts, nanoseconds(0.05, rows, size_, size_));
    parallel_for(panels * parts, threads, [&](int64_t task) {
      const int64_t i = task / parts * panel, first = task % parts * rows_together;
      kernels.product(sums + first * size_ + i, size_, std::min(rows_together, rows - first), size_ - i,
                      inverse_.data() + i * (stride_ + 1), stride_, out + first * stride_ + i, stride_);
    });
  }
  int64_t stride() const { return stride_; }

  // What e is to be multiplied with for the samples from `first` on, in panels.
  void pack_along(int64_t first, int64_t count, int64_t panel, T* packed) {
    for (int64_t s0 = 0; s0 < count; s0 += panel)
      for (int64_t j = 0; j < size_; ++j)
        for (int64_t s = s0; s < s0 + panel; ++s, ++packed)
          *packed = s < count ? T(upper_.data()[j * stride_ + first + s]) : T(0);
  }

 private:
  void multiply(const RiskProblem<T>& problem, const LowRankKernels<T>& kernels, T* packed, int64_t width,
                int num_threads) {
    const int64_t inputs = problem.net.inputs, panel = 2 * isa_table().low_rank<double>().lanes;
    const int64_t panels = stride_ / panel, wide = divide_up(size_, width);
    Buffer<double> x(wide * width * inputs);
    std::fill_n(upper_.data(), stride_ * stride_, 0.0);
    const int threads = thread_count(num_threads, panels, nanoseconds(0.05, size_, size_, inputs));
    parallel_for(wide, threads, [&](int64_t i) {
      const int64_t first = i * width;
      T* const own = packed + first * inputs;
      pack(problem.x + first * inputs, std::min(size_ - first, width), inputs, width, own);
      for (int64_t part = 0; part < width; part += panel)
        for (int64_t k = 0; k < inputs; ++k)
          std::copy_n(own + k * width + part, panel, x.data() + (first + part) * inputs + k * panel);
    });
    parallel_for(panels * panels, threads, [&](int64_t task) {
      const int64_t i = task / panels, j = task % panels;
      if (i <= j)
        kernels.gram(x.data() + i * panel * inputs, x.data() + j * panel * inputs, inputs, size_ - j * panel,
                     upper_.data() + i * panel * stride_ + j * panel, stride_);
    });
  }

  // With the ridge X b is L e only nearly: exactly, e times X X^T L^-T = L^T - ridge L^-1.
  void subtract(double ridge, const LowRankKernels<T>& kernels, int num_threads) {
    Buffer<double> lower(size_ * stride_);
    for (int64_t i = 0; i < size_; ++i)
      for (int64_t j = 0; j <= i; ++j) lower.data()[i * stride_ + j] = upper_.data()[j * stride_ + i];
    const int threads = thread_count(num_threads, size_, nanoseconds(0.1, size_, size_, size_));
    parallel_for(size_, threads, [&](int64_t i) {
      double *row = inverse_.data() + i * stride_, *to = upper_.data() + i * stride_;
      std::fill_n(row, stride_, 0.0);
      row[i] = 1;
      kernels.solve(lower.data(), i + 1, stride_, row);
      for (int64_t j = 0; j <= i; ++j) to[j] = (j < i ? 0 : to[j]) - ridge * row[j];
    });
  }

  int64_t size_, stride_;
  Buffer<double> upper_, inverse_;  // at last L^T - ridge L^-1, and L^-1
  bool positive_ = false;
};

// One step's batch and draws.
template <class T>
class Step {
 public:
  Step(const RiskProblem<T>& problem, const LowRank& noise, bool atoms, int num_threads)
      : problem_(problem),
        net_(problem.net),
        rank_(noise.rank),
        atoms_(atoms),
        num_threads_(num_threads),
        kernels_(isa_table().low_rank<T>()),
        panel_(2 * kernels_.lanes) {
    packed_ = noise.batch && problem.samples < net_.inputs;
    if (packed_) {
      x_.emplace(round_up(problem.samples, panel_) * net_.inputs);
      span_.emplace(problem, kernels_, x_->data(), panel_, num_threads);
      if (!span_->positive()) span_.reset();
    }
    length_ = span_ ? problem.samples : net_.inputs;
    const int64_t lines = net_.inputs + length_ + 2 * net_.width + 3 * net_.outputs + 3;
    chunk_ = std::min(round_up(std::max(chunk_bytes / int64_t(sizeof(T)) / lines, int64_t(1)), panel_),
                      round_up(problem.samples, panel_));
    rest_size_ = net_.size() - net_.biases();
    const int64_t drawn = rank_ * (length_ + chunk_ + net_.width) + rest_size_;
    const int64_t fold = problem.draw->mirrored ? 2 : 1;
    most_ = std::clamp(drawn_numbers / drawn, int64_t(1), divide_up(problem.draw->particles, fold));
    if (most_ < divide_up(problem.draw->particles, fold)) most_ = whole_groups(most_);
    if (!packed_) x_.emplace(chunk_ * net_.inputs);
    lines_.emplace(chunk_ * (2 * net_.width + 3 * net_.outputs + 3));
    labels_.emplace(chunk_);
    if (span_) along_map_.emplace(chunk_ * length_);
    if (atoms && problem.loss.kind == LossKind::cross_entropy)
      across_.emplace(round_up(most_, kernels_.lanes) * rank_ * chunk_);
    numbers_.emplace(most_ * drawn);
    factor_ = numbers_->data(), direction_ = factor_ + most_ * rank_ * net_.width;
    along_ = direction_ + most_ * rank_ * length_, rest_ = along_ + most_ * rank_ * chunk_;
  }

  bool spanned() const { return span_.has_value(); }

  // Risks [particles, columns] of a block of draws.
  void score(const Draw<T>& block, double* risks) {
    const int64_t columns = atoms_ ? net_.width : 1, fold = block.mirrored ? 2 : 1, draws = block.particles / fold;
    std::fill_n(risks, block.particles * columns, 0.0);
    for (int64_t first = 0; first < problem_.samples; first += chunk_) {
      prepare(block.center, first);
      for (int64_t n = 0; n < draws; n += most_) {
        const int64_t count = std::min(most_, draws - n);
        draw(block, n, count);
        put_along(count);
        add_losses(block, count, risks + n * fold * columns);
      }
    }
    for (int64_t i = 0; i < block.particles * columns; ++i) risks[i] /= double(problem_.samples);
  }

  // The risks of a block of pairs become the weights that fit their differences.
  Weighed fit(const Draw<T>& block, double* risks, double* ess) {
    const int64_t draws = block.particles / 2, width = net_.width;
    if (draws > most_) return fit_weights<T>(net_, rank_, length_, block.key, draws, risks, ess, num_threads_);
    draw(block, 0, draws);
    const Weighed weighed = take_differences(draws, width, risks, ess);
    fit_differences(net_, at_hand(draws), risks, num_threads_);
    return weighed;
  }

  // out [size]: the sum of weights [draws, columns] times the draws' noise.
  void drift(const Draw<T>& block, const double* weights, int64_t draws, double* out) {
    const int64_t columns = atoms_ ? net_.width : 1;
    Buffer<double> sums(net_.width * length_);
    double* rest = out + net_.biases();
    std::fill_n(sums.data(), net_.width * length_, 0.0);
    std::fill_n(rest, rest_size_, 0.0);
    for (int64_t n = 0; n < draws; n += most_) {
      const int64_t count = std::min(most_, draws - n);
      draw(block, n, count);
      add_weighted(weights + n * columns, count, sums.data(), rest);
    }
    if (span_)
      along_inputs(sums.data(), out);
    else
      std::copy_n(sums.data(), net_.width * length_, out);
  }

 private:
  int threads(int64_t tasks, double work) const { return thread_count(num_threads_, tasks, work); }

  // The centre on the samples from `first` on.
  void prepare(const T* center, int64_t first) {
    if (prepared_ == first) return;
    prepared_ = first;
    const int64_t count = std::min(chunk_, problem_.samples - first), rows = target_columns(net_, problem_.loss);
    padded_ = round_up(count, panel_);
    T* at = lines_->data();
    const auto take = [&](int64_t lines) { return std::exchange(at, at + lines * padded_); };
    T *y = take(rows), *weights = problem_.weights ? take(1) : nullptr;
    center_ = {&net_,
               problem_.loss,
               center,
               count,
               padded_,
               panel_,
               x_->data() + (packed_ ? first * net_.inputs : 0),
               y,
               weights,
               labels_->data(),
               take(net_.width),
               take(net_.width),
               take(net_.outputs),
               take(net_.outputs),
               take(1),
               take(1)};
    const Chunk<T> chunk{first, count, nullptr, y, weights};
    pack_targets(problem_, padded_, chunk);
    if (weights) pack_weights(problem_, weight_scale(problem_), panel_, chunk);
    std::fill_n(labels_->data(), padded_, 0);
    if (problem_.labels) std::copy_n(problem_.labels + first, count, labels_->data());
    if (span_) span_->pack_along(first, count, panel_, along_map_->data());
    const double work = nanoseconds(0.05, padded_, net_.width, net_.inputs + net_.outputs);
    parallel_for(padded_ / panel_, threads(padded_ / panel_, work), [&](int64_t i) {
      const int64_t begin = i * panel_, inputs = net_.inputs;
      if (!packed_)
        pack(problem_.x + (first + begin) * inputs, std::min(count - begin, panel_), inputs, panel_,
             x_->data() + begin * inputs);
      kernels_.center(center_, i);
    });
  }

  // Factors, directions and the rest of draws [first, first + count) of a block.
  void draw(const Draw<T>& block, int64_t first, int64_t count) {
    NoiseKey key = block.key;
    key.first_particle += uint32_t(first);
    if (drawn_ == count && drawn_first_ == key.first_particle) return;
    drawn_ = count, drawn_first_ = key.first_particle;
    draw_noise(net_, at_hand(count), key, num_threads_);
  }

  // The numbers of the first draws of those that are kept.
  DrawnNoise<T> at_hand(int64_t count) const { return {rank_, count, length_, factor_, direction_, rest_}; }

  // X b of the draws at hand.
  void put_along(int64_t count) {
    const int64_t rows = count * rank_, parts = divide_up(rows, rows_together), panels = padded_ / panel_;
    const T* map = span_ ? along_map_->data() : center_.x;
    const double work = nanoseconds(0.05, rows, length_, padded_);
    parallel_for(panels * parts, threads(panels * parts, work), [&](int64_t task) {
      const int64_t i = task / parts, first = task % parts * rows_together;
      kernels_.product(direction_ + first * length_, length_, std::min(rows_together, rows - first), length_,
                       map + i * panel_ * length_, panel_, along_ + first * padded_ + i * panel_, padded_);
    });
    if (across_) pack(along_, count, rank_ * padded_, kernels_.lanes, across_->data());
  }

  void add_losses(const Draw<T>& block, int64_t count, double* sums) {
    const LowRankDraws<T> draws{
        rank_, count,     block.mirrored, block.spread, factor_, along_, across_ ? across_->data() : nullptr,
        rest_, rest_size_};
    const int64_t parts = atoms_ ? divide_up(count, draws_together) : count,
                  tasks = atoms_ ? net_.width * parts : parts;
    const double work = nanoseconds(0.3, padded_, count, net_.width, atoms_ ? 2 * net_.outputs + rank_ : net_.outputs);
    const int team = threads(tasks, work);
    const int64_t size = round_up(kernels_.scratch_size(net_, padded_, panel_), 64);
    Buffer<T> scratch(team * size);
    parallel_for(tasks, team, [&](int64_t task) {
      T* own = scratch.data() + omp_get_thread_num() * size;
      if (!atoms_) return kernels_.network(center_, draws, task, own, sums);
      const int64_t first = task % parts * draws_together;
      kernels_.atom(center_, draws, task / parts, first, std::min(first + draws_together, count), own, sums);
    });
  }

  // sums [width][length] of the directions and `rest` of what is behind the first layer.
  void add_weighted(const double* weights, int64_t count, double* sums, double* rest) {
    const int64_t columns = atoms_ ? net_.width : 1;
    const double work = nanoseconds(0.3, count, net_.width, rank_ * length_);
    parallel_for(net_.width + 1, threads(net_.width + 1, work), [&](int64_t m) {
      if (m == net_.width) {
        if (atoms_) return kernels_.sum_columns(count, weights, columns, rest_, rest_size_, 1 + net_.outputs, rest);
        return kernels_.sum_rows(count, weights, 1, nullptr, 0, rest_, rest_size_, rest_size_, rest);
      }
      for (int64_t k = 0; k < rank_; ++k)
        kernels_.sum_rows(count, weights + (atoms_ ? m : 0), columns, factor_ + k * net_.width + m, rank_ * net_.width,
                          direction_ + k * length_, rank_ * length_, length_, sums + m * length_);
    });
  }

  // out [width][inputs] = sums L^-1 X.
  void along_inputs(const double* sums, double* out) {
    const int64_t inputs = net_.inputs, strips = divide_up(inputs, panel_);
    const int64_t stride = span_->stride();
    Buffer<double> solved(net_.width * stride);
    span_->along_samples(sums, net_.width, solved.data(), num_threads_);
    Buffer<T> rows(net_.width * length_);
    for (int64_t m = 0; m < net_.width; ++m)
      std::copy_n(solved.data() + m * stride, length_, rows.data() + m * length_);
    const int team = threads(strips, nanoseconds(0.05, net_.width, length_, inputs));
    const int64_t part = (length_ + net_.width) * panel_;
    Buffer<T> scratch(team * part);
    parallel_for(strips, team, [&](int64_t strip) {
      const int64_t first = strip * panel_, count = std::min(panel_, inputs - first);
      T *columns = scratch.data() + omp_get_thread_num() * part, *product = columns + length_ * panel_;
      for (int64_t s = 0; s < length_; ++s) {
        std::copy_n(problem_.x + s * inputs + first, count, columns + s * panel_);
        std::fill(columns + s * panel_ + count, columns + (s + 1) * panel_, T(0));
      }
      kernels_.product(rows.data(), length_, net_.width, length_, columns, panel_, product, panel_);
      for (int64_t m = 0; m < net_.width; ++m) std::copy_n(product + m * panel_, count, out + m * inputs + first);
    });
  }

  const RiskProblem<T>& problem_;
  const Network& net_;
  const int64_t rank_;
  const bool atoms_;
  const int num_threads_;
  const LowRankKernels<T>& kernels_;
  const int64_t panel_;
  std::optional<Span<T>> span_;
  bool packed_;  // x_ is the whole batch, not a chunk
  int64_t length_, chunk_, rest_size_, most_, padded_ = 0, prepared_ = -1;
  int64_t drawn_ = 0;
  uint32_t drawn_first_ = 0;
  std::optional<Buffer<T>> x_, lines_, along_map_, numbers_, across_;
  std::optional<Buffer<int32_t>> labels_;
  T *factor_, *direction_, *along_, *rest_;
  CenterLines<T> center_;
};

}  // namespace

template <class T>
HoppingStep low_rank_gradient(const RiskProblem<T>& problem, const LowRank& noise, double fraction, bool fit,
                              bool atoms, T* gradient, bool& spanned, int num_threads) {
  Step<T> step(problem, noise, atoms, num_threads);
  spanned = step.spanned();
  const auto score = [&](const Draw<T>& block, int64_t, double* risks) { step.score(block, risks); };
  const auto drift = [&](const Draw<T>& block, const double* weights, int64_t rows, double* out) {
    step.drift(block, weights, rows, out);
  };
  const Draw<T>& draw = *problem.draw;
  const int64_t size = problem.net.size(), columns = atoms ? problem.net.width : 1, rows = block_rows(columns);
  if (!fit)
    return weigh_blocks(draw, size, columns, rows, gradient, num_threads, score,
                        by_consensus(draw.mirrored, columns, fraction, num_threads), drift);
  const auto weigh = [&](const Draw<T>& block, double* risks, double* ess) { return step.fit(block, risks, ess); };
  return weigh_blocks(draw, size, columns, std::min(rows, 2 * fit_draws), gradient, num_threads, score, weigh, drift);
}

template <class T>
bool low_rank_risks(const RiskProblem<T>& problem, const LowRank& noise, bool atoms, double* out, int num_threads) {
  Step<T> step(problem, noise, atoms, num_threads);
  step.score(*problem.draw, out);
  return step.spanned();
}

template <class T>
void low_rank_drift(const RiskProblem<T>& problem, const LowRank& noise, bool atoms, const double* weights, double* out,
                    int num_threads) {
  const Draw<T>& draw = *problem.draw;
  Step<T>(problem, noise, atoms, num_threads).drift(draw, weights, draw.particles / (draw.mirrored ? 2 : 1), out);
}

#define CBK_INSTANTIATE(T) \
  template HoppingStep low_rank_gradient(const RiskProblem<T>&, const LowRank&, double, bool, bool, T*, bool&, int); \
  template bool low_rank_risks(const RiskProblem<T>&, const LowRank&, bool, double*, int); \
  template void low_rank_drift(const RiskProblem<T>&, const LowRank&, bool, const double*, double*, int);
CBK_INSTANTIATE(float)
CBK_INSTANTIATE(double)
#undef CBK_INSTANTIATE

}  // namespace cbk
