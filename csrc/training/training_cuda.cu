// A run's epochs on the GPU: copies, graphs, rows.
#include "training_cuda.hpp"

#include <cstring>
#include <optional>

#include "../cuda/chain.hpp"
#include "../cuda/device.hpp"
#include "../cuda/graph.hpp"
#include "../risk/cuda/risk_cuda.hpp"
#include "report_cuda.hpp"
#include "steps_cuda.hpp"

namespace cbk::device {
namespace {

constexpr int64_t most_steps = 64;                // of a graph, or their parts
constexpr int64_t most_bytes = int64_t(1) << 30;  // of a graph's gathered samples, of its risks, or what looks ahead

class OwnStream {
 public:
  OwnStream() { check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream"); }
  ~OwnStream() {
    cudaStreamSynchronize(stream);
    cudaStreamDestroy(stream);
  }
  OwnStream(const OwnStream&) = delete;
  OwnStream& operator=(const OwnStream&) = delete;
  cudaStream_t stream;
};

// Host memory of one epoch in flight: what is sent to the card, and the row and point that come back.
struct Slot {
  PinnedBuffer<char> given;  // by segments
  PinnedBuffer<double> row;
  PinnedBuffer<char> point;
  cudaEvent_t done = nullptr;
  Slot(int64_t bytes, int64_t columns, int64_t point_bytes) : given(bytes), row(columns), point(point_bytes) {
    check(cudaEventCreateWithFlags(&done, cudaEventDisableTiming), "event");
  }
  Slot(Slot&& other) noexcept
      : given(std::move(other.given)),
        row(std::move(other.row)),
        point(std::move(other.point)),
        done(std::exchange(other.done, nullptr)) {}
  ~Slot() {
    if (done) cudaEventDestroy(done);
  }
};

// A part of an epoch that is one graph, and one copy to the device: its steps' dials, order of samples and subsets.
struct Segment {
  int64_t steps = 0, samples = 0;
  bool last = false;                          // ends the epoch
  int64_t order = 0, subsets = 0, bytes = 0;  // where they stand behind the dials, and all of it
  Graph graphs[2];                            // by the noise's form
};

template <class T>
class TrainingRun final : public Run {
 public:
  TrainingRun(const RunShape& shape, const RunData& data, const T* theta, const int32_t* task)
      : shape_(shape), here_(shape.device), steps_(make_steps<T>(shape, own_.stream)) {
    hold_data(data);
    divide();
    write("theta", theta);
    if (task) steps_->set_task(task);
    const Troubles none{0, no_failure};
    copy(troubles_.data(), &none, sizeof none, cudaMemcpyHostToDevice);
    here_.leave();
  }
  ~TrainingRun() override {
    here_.enter_if_possible();        // the members' memory is freed on the device
    cudaStreamSynchronize(stream());  // epochs that nobody waited for still read it
  }

  void share(uint32_t first, Exchange exchange) override {
    const OnDevice here(shape_.device);
    steps_->share(first, std::move(exchange));
  }

  void submit(const int64_t* order, const int64_t* subsets, uint32_t first_step, const EpochNumbers& numbers) override {
    const OnDevice here(shape_.device);
    Slot& slot = slots_[size_t(submitted_ % in_flight)];
    if (submitted_ >= in_flight) check(cudaEventSynchronize(slot.done), "epoch");
    steps_->begin(numbers);
    char* given = slot.given.data();
    for (int64_t step = 0; step < epoch_steps_;) {
      const Segment& part = epoch_steps_ - step > body_.steps ? body_ : tail_;
      fill(part, given, order + step * shape_.batch, subsets + step * shape_.subset, first_step + uint32_t(step));
      bring(given_, given, part.bytes);
      drawn_ = subsets + step * shape_.subset;
      if (submitted_ == 0 || steps_->exchanges())  // the first epoch allocates what the kernels need
        enqueue(part, first_step + uint32_t(step));
      else
        part.graphs[steps_->form_with(numbers)].launch(stream());
      step += part.steps, given += part.bytes;
    }
    check(cudaMemcpyAsync(slot.row.data(), row_.data(), size_t(columns()) * sizeof(double), cudaMemcpyDeviceToHost,
                          stream()),
          "row");
    check(
        cudaMemcpyAsync(slot.point.data(), steps_->reported(), size_t(point_bytes()), cudaMemcpyDeviceToHost, stream()),
        "point");
    check(cudaEventRecord(slot.done, stream()), "event");
    if (submitted_++ == 0 && !steps_->exchanges()) capture(numbers);
  }

  const double* row(int64_t epoch) override {
    const OnDevice here(shape_.device);
    const Slot& slot = slots_[size_t(epoch % in_flight)];
    check(cudaEventSynchronize(slot.done), "epoch");
    return slot.row.data();
  }
  int64_t columns() const override { return columns_; }
  void point(int64_t epoch, void* host) override {
    row(epoch);  // waits for it
    std::memcpy(host, slots_[size_t(epoch % in_flight)].point.data(), size_t(point_bytes()));
  }
  int64_t point_bytes() const override {
    return (points() ? shape_.tasks : 1) * shape_.net.size() * int64_t(sizeof(T));
  }
  int64_t submitted() const override { return submitted_; }

  void read(const std::string& name, void* host) override {
    const StateArray& a = steps_->arrays().at(name);
    copy(host, a.data, a.bytes, cudaMemcpyDeviceToHost);
  }
  void write(const std::string& name, const void* host) override {
    const StateArray& a = steps_->arrays().at(name);
    copy(a.data, host, a.bytes, cudaMemcpyHostToDevice);
  }
  void* address(const std::string& name) override {
    check(cudaStreamSynchronize(stream()), "wait");
    return steps_->arrays().at(name).data;
  }
  int64_t bytes_of(const std::string& name) const override {
    const auto found = steps_->arrays().find(name);
    return found == steps_->arrays().end() ? 0 : found->second.bytes;
  }

 private:
  // The calling thread's device, while the members are made and unmade.
  class Home {
   public:
    explicit Home(int device) : device_(device) { enter(); }
    ~Home() { leave(); }
    void enter() { here_.emplace(device_); }
    void enter_if_possible() noexcept { here_.emplace(device_, std::nothrow); }
    void leave() { here_.reset(); }

   private:
    int device_;
    std::optional<OnDevice> here_;
  };

  cudaStream_t stream() const { return own_.stream; }

  void copy(void* to, const void* from, int64_t bytes, cudaMemcpyKind kind) {
    const OnDevice here(shape_.device);
    check(cudaMemcpyAsync(to, from, size_t(bytes), kind, stream()), "copy");
    check(cudaStreamSynchronize(stream()), "copy");
  }
  template <class U, class B>
  void bring(const B& to, const U* from, int64_t count) {
    check(cudaMemcpyAsync(to.data(), from, size_t(count) * sizeof(U), cudaMemcpyHostToDevice, stream()), "copy");
  }

  int64_t x_count() const { return (shape_.own_inputs ? shape_.tasks : 1) * shape_.samples * shape_.net.inputs; }
  int64_t y_columns() const { return labels() ? 1 : shape_.net.outputs; }
  bool labels() const { return takes_labels(shape_.loss.kind); }

  void hold_data(const RunData& data) {
    const int64_t y_count = shape_.tasks * shape_.samples * y_columns();
    data_ = {shape_.net,     shape_.loss, nullptr, 0,           reinterpret_cast<const T*>(data.x),
             shape_.samples, nullptr,     nullptr, shape_.tasks};
    const T* y = labels() ? nullptr : reinterpret_cast<const T*>(data.y);
    const int32_t* label = labels() ? reinterpret_cast<const int32_t*>(data.y) : nullptr;
    data_.weights = reinterpret_cast<const T*>(data.weights);
    if (data.on_host) {
      whole_x_ = DeviceBuffer<T>(x_count());
      bring(whole_x_, data_.x, x_count()), data_.x = whole_x_.data();
      if (labels()) {
        whole_labels_ = DeviceBuffer<int32_t>(y_count);
        bring(whole_labels_, label, y_count), label = whole_labels_.data();
      } else {
        whole_y_ = DeviceBuffer<T>(y_count);
        bring(whole_y_, y, y_count), y = whole_y_.data();
      }
      if (data_.weights) {
        whole_weights_ = DeviceBuffer<T>(shape_.samples);
        bring(whole_weights_, data_.weights, shape_.samples), data_.weights = whole_weights_.data();
      }
    } else {
      wait_for({reinterpret_cast<uintptr_t>(stream())}, data.producer);
    }
    data_.y = y, data_.labels = label;
  }

  // The epoch's division into graphs, and the memory that this needs.
  void divide() {
    const int64_t batch = shape_.batch ? std::min(shape_.batch, shape_.samples) : shape_.samples;
    shape_.batch = shape_.batch ? batch : 0;
    epoch_steps_ = blocks_for(shape_.samples, batch);
    const int64_t inputs = (shape_.own_inputs ? shape_.tasks : 1) * shape_.net.inputs,
                  targets = shape_.tasks * y_columns();
    const int64_t bytes = batch * (inputs + targets) * int64_t(sizeof(T));
    const int64_t scored = shape_.scored() * shape_.tasks;
    const int64_t needed = std::max({bytes, scored * int64_t(sizeof(double)), steps_->bytes_ahead()});
    const int64_t most = most_bytes / needed;
    body_.steps = std::clamp(std::min(most, most_steps / steps_->parts()), int64_t(1), epoch_steps_);
    body_.samples = body_.steps * batch;
    tail_.steps = (epoch_steps_ - 1) % body_.steps + 1;
    tail_.samples = shape_.samples - (epoch_steps_ - tail_.steps) * batch;
    tail_.last = true;

    for (Segment* part : {&body_, &tail_}) {
      part->order = blocks_for(part->steps * int64_t(sizeof(Dials<T>)), 256) * 256;  // each starts on a line of its own
      part->subsets = part->order + blocks_for(shape_.batch ? part->samples * int64_t(sizeof(int64_t)) : 0, 256) * 256;
      part->bytes = part->subsets + blocks_for(part->steps * shape_.subset * int64_t(sizeof(int64_t)), 256) * 256;
    }
    given_ = DeviceBuffer<char>(std::max(body_.bytes, tail_.bytes));
    risk_ = DeviceBuffer<double>(body_.steps * scored), ess_ = DeviceBuffer<double>(body_.steps * shape_.tasks);
    troubles_ = DeviceBuffer<Troubles>(1);
    spread_ = DeviceBuffer<double>(2 * spread_parts);
    const int64_t networks = points() ? shape_.tasks : shape_.particles;
    reported_ = DeviceBuffer<double>(points() && !shape_.own_inputs ? networks * networks : networks);
    columns_ = networks + 2 * shape_.tasks + 5 + steps_->extra_count();
    row_ = DeviceBuffer<double>(columns_);
    if (shape_.batch) {
      const int64_t samples = std::min(body_.samples, shape_.samples);
      x_ = DeviceBuffer<T>(samples * inputs);
      if (labels())
        labels_ = DeviceBuffer<int32_t>(samples * targets);
      else
        y_ = DeviceBuffer<T>(samples * targets);
      if (data_.weights) weights_ = DeviceBuffer<T>(samples);
    }
    const int64_t given = (epoch_steps_ - tail_.steps) / body_.steps * body_.bytes + tail_.bytes;
    for (int i = 0; i < in_flight; ++i) slots_.emplace_back(given, columns_, point_bytes());
  }

  // Whether the points are reported, or each particle for itself.
  bool points() const { return !steps_->reports_each(); }

  void fill(const Segment& part, char* given, const int64_t* order, const int64_t* subsets, uint32_t first_step) const {
    for (int64_t j = 0; j < part.steps; ++j)
      reinterpret_cast<Dials<T>*>(given)[j] = steps_->dials(first_step + uint32_t(j));
    if (shape_.batch) std::memcpy(given + part.order, order, size_t(part.samples) * sizeof(int64_t));
    if (shape_.subset) std::memcpy(given + part.subsets, subsets, size_t(part.steps * shape_.subset) * sizeof(int64_t));
  }

  // All graphs that the run may come to need, while its first epoch is under way: for any form of the noise, of any
  // steps but its very first.
  void capture(const EpochNumbers& numbers) {
    for (int form = 0; form < steps_->forms(); ++form) {
      steps_->begin(steps_->numbers_with_form(numbers, form));
      for (Segment* part : {&body_, &tail_})
        if (part->last || epoch_steps_ > part->steps)
          part->graphs[form].capture(stream(), [&] { enqueue(*part, uint32_t(epoch_steps_)); });
    }
  }

  RiskProblem<T> batch_at(int64_t first, int64_t samples) const {
    RiskProblem<T> batch = data_;
    batch.theta = steps_->theta(), batch.particles = shape_.particles;
    if (!shape_.batch) return batch;
    batch.samples = samples;
    batch.x = x_.data() + first * (shape_.own_inputs ? shape_.tasks : 1) * shape_.net.inputs;
    if (labels())
      batch.labels = labels_.data() + first * shape_.tasks;
    else
      batch.y = y_.data() + first * shape_.tasks * y_columns();
    if (data_.weights) batch.weights = weights_.data() + first;
    return batch;
  }

  // The segment's dials and indices, as they were copied to device memory.
  const Dials<T>* dials() const { return reinterpret_cast<const Dials<T>*>(given_.data()); }
  const int64_t* indices(int64_t offset) const { return reinterpret_cast<const int64_t*>(given_.data() + offset); }

  void enqueue(const Segment& part, uint32_t first_step) {
    const UseArena arena(arena_);
    if (shape_.batch) gather_all(part);
    const int64_t scored = shape_.scored() * shape_.tasks;
    steps_->look_ahead(batch_at(0, std::min(shape_.batch, part.samples)), part.samples);
    for (int64_t j = 0; j < part.steps; ++j) {
      const int64_t first = j * shape_.batch;
      const RiskProblem<T> batch = batch_at(first, std::min(shape_.batch, part.samples - first));
      const StepPlace<T> place{dials() + j,
                               first_step + uint32_t(j),
                               risk_.data() + j * scored,
                               ess_.data() + j * shape_.tasks,
                               indices(part.subsets) + j * shape_.subset,
                               drawn_in(j),
                               chained_ && (shape_.batch || j > 0),
                               troubles_.data()};
      if (place.step == 0) steps_->open(batch, place);
      steps_->step(batch, place);
    }
    if (part.last) branch_.begin(stream());
    look_for_troubles(risk_.data(), part.steps, steps_->scores_itself() ? 0 : shape_.scored(), shape_.tasks,
                      points() ? ess_.data() : nullptr, &dials()->step, troubles_.data(), stream());
    if (part.last) report(part);
  }

  // The particles that step j of a segment scores: all it has room for, unless its ranks share them.
  int64_t drawn_in(int64_t j) const {
    if (!shape_.subset || !steps_->exchanges()) return shape_.scored();
    return std::find(drawn_ + j * shape_.subset, drawn_ + (j + 1) * shape_.subset, -1) - drawn_ - j * shape_.subset;
  }

  void gather_all(const Segment& part) {
    const Rows<T> x{data_.x, x_.data(), shape_.own_inputs ? shape_.tasks : 1, shape_.net.inputs};
    const auto start = [&](const auto& y) {
      gather(x, y, indices(part.order), shape_.samples, part.samples, shape_.batch, stream());
    };
    if (labels())
      start(Rows<int32_t>{data_.labels, labels_.data(), shape_.tasks, 1});
    else
      start(Rows<T>{data_.y, y_.data(), shape_.tasks, y_columns()});
    if (data_.weights)
      gather(Rows<T>{data_.weights, weights_.data(), 1, 1}, Rows<T>{}, indices(part.order), shape_.samples,
             part.samples, shape_.batch, stream());
  }

  // The history's risks.  Where tasks share x all points are scored on all tasks, and the row takes the diagonal.
  void report_risks() {
    const UseArena arena(branch_arena_);  // the first's memory is in use meanwhile
    const CudaStream on{reinterpret_cast<uintptr_t>(branch_.stream())};
    RiskProblem<T> whole = data_;
    whole.theta = steps_->reported();
    const int64_t networks = points() ? shape_.tasks : shape_.particles;
    whole.particles = networks;
    if (points() && shape_.own_inputs) {
      whole.particles = whole.tasks = 1;
      for (int64_t t = 0; t < shape_.tasks; ++t) {
        whole.theta = steps_->reported() + t * shape_.net.size();
        whole.x = data_.x + t * shape_.samples * shape_.net.inputs;
        if (labels())
          whole.labels = data_.labels + t * shape_.samples;
        else
          whole.y = data_.y + t * shape_.samples * y_columns();
        risk(whole, reported_.data() + t, on, int64_t(1), shape_.precision);
      }
    } else {
      risk(whole, reported_.data(), on, int64_t(1), shape_.precision);
    }
  }

  // Writes the row.  Its risks are computed on a branch of their own, beside its other numbers.
  void report(const Segment& part) {
    report_risks();
    steps_->sum_up();
    const int64_t networks = points() ? shape_.tasks : shape_.particles;
    const Dials<T>* last = dials() + part.steps - 1;
    RowSource row{};
    row.risks = reported_.data(), row.count = networks;
    row.stride = points() && !shape_.own_inputs ? shape_.tasks + 1 : 1;
    row.alphas = steps_->last_alphas(last);
    row.ess = points() ? ess_.data() + (part.steps - 1) * shape_.tasks : nullptr;
    row.tasks = shape_.tasks, row.particles = shape_.particles, row.size = shape_.net.size();
    row.parts = spread(static_cast<const T*>(steps_->theta()), shape_.particles, shape_.net.size(), &last->limit,
                       spread_.data(), steps_->mean(), stream());
    row.spread = spread_.data(), row.troubles = troubles_.data();
    row.extras = steps_->extras(), row.extra_count = steps_->extra_count();
    branch_.end(stream());
    write_row(row, row_.data(), stream());
  }

  RunShape shape_;
  Home here_;
  OwnStream own_;
  Branch branch_;
  Arena arena_, branch_arena_;
  bool chained_ = Chain::possible();
  std::unique_ptr<Steps<T>> steps_;
  RiskProblem<T> data_{};
  DeviceBuffer<T> whole_x_, whole_y_, whole_weights_, x_, y_, weights_;
  DeviceBuffer<int32_t> whole_labels_, labels_;
  DeviceBuffer<char> given_;
  DeviceBuffer<double> risk_, ess_, spread_, reported_, row_;
  DeviceBuffer<Troubles> troubles_;
  std::vector<Slot> slots_;
  Segment body_, tail_;
  const int64_t* drawn_ = nullptr;  // the subsets of the segment that is enqueued
  int64_t epoch_steps_ = 1, columns_ = 0, submitted_ = 0;
};

}  // namespace

template <class T>
std::unique_ptr<Run> make_run(const RunShape& shape, const RunData& data, const T* theta, const int32_t* task) {
  return std::make_unique<TrainingRun<T>>(shape, data, theta, task);
}

template std::unique_ptr<Run> make_run(const RunShape&, const RunData&, const float*, const int32_t*);
template std::unique_ptr<Run> make_run(const RunShape&, const RunData&, const double*, const int32_t*);

}  // namespace cbk::device
