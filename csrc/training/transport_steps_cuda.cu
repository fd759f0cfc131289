// Steps of transport CBO on the GPU; the CPU's twin is TransportStepper.  Every iteration of the fixed point is done,
// where the CPU stops when the coupling repeats: what repeats changes nothing, and the steps can be replayed.
#include "../cuda/reduce.hpp"
#include "../transport/transport_cuda.hpp"
#include "steps_cuda.hpp"

namespace cbk::device {
namespace {

constexpr int threads = 256;
template <class... P>
dim3 grid_for(void (*kernel)(P...), int64_t count) {
  return strided_grid(kernel, blocks_for(count, threads), threads);
}

// Where coordinate i of the atoms [width, inputs + 1 + outputs] stands among a network's parameters.
__device__ __forceinline__ int64_t place_of(const Network& net, int64_t i) {
  const int64_t size = net.inputs + 1 + net.outputs, m = i / size, k = i % size;
  if (k < net.inputs) return m * net.inputs + k;
  return net.biases() + (k - net.inputs) * net.width + m;
}

// An atom that is NaN or infinite is a failure of the step, before any task's.
template <class T>
CBK_KERNEL(threads)
take_atoms(Network net, const T* theta, int64_t count, T* atoms, const uint32_t* step, Troubles* troubles) {
  bool finite = true;
  for (int64_t i = int64_t(blockIdx.x) * threads + threadIdx.x; i < count; i += int64_t(gridDim.x) * threads) {
    const T x = theta[i / net.size() * net.size() + place_of(net, i % net.size())];
    finite = finite && x - x == 0;
    atoms[i] = x;
  }
  if (!finite) atomicMin(&troubles->failure, static_cast<unsigned long long>(*step) << 32 | not_finite_atoms);
}
template <class T>
CBK_KERNEL(threads)
put_atoms(Network net, const T* atoms, int64_t count, T* theta) {
  for (int64_t i = int64_t(blockIdx.x) * threads + threadIdx.x; i < count; i += int64_t(gridDim.x) * threads)
    theta[i / net.size() * net.size() + place_of(net, i % net.size())] = atoms[i];
}

// A task's support starts at its heaviest particle, the first of equals.
template <class T>
CBK_KERNEL(threads)
take_heaviest(const T* atoms, const double* weights, int64_t particles, int64_t size, T* support) {
  const int64_t task = blockIdx.x, tasks = gridDim.x;
  double least = infinity;
  for (int64_t n = threadIdx.x; n < particles; n += threads) {
    const double w = weights[n * tasks + task];
    least = -w < least ? -w : least;
  }
  least = block_least(least, infinity);
  int64_t heaviest = particles - 1;
  for (int64_t n = threadIdx.x; n < particles; n += threads)
    if (-weights[n * tasks + task] == least && n < heaviest) heaviest = n;
  heaviest = block_least(heaviest, particles - 1);
  for (int64_t i = threadIdx.x; i < size; i += threads) support[task * size + i] = atoms[heaviest * size + i];
}

// 1 for the pairs of a particle with its own task, and of those with weight (or weights == nullptr).
CBK_KERNEL(threads)
mark_needed(const double* weights, const int32_t* task, int64_t particles, int64_t tasks, double* needed) {
  const int64_t i = int64_t(blockIdx.x) * threads + threadIdx.x;
  if (i < particles * tasks) needed[i] = task[i / tasks] == i % tasks || (weights && weights[i] > 0);
}

CBK_KERNEL(threads) pair_in_order(int64_t all, int64_t count, int64_t* match) {
  const int64_t i = int64_t(blockIdx.x) * threads + threadIdx.x;
  if (i < all) match[i] = i % count;
}

// Where an atom's partner in its own task stands among all supports' points; and how many have another than before.
CBK_KERNEL(threads)
take_own(const int64_t* match, const int32_t* task, int64_t particles, int64_t tasks, int64_t count, int32_t* partner,
         unsigned long long* moved) {
  int changed = 0;
  for (int64_t i = int64_t(blockIdx.x) * threads + threadIdx.x; i < particles * count;
       i += int64_t(gridDim.x) * threads) {
    const int64_t n = i / count, own = task[n];
    const int32_t now = int32_t(own * count + match[(n * tasks + own) * count + i % count]);
    changed += now != partner[i];
    partner[i] = now;
  }
  changed = block_sum(changed);
  if (threadIdx.x == 0 && moved && changed > 0) atomicAdd(moved, static_cast<unsigned long long>(changed));
}

// Objectives [tasks], V, V by `fresh` costs (or nullptr), and atoms moved.
CBK_KERNEL(threads)
sum_costs(const double* weights, const double* cost, const double* fresh, const int32_t* task, int64_t particles,
          int64_t tasks, const unsigned long long* moved, double* out) {
  for (int64_t t = 0; t < tasks; ++t) {
    double total = 0;
    for (int64_t n = threadIdx.x; n < particles; n += threads)
      if (weights[n * tasks + t] > 0) total += weights[n * tasks + t] * cost[n * tasks + t];
    total = block_sum(total);
    if (threadIdx.x == 0) out[t] = total;
  }
  double total = 0, anew = 0;
  for (int64_t n = threadIdx.x; n < particles; n += threads) {
    const int64_t own = n * tasks + task[n];
    total += cost[own], anew += fresh ? fresh[own] : 0;
  }
  total = block_sum(total), anew = block_sum(anew);
  if (threadIdx.x != 0) return;
  out[tasks] = total / (2 * double(particles)), out[tasks + 1] = anew / (2 * double(particles));
  out[tasks + 2] = double(*moved);
}

template <class T>
class TransportSteps final : public Steps<T> {
 public:
  TransportSteps(const RunShape& s, cudaStream_t stream)
      : Steps<T>(s, stream),
        count_(s.net.width),
        pairs_(s.particles * s.tasks),
        weights_(pairs_),
        alphas_(s.tasks),
        needed_(s.tasks > 1 ? pairs_ : 0),
        cost_(pairs_),
        fresh_(s.exact ? pairs_ : 0),
        extras_(s.tasks + 3),
        atoms_(s.particles * this->size_),
        others_(s.particles * this->size_),
        inverse_(pairs_ * count_),
        moved_(1) {
    this->own("points", this->points_, s.tasks * this->size_);
    this->own("support", support_, s.tasks * this->size_);
    this->own("match", match_, pairs_ * count_), this->own("prices", prices_, pairs_ * count_);
    this->own("partners", partner_, s.particles * count_);
    check(cudaMemsetAsync(inverse_.data(), 0, size_t(pairs_ * count_) * sizeof(int32_t), stream), "memory of a run");
  }

  void step(const RiskProblem<T>& batch, const StepPlace<T>& place) override {
    const RunShape& s = this->shape_;
    const cudaStream_t stream = this->stream_;
    score(batch, s.own_inputs, place.risk, this->on(), s.precision);
    if (s.solve) solve_alphas(place.risk, s.particles, s.tasks, &place.now->alpha, alphas_.data(), this->on());
    gibbs_weights(place.risk, s.particles, s.tasks, last_alphas(place.now), weights_.data(), place.ess, this->on());
    const int64_t all = s.particles * this->size_;
    launch(take_atoms<T>, grid_for(take_atoms<T>, all), dim3(threads), 0, stream, s.net,
           static_cast<const T*>(this->theta()), all, atoms_.data(), &place.now->step, place.troubles);
    if (place.step == 0) begin_run();
    mark(weights());
    for (int64_t i = 0; i < s.iterations; ++i) {
      Assigned to;
      to.match = match_.data(), to.guess = true, to.duals = prices_.data(), to.partner = inverse_.data(),
      to.only = needed();
      assign(measures(), to, this->on());
      average_partners(coupling(), static_cast<const int32_t*>(inverse_.data()), this->on());
    }
    check(cudaMemsetAsync(moved_.data(), 0, sizeof(unsigned long long), stream), "zeros");
    own_partners(moved_.data());
    this->shrink(atoms_.data(), place);
    transport_update(atoms(), static_cast<const T*>(support_.data()), static_cast<const int32_t*>(partner_.data()),
                     others_.data(), s.particles, count_, this->size_ / count_, s.tasks * count_, 0.0, 0.0, 0.0,
                     {s.seed, 0, 0, 0}, this->on(), &place.now->update);
    launch(put_atoms<T>, grid_for(put_atoms<T>, all), dim3(threads), 0, stream, s.net,
           static_cast<const T*>(others_.data()), all, this->theta());
    launch(put_atoms<T>, grid_for(put_atoms<T>, s.tasks * this->size_), dim3(threads), 0, stream, s.net,
           static_cast<const T*>(support_.data()), s.tasks * this->size_, this->points_.data());
  }

  void sum_up() override {
    const RunShape& s = this->shape_;
    coupling_costs(coupling(), static_cast<const int64_t*>(match_.data()), needed(), cost_.data(), this->on());
    if (s.exact) solve_anew();
    launch(sum_costs, dim3(1), dim3(threads), 0, this->stream_, weights(), static_cast<const double*>(cost_.data()),
           static_cast<const double*>(fresh_.data()), task(), s.particles, s.tasks,
           static_cast<const unsigned long long*>(moved_.data()), extras_.data());
  }
  const double* extras() const override { return extras_.data(); }
  int64_t extra_count() const override { return this->shape_.tasks + 3; }

  Alphas last_alphas(const Dials<T>* last) const override {
    return this->shape_.solve ? Alphas{0, alphas_.data(), 1} : Alphas{0, &last->alpha, 0};
  }

 private:
  const T* atoms() const { return atoms_.data(); }
  const double* weights() const { return weights_.data(); }
  const double* needed() const { return needed_.data(); }  // nullptr: all pairs are
  const int32_t* task() const { return this->task_.data(); }
  Measures<T> measures() const {
    return {atoms(), support_.data(), this->shape_.particles, this->shape_.tasks, count_, this->size_ / count_};
  }
  Coupling<T> coupling() const {
    return {atoms(),  support_.data(), this->shape_.particles, this->shape_.tasks, count_, this->size_ / count_,
            weights()};
  }

  // The run's first step: supports at the best particles, atoms with the partners of their own numbers.
  void begin_run() {
    const RunShape& s = this->shape_;
    launch(take_heaviest<T>, dim3(unsigned(s.tasks)), dim3(threads), 0, this->stream_, atoms(), weights(), s.particles,
           this->size_, support_.data());
    launch(pair_in_order, dim3(unsigned(blocks_for(pairs_ * count_, threads))), dim3(threads), 0, this->stream_,
           pairs_ * count_, count_, match_.data());
    own_partners(nullptr);
  }
  void mark(const double* weights) {
    if (!needed()) return;
    launch(mark_needed, dim3(unsigned(blocks_for(pairs_, threads))), dim3(threads), 0, this->stream_, weights, task(),
           this->shape_.particles, this->shape_.tasks, needed_.data());
  }
  void own_partners(unsigned long long* moved) {
    const RunShape& s = this->shape_;
    launch(take_own, grid_for(take_own, s.particles * count_), dim3(threads), 0, this->stream_,
           static_cast<const int64_t*>(match_.data()), task(), s.particles, s.tasks, count_, partner_.data(), moved);
  }

  // The particles' distances to the supports that the last step led to; partners and prices stay.
  void solve_anew() {
    const int64_t count = pairs_ * count_;
    Workspace<int64_t> match(count, this->stream_);
    Workspace<double> prices(count, this->stream_);
    const auto copied = [&](auto* to, const auto* from) {
      check(cudaMemcpyAsync(to, from, size_t(count) * sizeof *to, cudaMemcpyDeviceToDevice, this->stream_), "copy");
      return to;
    };
    mark(nullptr);
    Assigned to;
    to.match = copied(match.data(), match_.data()), to.guess = true, to.duals = copied(prices.data(), prices_.data());
    to.cost = fresh_.data(), to.only = needed();
    assign(measures(), to, this->on());
  }

  int64_t count_, pairs_;  // atoms; particles with tasks
  DeviceBuffer<double> weights_, alphas_, needed_, cost_, fresh_, extras_;
  DeviceBuffer<T> atoms_, others_;  // as the last step met them, and moved
  DeviceBuffer<int32_t> inverse_;   // of the match
  DeviceBuffer<unsigned long long> moved_;
  DeviceBuffer<T> support_;
  DeviceBuffer<int64_t> match_;
  DeviceBuffer<double> prices_;
  DeviceBuffer<int32_t> partner_;
};

}  // namespace

template <class T>
std::unique_ptr<Steps<T>> make_transport_steps(const RunShape& shape, cudaStream_t stream) {
  return std::make_unique<TransportSteps<T>>(shape, stream);
}

template std::unique_ptr<Steps<float>> make_transport_steps(const RunShape&, cudaStream_t);
template std::unique_ptr<Steps<double>> make_transport_steps(const RunShape&, cudaStream_t);

}  // namespace cbk::device
