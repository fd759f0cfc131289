// Runs on a card.  They have little in common with the CPU's epochs (training_bind.cpp), which are calls on the
// caller's arrays: a run owns its arrays, and its epochs are given to the card ahead of the host.
#include "training_cuda.hpp"

#include <limits>
#include <map>

#include "../risk/risk_bind.hpp"

namespace cbk {

template <>
struct Names<device::Method> {
#define CBK_NAME(name, ...) #name,
  static constexpr const char* what = "method";
  static constexpr const char* all[] = {CBK_CARD_METHODS(CBK_NAME)};
#undef CBK_NAME
};

namespace device {

// Arrays that the module takes from the host: the particles and orders, and data wherever they lie.
template <class T>
struct HostInput : Input<T> {};
struct DataInput : Array {
  bool on_host;
};

}  // namespace device
}  // namespace cbk

namespace pybind11::detail {

template <>
struct type_caster<cbk::device::Method> : cbk::KindCaster<cbk::device::Method> {};
template <class T>
struct type_caster<cbk::device::HostInput<T>> {
  PYBIND11_TYPE_CASTER(cbk::device::HostInput<T>, npy_format_descriptor<T>::name);
  bool load(handle source, bool) { return value.load_numpy(source) && value.template holds<T>(); }
};
template <>
struct type_caster<cbk::device::DataInput> {
  PYBIND11_TYPE_CASTER(cbk::device::DataInput, const_name("array"));
  bool load(handle source, bool) {
    value.on_host = isinstance<array>(source);
    return value.on_host ? value.load_numpy(source) : value.load_device(source);
  }
};

}  // namespace pybind11::detail

namespace cbk::device {
namespace {

using Numbers = std::map<std::string, double>;
using Indices = std::optional<HostInput<int64_t>>;

// Each number is to be taken once: one that is missing, or that nobody took, is an error.
class Taken {
 public:
  Taken(const char* where, const Numbers& numbers) : where_(where), left_(numbers) {}
  double operator()(const char* name) {
    const auto number = left_.extract(name);
    if (number.empty()) throw py::value_error(where_ + " lack '" + name + "'");
    return number.mapped();
  }
  void all() const {
    if (!left_.empty()) throw py::value_error(where_ + " hold '" + left_.begin()->first + "', which nobody reads");
  }

 private:
  const std::string where_;
  Numbers left_;
};

struct Reads {  // names, with a space between any two
  const char *of_an_epoch, *of_a_run;
};
constexpr Reads reads[] = {
#define CBK_READS(name, of_an_epoch, of_a_run) {of_an_epoch, of_a_run},
    CBK_CARD_METHODS(CBK_READS)
#undef CBK_READS
};

bool has_word(const std::string& words, const std::string& word) {
  return (" " + words + " ").find(" " + word + " ") != std::string::npos;
}

// What the method has not is NaN.
EpochNumbers numbers_of(const RunShape& shape, const Numbers& numbers) {
  const std::string words = reads[size_t(shape.method)].of_an_epoch + std::string(" limit decay");
  const auto is_read = [&](const char* name) {
    if (name == std::string("radius") && traits_of(shape.noise).reach != Reach::bounded_distance) return false;
    if (name == std::string("friction") && shape.method == Method::cbo && !shape.flies) return false;
    return has_word(words, name);
  };
  Taken take("an epoch's numbers", numbers);
  EpochNumbers to{};
#define CBK_TAKE(name) to.name = is_read(#name) ? take(#name) : std::numeric_limits<double>::quiet_NaN();
  CBK_EPOCH_NUMBERS(CBK_TAKE)
#undef CBK_TAKE
  take.all();
  return to;
}

// The numbers of a shape that only some methods have, and whether weights decay.
void set_more(RunShape& shape, const Numbers& more) {
  const std::string words = reads[size_t(shape.method)].of_a_run + std::string(" decays");
  Taken take("the method's numbers", more);
#define CBK_TAKE(name) \
  if (has_word(words, #name)) shape.name = decltype(shape.name)(take(#name));
  CBK_METHOD_NUMBERS(CBK_TAKE)
#undef CBK_TAKE
  take.all();
}

struct StartedRun {
  RunShape shape;
  py::object owner;  // of the memory of x and y, which the run may read until it ends
  std::unique_ptr<Run> run;
};

template <class T>
std::unique_ptr<StartedRun> start(const Network& net, Method method, const DataInput& x, const DataInput& y,
                                  const std::optional<DataInput>& weights, Loss loss, int64_t batch,
                                  const HostInput<T>& theta, const std::optional<HostInput<int32_t>>& task,
                                  uint64_t seed, Noise noise, bool solve, const Numbers& more, py::object owner,
                                  const Execution& run) {
  if (!x.holds<T>()) throw py::type_error("x must be of the particles' type");
  if (x.on_host != y.on_host || (weights && x.on_host != weights->on_host))
    throw py::type_error("x, y and weights must lie in the same memory");
  RiskProblem<T> data = tasks_of(net, Input<T>{x}, {y, weights}, loss);
  set_particles(data, theta);
  if (method != Method::cbo && method != Method::hopping && method != Method::transport) check_slopes(data);
  if (task) check_shape("task", *task, {data.particles});
  RunShape shape{run.device,    method,         net,  loss,  data.samples, batch,        data.tasks,
                 x.ndim() == 3, data.particles, seed, noise, solve,        run.precision};
  set_more(shape, more);
  const void* const targets = data.labels ? static_cast<const void*>(data.labels) : data.y;
  const RunData where{Address(data.x), Address(targets), Address(data.weights), x.on_host, run.stream};
  auto started = std::make_unique<StartedRun>(StartedRun{shape, std::move(owner), nullptr});
  cbk::released([&] { started->run = make_run(shape, where, data.theta, task ? task->data() : nullptr); });
  return started;
}

void check_count(const char* name, const Indices& indices, int64_t wanted) {
  const int64_t got = indices ? indices->size() : 0;
  if (got != wanted)
    throw py::value_error(std::string(name) + " holds " + std::to_string(got) + ", expected " + std::to_string(wanted));
}

void submit(StartedRun& started, const Indices& order, const Indices& subsets, uint32_t step, const Numbers& numbers) {
  const RunShape& shape = started.shape;
  const int64_t steps = shape.batch ? (shape.samples + shape.batch - 1) / shape.batch : 1;
  check_count("order", order, shape.batch ? shape.samples : 0);
  check_count("subsets", subsets, steps * shape.subset);
  const int64_t *samples = order ? order->data() : nullptr, *particles = subsets ? subsets->data() : nullptr;
  const EpochNumbers epoch = numbers_of(shape, numbers);
  cbk::released([&] { started.run->submit(samples, particles, step, epoch); });
}

py::array_t<double> row(StartedRun& started, int64_t epoch) {
  const double* row = nullptr;
  cbk::released([&] { row = started.run->row(epoch); });
  return py::array_t<double>(started.run->columns(), row);
}

void point(StartedRun& started, int64_t epoch, py::array out) {
  Run& run = *started.run;
  if (out.nbytes() != run.point_bytes())
    throw py::value_error("the run's point has " + std::to_string(run.point_bytes()) + " bytes");
  void* const to = out.mutable_data();
  cbk::released([&] { run.point(epoch, to); });
}

// exchange(run, what, scored, step), for the methods that have points; else None.  It must not keep the run.
void share(StartedRun& started, uint32_t first, const py::object& exchange) {
  Exchange ask;
  if (!exchange.is_none())
    ask = [&started, exchange](const char* what, int64_t scored, uint32_t step) {
      const py::gil_scoped_acquire acquire;
      const py::object run = py::cast(&started, py::return_value_policy::reference);
      return exchange(run, what, scored, step).cast<std::vector<double>>();
    };
  started.run->share(first, std::move(ask));
}

void check_bytes(const Run& run, const std::string& name, const py::array& array) {
  if (run.bytes_of(name) != array.nbytes() || run.bytes_of(name) == 0)
    throw py::value_error("the run's " + name + " has " + std::to_string(run.bytes_of(name)) + " bytes");
}

void read(StartedRun& started, const std::string& name, py::array out) {
  check_bytes(*started.run, name, out);
  void* const to = out.mutable_data();
  cbk::released([&] { started.run->read(name, to); });
}

void write(StartedRun& started, const std::string& name, const py::array& values) {
  check_bytes(*started.run, name, values);
  const void* const from = values.data();
  cbk::released([&] { started.run->write(name, from); });
}

template <class T>
void register_typed_training(py::module_& m) {
  using py::arg;
  m.def("start", &start<T>, arg("net"), arg("method"), arg("x"), arg("y"), arg("weights"), arg("loss"), arg("batch"),
        arg("theta"), arg("task"), arg("seed"), arg("noise"), arg("solve"), arg("more"), arg("owner"), arg("run"));
  m.def("count_not_finite", [](const Input<T>& values, const Where& on) {
    int64_t bad = 0;
    released(on, [&] { bad = count_not_finite(values.data(), values.size(), on); });
    return bad;
  });
}

}  // namespace
}  // namespace cbk::device

namespace cbk {

void register_training(py::module_& m) {
  using namespace device;
  py::class_<StartedRun>(m, "Run")
      .def_readonly_static("in_flight", &device::Run::in_flight)
      .def_property_readonly("submitted", [](const StartedRun& started) { return started.run->submitted(); })
      .def("submit", &submit)
      .def("row", &row)
      .def("point", &point)
      .def("read", &read)
      .def("write", &write)
      .def("share", &share)
      .def("address", [](StartedRun& started, const std::string& name) {
    Address address = 0;
    cbk::released([&] { address = Address(started.run->address(name)); });
    return address;
  });
  device::register_typed_training<float>(m);
  device::register_typed_training<double>(m);
  m.def("count_outside", [](const Input<int32_t>& values, int64_t end, const Where& on) {
    int64_t bad = 0;
    released(on, [&] { bad = count_outside(values.data(), values.size(), end, on); });
    return bad;
  });
}

}  // namespace cbk
