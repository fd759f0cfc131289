#include "low_rank.hpp"

#include <omp.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "../common/isa.hpp"
#include "../risk/packing.hpp"
#include "blocks.hpp"
#include "fit.hpp"
#include "span.hpp"

namespace cbk {
namespace {

constexpr int64_t drawn_numbers = int64_t(1) << 18;  // of draws kept at a time
constexpr int64_t chunk_bytes = int64_t(2) << 20;    // of a chunk's lines
constexpr int64_t draws_apart = 16;                  // of a task that draws them: whole vectors
constexpr int64_t neurons_together = 24;             // of a task that multiplies the centre or adds to it

// As many draws as there are in whole groups of those that are scored together, or in parts of a group that it is
// divided into: last bits of risks depend on the group.
int64_t whole_groups(int64_t draws) {
  int64_t group = draws_together;
  while (group > draws) group /= 2;
  return draws / group * group;
}

// One step's batch and draws.
template <class T>
class Step {
 public:
  // rows: particles of a block at most.  fit: differences of pairs' risks will be fitted.
  Step(const RiskProblem<T>& problem, const LowRank& noise, bool atoms, int64_t rows, bool fit, int num_threads)
      : problem_(problem),
        net_(problem.net),
        rank_(noise.rank),
        atoms_(atoms),
        fit_(fit),
        draws_(divide_up(divide_up(problem.draw->particles, problem.draw->mirrored ? 2 : 1),
                         divide_up(problem.draw->particles, rows))),
        num_threads_(num_threads),
        kernels_(isa_table().low_rank<T>()),
        panel_(2 * kernels_.lanes) {
    packed_ = noise.batch && problem.samples < net_.inputs;
    const int64_t length = packed_ ? problem.samples : net_.inputs;
    const int64_t lines = net_.inputs + length + 2 * net_.width + 3 * net_.outputs + 3;
    chunk_ = std::min(round_up(std::max(chunk_bytes / int64_t(sizeof(T)) / lines, int64_t(1)), panel_),
                      round_up(problem.samples, panel_));
    x_.emplace((packed_ ? round_up(problem.samples, panel_) : chunk_) * net_.inputs);
    lines_.emplace(chunk_ * (2 * net_.width + 3 * net_.outputs + 3));
    labels_.emplace(chunk_);
    rest_size_ = net_.size() - net_.biases();
    if (!packed_ || !span()) allot(net_.inputs);
  }

  bool spanned() const { return span_.has_value(); }

  // Risks [particles, columns] of a block of draws.
  void score(const Draw<T>& block, double* risks) {
    const int64_t columns = atoms_ ? net_.width : 1, fold = block.mirrored ? 2 : 1, draws = block.particles / fold;
    sums_.emplace(block.particles * columns);
    for (int64_t first = 0; first < problem_.samples; first += chunk_) {
      if (prepared_ != first) prepare(block.center, first, [] {});
      for (int64_t n = 0; n < draws; n += most_) {
        const int64_t count = std::min(most_, draws - n);
        draw(block, n, count);
        put_along(count);
        const auto factor = [&] { shared_->make(at_hand(count)); };
        if (first == 0 && share(count, draws))
          add_losses(block, n, count, true, factor);
        else
          add_losses(block, n, count, first == 0, [] {});
      }
    }
    if (!(fit_ && draws <= most_)) put_risks(block.particles, risks);
  }

  // The weights that fit the differences of the block of pairs that was scored: of many, from their risks.
  Weighed fit(const Draw<T>& block, double* risks, double* ess) {
    const int64_t draws = block.particles / 2;
    if (draws > most_) return fit_weights<T>(net_, rank_, length_, block.key, draws, risks, ess, num_threads_);
    const PairRisks pairs{sums_->data(), 1, block.particles, double(problem_.samples)};
    return fit_differences(net_, at_hand(draws), shared_, pairs, risks, ess, num_threads_);
  }

  // out [size]: sign times the sum of weights [draws, columns] times the draws' noise.
  template <class Out>
  void drift(const Draw<T>& block, const double* weights, int64_t draws, Out* out, double sign = 1) {
    const int64_t columns = atoms_ ? net_.width : 1, size = net_.width * length_;
    Buffer<double> sums(size + rest_size_);
    double* const rest = sums.data() + size;
    for (int64_t n = 0; n < draws; n += most_) {
      const int64_t count = std::min(most_, draws - n);
      draw(block, n, count);
      add_weighted(weights + n * columns, count, sums.data(), rest, n == 0);
    }
    if (span_)
      along_inputs(sums.data(), sign, out);
    else
      take_sums(sums.data(), sign, size, out, num_threads_);
    take_sums(rest, sign, rest_size_, out + net_.biases(), num_threads_);
  }

 private:
  int threads(int64_t tasks, double work) const { return thread_count(num_threads_, tasks, work); }

  // Memory for draws with directions of so many numbers.
  void allot(int64_t length) {
    length_ = length, drawn_ = 0;
    const int64_t drawn = rank_ * (length_ + chunk_ + net_.width) + rest_size_;
    most_ = std::clamp(drawn_numbers / drawn, int64_t(1), draws_);
    if (most_ < draws_) most_ = whole_groups(most_);
    if (atoms_ && problem_.loss.kind == LossKind::cross_entropy)
      across_.emplace(round_up(most_, kernels_.lanes) * (rank_ * chunk_ + rest_size_));
    numbers_.emplace(most_ * drawn);
    factor_ = numbers_->data(), direction_ = factor_ + most_ * rank_ * net_.width;
    along_ = direction_ + most_ * rank_ * length_, rest_ = along_ + most_ * rank_ * chunk_;
  }

  // Whether the batch has a span.  One thread factors its matrix while others see to the centre and the first draws.
  bool span() {
    constexpr int64_t few = 192;  // samples: to share the inverse too is not worth a turn of all threads
    const int64_t samples = problem_.samples;
    span_.emplace(problem_, x_->data(), panel_, num_threads_);
    along_map_.emplace(round_up(samples, panel_) * samples);
    allot(samples);
    const auto invert = [&](int threads) { span_->invert(panel_, along_map_->data(), threads); };
    bool positive = false;
    const auto factor = [&] {
      positive = span_->factor();
      if (positive && samples <= few) invert(1);
    };
    if (problem_.draw->center)
      prepare(problem_.draw->center, 0, factor, most_);
    else
      factor();
    if (!positive)
      span_.reset();
    else if (samples > few)
      invert(num_threads_);
    return positive;
  }

  // The centre on the samples from `first` on, and at the same time something else and so many of the first draws.
  template <class Also>
  void prepare(const T* center, int64_t first, Also also, int64_t draws = 0) {
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
    const int64_t panels = padded_ / panel_, parts = divide_up(draws, draws_apart);
    const int64_t groups = packed_ ? divide_up(net_.width, neurons_together) : 1;  // a panel is packed for all neurons
    const double work = nanoseconds(0.05, padded_, net_.width, net_.inputs + net_.outputs) +
                        nanoseconds(1.5, draws, rank_ * length_ + rest_size_);
    const auto put_hidden = [&](int64_t task) {
      const int64_t group = task / panels, i = task % panels, begin = i * panel_, inputs = net_.inputs;
      if (!packed_)
        pack_rows([&](int64_t s) { return problem_.inputs_of(first + begin + s); }, count - begin, panel_, inputs,
                  x_->data() + begin * inputs, static_cast<double*>(nullptr), panel_);
      kernels_.center(center_, i, net_.width * group / groups, net_.width * (group + 1) / groups);
    };
    const auto put_draws = [&](int64_t part) {
      const int64_t n = part * draws_apart;
      draw_noise(net_, at_hand(draws), problem_.draw->key, n, std::min(n + draws_apart, draws));
    };
    parallel_for_all(threads(panels + parts, work), Tasks{1, [&](int64_t) { also(); }},
                     Tasks{groups * panels, put_hidden}, Tasks{parts, put_draws});
    outputs_wait_ = true;
    if (draws > 0) drawn_ = draws, drawn_first_ = problem_.draw->key.first_particle;
  }

  // Whether all draws of a block are at hand and share a factor of their fit, which is made beside their first losses.
  bool share(int64_t count, int64_t draws) {
    shared_.reset();
    if (fit_ && count == draws && shares_factor(net_, rank_, draws)) shared_.emplace(draws, length_);
    return shared_.has_value();
  }

  // Factors, directions and the rest of draws [first, first + count) of a block.
  void draw(const Draw<T>& block, int64_t first, int64_t count) {
    NoiseKey key = block.key;
    key.first_particle += uint32_t(first);
    if (drawn_ >= count && drawn_first_ == key.first_particle) return;
    drawn_ = count, drawn_first_ = key.first_particle;
    draw_noise(net_, at_hand(count), key, num_threads_);
  }

  // The numbers of the first draws of those that are kept.
  DrawnNoise<T> at_hand(int64_t count) const { return {rank_, count, length_, factor_, direction_, rest_}; }

  // X b of the draws at hand, and what is wanted with draws as lanes; the centre's outputs too where they wait for it.
  void put_along(int64_t count) {
    const int64_t parts = divide_up(count, draws_apart), lanes = kernels_.lanes, row = rank_ * padded_;
    const T* map = span_ ? along_map_->data() + prepared_ * length_ : center_.x;
    const double work = nanoseconds(0.05, count * rank_, length_, padded_);
    const auto put = [&](int64_t part) {
      const int64_t first = part * draws_apart, own = std::min(draws_apart, count - first);
      for (int64_t s = 0; s < padded_; s += panel_)
        kernels_.product(direction_ + first * rank_ * length_, length_, own * rank_, length_, map + s * length_, panel_,
                         center_.samples - s, along_ + first * row + s, padded_, false);
      if (!across_) return;
      pack(along_ + first * row, own, row, lanes, across_->data() + first * row);
      pack(rest_ + first * rest_size_, own, rest_size_, lanes, rest_across() + first * rest_size_);
    };
    const int64_t panels = std::exchange(outputs_wait_, false) ? padded_ / panel_ : 0;
    parallel_for_all(threads(parts + panels, work),
                     Tasks{panels, [&](int64_t i) { kernels_.center_outputs(center_, i); }}, Tasks{parts, put});
  }

  T* rest_across() { return across_->data() + round_up(most_, kernels_.lanes) * rank_ * chunk_; }

  // Losses of draws [n, n + count) are added to the sums, which are 0 at first, and something else is done beside.
  template <class Also>
  void add_losses(const Draw<T>& block, int64_t n, int64_t count, bool first_chunk, Also also) {
    LowRankDraws<T> draws{rank_, count, block.mirrored, block.spread, factor_, along_, rest_, rest_size_};
    if (across_) draws.across = across_->data(), draws.rest_across = rest_across();
    const int64_t parts = atoms_ ? divide_up(count, draws_together) : count,
                  tasks = atoms_ ? net_.width * parts : parts;
    const double work = nanoseconds(0.3, padded_, count, net_.width, atoms_ ? 2 * net_.outputs + rank_ : net_.outputs);
    const int team = threads(tasks, work);
    const int64_t size = round_up(kernels_.scratch_size(net_, padded_, panel_), 64);
    Buffer<T> scratch(team * size);
    const auto add = [&](int64_t task) {
      T* own = scratch.data() + omp_get_thread_num() * size;
      const int64_t fold = block.mirrored ? 2 : 1, m = atoms_ ? task % net_.width : 0;
      const int64_t first = atoms_ ? task / net_.width * draws_together : task;
      const int64_t last = atoms_ ? std::min(first + draws_together, count) : task + 1;
      double* const to = sums_->data() + n * fold + m * block.particles;
      if (first_chunk) std::fill(to + first * fold, to + last * fold, 0.0);
      if (atoms_)
        kernels_.atom(center_, draws, m, first, last, own, to);
      else
        kernels_.network(center_, draws, task, own, to);
    };
    parallel_for_all(team, Tasks{1, [&](int64_t) { also(); }}, Tasks{tasks, add});
  }

  // The risks [particles][columns] of the sums.
  void put_risks(int64_t particles, double* risks) {
    constexpr int64_t together = 16;
    const double* const sums = sums_->data();
    const int64_t columns = atoms_ ? net_.width : 1, parts = divide_up(particles, together);
    parallel_for(parts, threads(parts, nanoseconds(1, particles, columns)), [&](int64_t part) {
      const int64_t first = part * together, end = std::min(first + together, particles);
      for (int64_t m = 0; m < columns; ++m)
        for (int64_t i = first; i < end; ++i)
          risks[i * columns + m] = sums[m * particles + i] / double(problem_.samples);
    });
  }

  // sums [width][length] of the directions and `rest` of what is behind the first layer, which are 0 at first.
  void add_weighted(const double* weights, int64_t count, double* sums, double* rest, bool first) {
    const int64_t columns = atoms_ ? net_.width : 1;
    const double work = nanoseconds(0.3, count, net_.width, rank_ * length_);
    const int64_t together = atoms_ ? 4 : 1;  // neurons, each with weights of its own
    const int64_t groups = divide_up(net_.width, together);
    const auto add_rest = [&](int64_t) {
      if (first) std::fill_n(rest, rest_size_, 0.0);
      if (atoms_) return kernels_.sum_columns(count, weights, columns, rest_, rest_size_, 1 + net_.outputs, rest);
      kernels_.sum_rows(count, weights, 1, nullptr, 0, rest_, rest_size_, rest_size_, rest, 1);
    };
    const auto add_first = [&](int64_t task) {
      const int64_t m = task * together, own = std::min(together, net_.width - m);
      if (first) std::fill_n(sums + m * length_, own * length_, 0.0);
      for (int64_t k = 0; k < rank_; ++k)
        kernels_.sum_rows(count, weights + (atoms_ ? m : 0), columns, factor_ + k * net_.width + m, rank_ * net_.width,
                          direction_ + k * length_, rank_ * length_, length_, sums + m * length_, own);
    };
    parallel_for_all(threads(groups + 1, work), Tasks{1, add_rest}, Tasks{groups, add_first});
  }

  // out [width][inputs] = sign sums L^-1 X.  The batch's rows are multiplied where they lie, but for their ends.
  template <class Out>
  void along_inputs(const double* sums, double sign, Out* out) {
    const int64_t inputs = net_.inputs, width = net_.width, panels = divide_up(inputs, panel_), last = panels - 1;
    const int64_t tail = inputs - last * panel_, groups = divide_up(width, neurons_together);
    Buffer<T> by(width * length_), ends(length_ * panel_);
    Buffer<const T*> rows(2 * length_);
    const T **x = rows.data(), **end = x + length_;
    for (int64_t s = 0; s < length_; ++s) {
      x[s] = problem_.inputs_of(s), end[s] = ends.data() + s * panel_;
      std::fill_n(std::copy_n(x[s] + last * panel_, tail, ends.data() + s * panel_), panel_ - tail, T(0));
    }
    span_->along_samples(sums, sign, width, by.data(), num_threads_);
    const int team = threads(groups * panels, nanoseconds(0.05, width, length_, inputs));
    Buffer<T> scratch(team * neurons_together * panel_);
    parallel_for(groups * panels, team, [&](int64_t task) {
      const int64_t m = task / panels * width / groups, count = (task / panels + 1) * width / groups - m;
      const int64_t i = task % panels, first = i * panel_, columns = i < last ? panel_ : tail;
      const bool straight = std::is_same_v<T, Out> && columns == panel_;
      T* to = scratch.data() + omp_get_thread_num() * neurons_together * panel_;
      if constexpr (std::is_same_v<T, Out>)
        if (straight) to = out + m * inputs + first;
      kernels_.product_of_rows(by.data() + m * length_, length_, count, length_, i < last ? x : end,
                               i < last ? first : 0, to, straight ? inputs : panel_);
      for (int64_t r = 0; r < count && !straight; ++r)
        std::copy_n(to + r * panel_, columns, out + (m + r) * inputs + first);
    });
  }

  const RiskProblem<T>& problem_;
  const Network& net_;
  const int64_t rank_;
  const bool atoms_, fit_;
  const int64_t draws_;  // of a block at most
  const int num_threads_;
  const LowRankKernels<T>& kernels_;
  const int64_t panel_;
  std::optional<Span<T>> span_;
  std::optional<FitFactor<T>> shared_;
  bool packed_;  // x_ is the whole batch, not a chunk
  bool outputs_wait_ = false;
  int64_t length_, chunk_, rest_size_, most_, padded_ = 0, prepared_ = -1;
  int64_t drawn_ = 0;
  uint32_t drawn_first_ = 0;
  std::optional<Buffer<T>> x_, lines_, along_map_, numbers_, across_;
  std::optional<Buffer<double>> sums_;  // of losses [columns][particles]: no two threads write to one line
  std::optional<Buffer<int32_t>> labels_;
  T *factor_, *direction_, *along_, *rest_;
  CenterLines<T> center_;
};

}  // namespace

template <class T>
HoppingStep low_rank_gradient(const RiskProblem<T>& problem, const LowRank& noise, double fraction, bool fit,
                              bool atoms, T* gradient, bool& spanned, int num_threads) {
  const Draw<T>& draw = *problem.draw;
  const int64_t size = problem.net.size(), columns = atoms ? problem.net.width : 1;
  const int64_t rows = std::min(block_rows(columns), fit ? 2 * fit_draws : draw.particles);
  Step<T> step(problem, noise, atoms, rows, fit, num_threads);
  spanned = step.spanned();
  const auto score = [&](const Draw<T>& block, int64_t, double* risks) { step.score(block, risks); };
  const auto drift = [&](const Draw<T>& block, const double* weights, int64_t draws, auto* out, double sign = 1) {
    step.drift(block, weights, draws, out, sign);
  };
  if (!fit)
    return weigh_blocks(draw, size, columns, rows, gradient, num_threads, score,
                        by_consensus(draw.mirrored, columns, fraction, num_threads), drift);
  const auto weigh = [&](const Draw<T>& block, double* risks, double* ess) { return step.fit(block, risks, ess); };
  return weigh_blocks(draw, size, columns, rows, gradient, num_threads, score, weigh, drift);
}

template <class T>
bool low_rank_risks(const RiskProblem<T>& problem, const LowRank& noise, bool atoms, double* out, int num_threads) {
  Step<T> step(problem, noise, atoms, problem.draw->particles, false, num_threads);
  step.score(*problem.draw, out);
  return step.spanned();
}

template <class T>
void low_rank_drift(const RiskProblem<T>& problem, const LowRank& noise, bool atoms, const double* weights, double* out,
                    int num_threads) {
  const Draw<T>& draw = *problem.draw;
  Step<T>(problem, noise, atoms, draw.particles, false, num_threads)
      .drift(draw, weights, draw.particles / (draw.mirrored ? 2 : 1), out);
}

#define CBK_INSTANTIATE(T) \
  template HoppingStep low_rank_gradient(const RiskProblem<T>&, const LowRank&, double, bool, bool, T*, bool&, int); \
  template bool low_rank_risks(const RiskProblem<T>&, const LowRank&, bool, double*, int); \
  template void low_rank_drift(const RiskProblem<T>&, const LowRank&, bool, const double*, double*, int);
CBK_INSTANTIATE(float)
CBK_INSTANTIATE(double)
#undef CBK_INSTANTIATE

}  // namespace cbk
