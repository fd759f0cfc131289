// Steps of consensus hopping on the GPU; the CPU's twins are weigh_blocks (weights_cpu.cpp) and HoppingStepper.
#include "steps_cuda.hpp"

#include <optional>

#include "../hopping/hopping_cuda.hpp"
#include "../hopping/spans_cuda.hpp"
#include "../hopping/weights_cuda.hpp"
#include "../risk/cuda/risk_cuda.hpp"
#include "report_cuda.hpp"

namespace cbk::device {
namespace {

constexpr int threads = 256;

// sum += share drift, both [size]; from a fresh start.
CBK_KERNEL(threads) add_drift(const double* drift, double share, int64_t size, bool fresh, double* sum) {
  const int64_t i = int64_t(blockIdx.x) * threads + threadIdx.x;
  if (i < size) sum[i] = (fresh ? 0 : sum[i]) + share * drift[i];
}
template <class T>
CBK_KERNEL(threads)
negate(const double* sum, int64_t size, T* gradient) {
  const int64_t i = int64_t(blockIdx.x) * threads + threadIdx.x;
  if (i < size) gradient[i] = T(-sum[i]);
}

// Over blocks of draws: each column's share of the particles that were weighed, and its sum of squared weights.
CBK_KERNEL(threads)
add_columns(const double* ess, const double* alphas, int64_t columns, double share, bool fresh, double* shares,
            double* squares, double* alpha) {
  for (int64_t c = threadIdx.x; c < columns; c += threads) {
    const double e = ess[c], before = fresh ? 0 : shares[c], squares_before = fresh ? 0 : squares[c];
    shares[c] = before + (e > 0 ? share : 0), squares[c] = squares_before + (e > 0 ? share * share / e : 0);
  }
  if (threadIdx.x != 0) return;
  double mean = 0;
  for (int64_t c = 0; alphas && c < columns; ++c) mean += alphas[c] / double(columns);
  *alpha = (fresh ? 0 : *alpha) + share * mean;
}
// And a step more whose directions were to be in the batch's span and were not, where free_steps counts these.
CBK_KERNEL(32)
mean_ess(const double* shares, const double* squares, int64_t columns, double* ess, const int32_t* positive,
         double* free_steps) {
  if (threadIdx.x != 0) return;
  if (free_steps && !(positive && *positive)) *free_steps += 1;
  double mean = 0;
  bool weighed = true;
  for (int64_t c = 0; c < columns; ++c) {
    weighed = weighed && shares[c] > 0;
    mean += shares[c] * shares[c] / squares[c] / double(columns);
  }
  *ess = weighed ? mean : 0;
}

CBK_KERNEL(32) set_number(double value, double* to) {
  if (threadIdx.x == 0) *to = value;
}

std::vector<int32_t> atoms_of(const Network& net) {
  std::vector<int32_t> atom(static_cast<size_t>(net.size()));
  for (int64_t i = 0; i < net.size(); ++i)
    atom[size_t(i)] = int32_t(i < net.biases()           ? i / net.inputs
                              : i < net.output_weights() ? i - net.biases()
                                                         : (i - net.output_weights()) % net.width);
  return atom;
}

template <class T>
class HoppingSteps final : public Steps<T> {
 public:
  HoppingSteps(const RunShape& shape, cudaStream_t stream)
      : Steps<T>(shape, stream), columns_(shape.atoms ? shape.net.width : 1), fold_(shape.mirrored ? 2 : 1) {
    const int64_t size = this->size_;
    this->gradient_ = DeviceBuffer<T>(size);
    this->own("first", this->first_, size), this->own("second", this->second_, size);
    const int64_t most = shape.fit ? fold_ * fit_draws : shape.drawn;
    blocks_ = blocks_for(shape.drawn, std::min(block_rows(columns_), most));
    const int64_t rows = (draws() / blocks_ + 1) * fold_;
    risk_ = DeviceBuffer<double>(rows * columns_), weights_ = DeviceBuffer<double>(rows * columns_);
    columns_memory_ = DeviceBuffer<double>(4 * columns_ + 2);
    drift_ = DeviceBuffer<double>(2 * size);
    if (shape.in_span) {
      free_steps_ = DeviceBuffer<double>(1);
      check(cudaMemsetAsync(free_steps_.data(), 0, sizeof(double), stream), "memory of a run");
    }
    if (!shape.atoms) return;
    const std::vector<int32_t> atom = atoms_of(shape.net);
    atom_ = DeviceBuffer<int32_t>(size);
    check(cudaMemcpyAsync(atom_.data(), atom.data(), size_t(size) * sizeof(int32_t), cudaMemcpyHostToDevice, stream),
          "copy");
    check(cudaStreamSynchronize(stream), "copy");
  }
  int64_t parts() const override { return blocks_; }
  uint32_t descents(uint32_t step) const override { return step + 1; }  // the noise counts from 0
  bool scores_itself() const override { return true; }
  Alphas last_alphas(const Dials<T>*) const override { return {0, alpha(), 0}; }

  // The spans of all batches at once: alone a matrix would leave most of a card idle.
  void look_ahead(const RiskProblem<T>& first, int64_t samples) override {
    const auto there_is = [&](int64_t count) { return count > 0 && Span<T>::there_is(noise(), first.net, count); };
    const int64_t inputs = first.net.inputs, whole = samples / first.samples, left = samples % first.samples;
    const int64_t count = there_is(first.samples) ? whole : 0, batches = count + there_is(left);
    step_ = 0;
    if (spans_.batches() < batches) spans_ = Spans<T>(batches, count > 0 ? first.samples : left);
    if (count > 0) spans_.find(first.x, inputs, first.samples, 0, count, this->stream_);
    if (batches > count) spans_.find(first.x + whole * first.samples * inputs, inputs, left, count, 1, this->stream_);
  }
  int64_t bytes_ahead() const override {
    const RunShape& s = this->shape_;
    const int64_t samples = s.batch ? std::min(s.batch, s.samples) : s.samples;
    return Span<T>::there_is(noise(), s.net, samples) ? Spans<T>::bytes(samples) : 0;
  }
  const double* extras() const override { return free_steps_.data(); }
  int64_t extra_count() const override { return this->shape_.in_span ? 1 : 0; }

  void step(const RiskProblem<T>& batch, const StepPlace<T>& place) override {
    std::optional<Span<T>> span;
    if (Span<T>::there_is(noise(), batch.net, batch.samples)) span = spans_.at(step_++);
    span_ = span ? &*span : nullptr;
    const unsigned grid = unsigned(blocks_for(this->size_, threads));
    double* sum = drift_.data() + this->size_;
    for (int64_t b = 0; b < blocks_; ++b) {
      const int64_t first = b * draws() / blocks_, last = (b + 1) * draws() / blocks_;
      const double share = double((last - first) * fold_) / double(this->shape_.drawn);
      weigh_block(batch, place, first, last);
      launch(add_drift, dim3(grid), dim3(threads), 0, this->stream_, static_cast<const double*>(drift_.data()), share,
             this->size_, b == 0, sum);
      launch(add_columns, dim3(1), dim3(threads), 0, this->stream_, static_cast<const double*>(ess()),
             static_cast<const double*>(this->shape_.fraction > 0 ? alphas() : nullptr), columns_, share, b == 0,
             shares(), squares(), alpha());
    }
    launch(mean_ess, dim3(1), dim3(32), 0, this->stream_, static_cast<const double*>(shares()),
           static_cast<const double*>(squares()), columns_, place.ess,
           static_cast<const int32_t*>(span ? span->positive : nullptr), free_steps_.data());
    launch(negate<T>, dim3(grid), dim3(threads), 0, this->stream_, static_cast<const double*>(sum), this->size_,
           this->gradient_.data());
    this->shrink(this->theta(), place);
    adam_update(static_cast<const T*>(this->theta()), this->theta(), int64_t(1), this->size_, this->adam_state(1),
                this->on(), &place.now->update);
  }

 private:
  // The drift of the draws [first, last), weighed among themselves.
  void weigh_block(const RiskProblem<T>& batch, const StepPlace<T>& place, int64_t first, int64_t last) {
    const RunShape& s = this->shape_;
    const int64_t rows = (last - first) * fold_;
    const Draw<T> draw{this->theta(), 0, s.mirrored, rows, {s.seed, 0, 0, uint32_t(first)}, &place.now->draw};
    RiskProblem<T> part = batch;
    part.theta = nullptr, part.draw = &draw, part.particles = rows;
    if (s.rank)
      low_rank_risks(part, noise(), s.atoms, span_, risk_.data(), this->on());
    else if (s.atoms)
      atom_risks(part, draw.center, risk_.data(), this->on());
    else
      risk(part, risk_.data(), this->on(), int64_t(1), s.precision);
    look_for_troubles(risk_.data(), 1, rows, columns_, nullptr, &place.now->step, place.troubles, this->stream_);
    if (s.fit)
      fit_weights(part, noise(), span_, risk_.data(), weights_.data(), ess(), this->on());
    else
      weigh(rows);
    if (s.rank) return low_rank_drift(part, noise(), s.atoms, span_, weights_.data(), drift_.data(), this->on());
    noise_drift<T>(weights_.data(), last - first, columns_, atom_.data(), draw.key, this->size_, drift_.data(),
                   this->on(), draw.now);
  }

  void weigh(int64_t rows) {
    const RunShape& s = this->shape_;
    const double* target = nullptr;
    if (s.fraction > 0) {
      const double ess = std::max(1.0, s.fraction * double(rows));
      launch(set_number, dim3(1), dim3(32), 0, this->stream_, ess, this->target());
      target = this->target();
    }
    hopping_weights(risk_.data(), rows, columns_, s.mirrored, target, weights_.data(), ess(), alphas(), this->on());
  }

  LowRank noise() const { return {this->shape_.rank, this->shape_.in_span}; }
  int64_t draws() const { return this->shape_.drawn / fold_; }
  double* ess() const { return columns_memory_.data(); }
  double* alphas() const { return ess() + columns_; }
  double* shares() const { return ess() + 2 * columns_; }
  double* squares() const { return ess() + 3 * columns_; }
  double* alpha() const { return ess() + 4 * columns_; }
  double* target() const { return alpha() + 1; }

  int64_t columns_, fold_, blocks_ = 1;
  DeviceBuffer<double> risk_, weights_, columns_memory_, drift_, free_steps_;
  Spans<T> spans_;
  int64_t step_ = 0;               // of those that look_ahead saw
  const Span<T>* span_ = nullptr;  // of the step at hand
  DeviceBuffer<int32_t> atom_;
};

}  // namespace

template <class T>
std::unique_ptr<Steps<T>> make_hopping_steps(const RunShape& shape, cudaStream_t stream) {
  return std::make_unique<HoppingSteps<T>>(shape, stream);
}

template std::unique_ptr<Steps<float>> make_hopping_steps(const RunShape&, cudaStream_t);
template std::unique_ptr<Steps<double>> make_hopping_steps(const RunShape&, cudaStream_t);

}  // namespace cbk::device
