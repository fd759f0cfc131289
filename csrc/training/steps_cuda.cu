// The methods' steps on the GPU: the order of the kernels; the CPU's twins are run_epoch (training_cpu.cpp) and the
// steppers of python/cbokernels.
#include "steps_cuda.hpp"

#include "../cuda/chain.hpp"
#include "../cuda/reduce.hpp"
#include "../risk/cuda/risk_cuda.hpp"
#include "../update/update_law.hpp"
#include "small_cuda.hpp"

namespace cbk::device {

template <class T>
void score(const RiskProblem<T>& problem, bool own_inputs, double* out, CudaStream stream, Precision precision) {
  if (!own_inputs) return risk(problem, out, stream, int64_t(1), precision);
  RiskProblem<T> one = problem;
  one.tasks = 1;
  for (int64_t t = 0; t < problem.tasks; ++t) {
    one.x = problem.x + t * problem.samples * problem.net.inputs;
    if (problem.y) one.y = problem.y + t * problem.samples * problem.net.outputs;
    if (problem.labels) one.labels = problem.labels + t * problem.samples;
    risk(one, out + t, stream, problem.tasks, precision);
  }
}

template <class T>
Steps<T>::Steps(const RunShape& shape, cudaStream_t stream) : shape_(shape), size_(shape.net.size()), stream_(stream) {
  own("theta", theta_, shape.particles * size_);
}

template <class T>
void Steps<T>::set_task(const int32_t* host) {
  task_ = DeviceBuffer<int32_t>(shape_.particles);
  check(
      cudaMemcpyAsync(task_.data(), host, size_t(shape_.particles) * sizeof(int32_t), cudaMemcpyHostToDevice, stream_),
      "copy of the tasks");
}

template <class T>
void Steps<T>::share(uint32_t first, Exchange exchange) {
  first_particle_ = first, exchange_ = std::move(exchange);
  own("mean", mean_, size_);
  if (!exchanges()) return;
  const int64_t tasks = shape_.tasks, item = sizeof(double);
  own("exchange", exchanged_, tasks * (3 + size_));
  arrays_["state"] = {exchanged_.data(), 3 * tasks * item};
  arrays_["sums"] = {exchanged_.data() + 3 * tasks, tasks * size_ * item};
}

template <class T>
int Steps<T>::forms() const {
  const NoiseTraits traits = traits_of(shape_.noise);
  return is_noisy() && traits.with != traits.without ? 2 : 1;
}
template <class T>
int Steps<T>::form_with(const EpochNumbers& numbers) const {
  return forms() == 2 && deciding(shape_.noise, numbers) > 0;
}
template <class T>
EpochNumbers Steps<T>::numbers_with_form(EpochNumbers numbers, int form) const {
  if (form != form_with(numbers)) deciding(shape_.noise, numbers) = form;
  return numbers;
}

template <class T>
UpdateProblem<T> Steps<T>::update_problem() const {
  UpdateProblem<T> problem{};
  problem.theta = problem.out = theta();
  problem.particles = shape_.particles, problem.size = size_;
  problem.point = points_.data(), problem.task = task_.data();
  problem.drift = numbers_.drift, problem.diffusion = numbers_.diffusion, problem.dt = numbers_.dt;
  problem.noise = shape_.noise, problem.floor = numbers_.floor, problem.radius = numbers_.radius;
  problem.key = key();
  return problem;
}

template <class T>
AdamState<T> Steps<T>::adam_state(uint32_t step) const {
  return {gradient_.data(), first_.data(),  second_.data(), numbers_.lr,
          numbers_.beta1,   numbers_.beta2, numbers_.delta, step};
}

template <class T>
Dials<T> Steps<T>::dials(uint32_t step) const {
  UpdateProblem<T> problem = update_problem();
  problem.key.step = step;
  const AdamState<T> adam = adam_state(descents(step));
  return {numbers_of(problem, first_.data() ? &adam : nullptr),
          langevin_numbers<T>(kicks() * double(shape_.net.width), numbers_.friction, numbers_.temperature, numbers_.dt,
                              step),
          DrawNumbers<T>{T(numbers_.spread), step},
          numbers_.alpha,
          numbers_.friction * numbers_.dt,
          numbers_.dt,
          numbers_.limit,
          numbers_.decay,
          step};
}

namespace {

// theta -= decay theta, rounded as on the CPU; times the row's rate, where rows have rates.
template <class T>
CBK_KERNEL(256)
shrink_rows(T* theta, int64_t count, int64_t size, const int64_t* moving, const double* rates, const Dials<T>* now) {
  const double decay = now->decay;
  for (int64_t i = int64_t(blockIdx.x) * 256 + threadIdx.x; decay > 0 && i < count; i += int64_t(gridDim.x) * 256) {
    const int64_t at = moving ? moving[i / size] * size + i % size : i;
    theta[at] -= T(rates ? decay * rates[at / size] : decay) * theta[at];
  }
}

}  // namespace

template <class T>
void Steps<T>::shrink(T* theta, const StepPlace<T>& place, const int64_t* moving, int64_t rows,
                      const double* rates) const {
  if (!shape_.decays) return;
  const int64_t count = (moving ? rows : shape_.particles) * size_;
  launch(shrink_rows<T>, strided_grid(shrink_rows<T>, blocks_for(count, 256), 256), dim3(256), 0, stream_, theta, count,
         size_, moving, rates, place.now);
}

namespace {

// The heavy-ball form of CBO, from the step that the update would have made; rounded as CBOStepper._fly rounds.
template <class T>
CBK_KERNEL(256)
fly(T* theta, const T* moved, T* velocity, int64_t rows, int64_t size, const int64_t* subset, const Dials<T>* now) {
  const T slower = T(1 + now->friction_dt), dt = T(now->dt);
  for (int64_t i = int64_t(blockIdx.x) * 256 + threadIdx.x; i < rows * size; i += int64_t(gridDim.x) * 256) {
    const int64_t at = subset ? subset[i / size] * size + i % size : i;
    const T v = (velocity[at] + (moved[at] - theta[at])) / slower;
    velocity[at] = v;
    theta[at] += v * dt;
  }
}

// CBO, for any number of tasks, and the hybrid.
template <class T>
class ConsensusSteps : public Steps<T> {
 public:
  ConsensusSteps(const RunShape& shape, cudaStream_t stream)
      : Steps<T>(shape, stream), weights_(shape.scored() * shape.tasks) {
    this->own("alphas", alphas_, shape.tasks);
    this->own("points", this->points_, shape.tasks * this->size_);
    taken_ = DeviceBuffer<T>(shape.subset * this->size_);
    if (shape.flies) {
      moved_ = DeviceBuffer<T>(shape.particles * this->size_);
      this->own("velocity", velocity_, shape.particles * this->size_);
    }
    if (!hybrid()) return;
    this->gradient_ = DeviceBuffer<T>(shape.particles * this->size_);
    this->own("first", this->first_, shape.particles * this->size_);
    this->own("second", this->second_, shape.particles * this->size_);
  }

  void step(const RiskProblem<T>& batch, const StepPlace<T>& place) override {
    const RunShape& s = this->shape_;
    const CudaStream on = this->on();
    UpdateProblem<T> update = this->update_problem();
    const bool plain = s.method == Method::cbo && !s.subset && !s.flies && !s.decays && !this->exchanges();
    const bool small = plain && is_small(update, s.tasks);
    const Chain chain(small && place.chained);
    RiskProblem<T> scored = batch;
    scored.particles = place.scored;
    if (s.subset) {
      if (place.scored)
        gather(Rows<T>{this->theta(), taken_.data(), 1, this->size_}, Rows<T>{}, place.subset, s.particles,
               place.scored, place.scored, this->stream_);
      scored.theta = taken_.data();
    }
    if (hybrid())
      risk_gradient(scored, place.risk, this->gradient_.data(), on, s.precision);
    else if (place.scored)
      score(scored, s.own_inputs, place.risk, on, s.precision);
    if (this->exchanges()) {
      find_points(scored, place);
      if (s.subset_moves && !place.scored) return;
      return move(update, place);
    }
    if (s.solve) solve_alphas(place.risk, s.scored(), s.tasks, &place.now->alpha, alphas_.data(), on);
    if (small)
      return consensus_and_update(update, place.risk, last_alphas(place.now), this->points_.data(), place.ess, on,
                                  &place.now->update);
    consensus(scored.theta, place.risk, s.scored(), this->size_, s.tasks, last_alphas(place.now), this->points_.data(),
              weights_.data(), place.ess, on);
    move(update, place);
  }

  bool is_noisy() const override { return true; }
  Alphas last_alphas(const Dials<T>* last) const override {
    return this->shape_.solve ? Alphas{0, alphas_.data(), 1} : Alphas{0, &last->alpha, 0};
  }

 private:
  bool hybrid() const { return this->shape_.method == Method::hybrid; }

  // The points of all ranks' particles, of which `scored` are this one's.
  void find_points(const RiskProblem<T>& scored, const StepPlace<T>& place) {
    const RunShape& s = this->shape_;
    const int64_t count = scored.particles;
    const auto ask = [&](const char* what) { return this->exchange_(what, count, place.step); };
    double *const state = this->exchanged_.data(), *const sums = state + 3 * s.tasks;
    if (s.solve) {
      this->arrays_["risk"] = {place.risk, count * s.tasks * int64_t(sizeof(double))};
      ask("alphas");
    }
    if (count > 0) {
      gibbs_weights(place.risk, count, s.tasks, last_alphas(place.now), weights_.data(), place.ess, this->on(), state);
      weighted_sums(scored.theta, static_cast<const double*>(weights_.data()), count, this->size_, s.tasks, sums,
                    this->on());
    } else {
      clear(state, s.tasks * (3 + this->size_));
    }
    const std::vector<double> factors = ask("weigh");
    for (int64_t t = 0; t < int64_t(factors.size()); ++t) {
      double* const of_task = sums + t * this->size_;
      if (factors[size_t(t)] == 0)  // and may be NaN
        clear(of_task, this->size_);
      else
        launch_add_parts(static_cast<const double*>(of_task), 1, this->size_, 1 / factors[size_t(t)], of_task,
                         int64_t(1), this->stream_);
    }
    ask("sum");
    launch_add_parts(static_cast<const double*>(sums), 1, s.tasks * this->size_, 1.0, this->points_.data(), int64_t(1),
                     this->stream_);
    check(cudaMemcpyAsync(place.ess, state, size_t(s.tasks) * sizeof(double), cudaMemcpyDeviceToDevice, this->stream_),
          "copy");
    // What a subset leaves free of the step's risks is no trouble.
    clear(place.risk + count * s.tasks, (s.scored() - count) * s.tasks);
  }
  void clear(double* values, int64_t count) const {
    if (count > 0) check(cudaMemsetAsync(values, 0, size_t(count) * sizeof(double), this->stream_), "zeros");
  }

  // The particles to the points.
  void move(UpdateProblem<T> update, const StepPlace<T>& place) {
    const RunShape& s = this->shape_;
    const CudaStream on = this->on();
    if (s.subset_moves) update.rows = place.subset, update.row_count = place.scored;
    this->shrink(this->theta(), place, update.rows, place.scored);
    if (hybrid()) return hybrid_update(update, s.tasks, this->adam_state(1), on, &place.now->update);
    if (s.flies) update.out = moved_.data();
    cbo_update(update, s.tasks, on, &place.now->update);
    if (!s.flies) return;
    const int64_t rows = s.subset_moves ? place.scored : s.particles;
    const dim3 grid = strided_grid(fly<T>, blocks_for(rows * this->size_, 256), 256);
    launch(fly<T>, grid, dim3(256), 0, this->stream_, this->theta(), static_cast<const T*>(moved_.data()),
           velocity_.data(), rows, this->size_, update.rows, place.now);
  }

  DeviceBuffer<double> weights_, alphas_;
  DeviceBuffer<T> taken_, moved_, velocity_;  // the subset; with friction where the update leads, and how fast
};

template <class T>
class AdamSteps : public Steps<T> {
 public:
  AdamSteps(const RunShape& shape, cudaStream_t stream) : Steps<T>(shape, stream) {
    const int64_t count = shape.particles * this->size_;
    this->gradient_ = DeviceBuffer<T>(count);
    this->own("first", this->first_, count), this->own("second", this->second_, count);
    if (shape.rated) this->own("rates", rates_, shape.particles);
  }
  void step(const RiskProblem<T>& batch, const StepPlace<T>& place) override {
    risk_gradient(batch, place.risk, this->gradient_.data(), this->on(), this->shape_.precision);
    this->shrink(this->theta(), place, nullptr, 0, rates_.data());
    AdamState<T> adam = this->adam_state(1);
    adam.rates = rates_.data();
    adam_update(static_cast<const T*>(this->theta()), this->theta(), this->shape_.particles, this->size_, adam,
                this->on(), &place.now->update);
  }
  bool reports_each() const override { return true; }

 private:
  DeviceBuffer<double> rates_;  // of each network, where they have their own
};

// kinetic = |r|^2 / 2M of each network, and the trapezoidal rule for what friction has dissipated.
template <class T>
CBK_KERNEL(256)
weigh_motion(const T* velocity, int64_t size, int64_t width, const Dials<T>* now, double* kinetic, double* dissipated) {
  const int64_t n = blockIdx.x;
  double total = 0;
  for (int64_t i = threadIdx.x; i < size; i += 256)
    total += double(velocity[n * size + i]) * double(velocity[n * size + i]);
  total = block_sum(total) / double(2 * width);
  if (threadIdx.x != 0) return;
  dissipated[n] += now->friction_dt * (kinetic[n] + total);
  kinetic[n] = total;
}

template <class T>
class HeavyBallSteps : public Steps<T> {
 public:
  HeavyBallSteps(const RunShape& shape, cudaStream_t stream) : Steps<T>(shape, stream) {
    const int64_t count = shape.particles * this->size_;
    this->own("gradient", this->gradient_, count), this->own("velocity", velocity_, count);
    this->own("motion", motion_, 2 * shape.particles);
  }
  void open(const RiskProblem<T>& batch, const StepPlace<T>& place) override {
    risk_gradient(batch, place.risk, this->gradient_.data(), this->on(), this->shape_.precision);
  }
  void step(const RiskProblem<T>& batch, const StepPlace<T>& place) override {
    const RunShape& s = this->shape_;
    const EpochNumbers& e = this->numbers_;
    const double width = double(s.net.width);
    const LangevinNumbers<T>* now = &place.now->langevin;
    this->shrink(this->theta(), place);
    langevin_drift(this->theta(), velocity_.data(), static_cast<const T*>(this->gradient_.data()), s.particles,
                   this->size_, width, e.friction, e.temperature, e.dt, this->key(), this->on(), now);
    risk_gradient(batch, place.risk, this->gradient_.data(), this->on(), this->shape_.precision);
    langevin_kick(velocity_.data(), static_cast<const T*>(this->gradient_.data()), s.particles, this->size_, width,
                  e.dt, this->on(), now);
    launch(weigh_motion<T>, dim3(unsigned(s.particles)), dim3(256), 0, this->stream_,
           static_cast<const T*>(velocity_.data()), this->size_, s.net.width, place.now, kinetic(), dissipated());
  }
  bool reports_each() const override { return true; }
  const double* extras() const override { return motion_.data(); }
  int64_t extra_count() const override { return 2 * this->shape_.particles; }

 private:
  double* kinetic() const { return motion_.data(); }
  double* dissipated() const { return motion_.data() + this->shape_.particles; }
  DeviceBuffer<T> velocity_;
  DeviceBuffer<double> motion_;
};

// The half kick of the second-order dynamics, taken twice as large, on theta itself; then the noise.
template <class T>
class GradientFlowSteps : public Steps<T> {
 public:
  GradientFlowSteps(const RunShape& shape, cudaStream_t stream) : Steps<T>(shape, stream), origin_(this->size_) {
    this->gradient_ = DeviceBuffer<T>(shape.particles * this->size_);
    check(cudaMemsetAsync(origin_.data(), 0, size_t(this->size_) * sizeof(T), stream), "memory of a run");
  }
  void step(const RiskProblem<T>& batch, const StepPlace<T>& place) override {
    const RunShape& s = this->shape_;
    risk_gradient(batch, place.risk, this->gradient_.data(), this->on(), this->shape_.precision);
    this->shrink(this->theta(), place);
    langevin_kick(this->theta(), static_cast<const T*>(this->gradient_.data()), s.particles, this->size_,
                  kicks() * double(s.net.width), this->numbers_.dt, this->on(), &place.now->langevin);
    UpdateProblem<T> noise = this->update_problem();
    if (!draws(form_of(noise))) return;
    noise.point = origin_.data();
    cbo_update(noise, 1, this->on(), &place.now->update);
  }
  bool reports_each() const override { return true; }
  double kicks() const override { return 2; }
  bool is_noisy() const override { return true; }

 private:
  DeviceBuffer<T> origin_;
};

}  // namespace

#define CBK_STEPS(name, Class) \
  template <class T> \
  std::unique_ptr<Steps<T>> make_##name##_steps(const RunShape& shape, cudaStream_t stream) { \
    return std::make_unique<Class<T>>(shape, stream); \
  }
CBK_STEPS(cbo, ConsensusSteps)
CBK_STEPS(hybrid, ConsensusSteps)
CBK_STEPS(adam, AdamSteps)
CBK_STEPS(heavy_ball, HeavyBallSteps)
CBK_STEPS(gradient_flow, GradientFlowSteps)
#undef CBK_STEPS

template <class T>
std::unique_ptr<Steps<T>> make_steps(const RunShape& shape, cudaStream_t stream) {
#define CBK_MAKE(name, ...) \
  case Method::name: return make_##name##_steps<T>(shape, stream);
  switch (shape.method) { CBK_CARD_METHODS(CBK_MAKE) }
#undef CBK_MAKE
  throw std::logic_error("unknown method");
}

#define CBK_INSTANTIATE(T) \
  template class Steps<T>; \
  template std::unique_ptr<Steps<T>> make_steps<T>(const RunShape&, cudaStream_t); \
  template void score(const RiskProblem<T>&, bool, double*, CudaStream, Precision);
CBK_INSTANTIATE(float)
CBK_INSTANTIATE(double)
#undef CBK_INSTANTIATE

}  // namespace cbk::device
