#include <pybind11/numpy.h>

#include <limits>

#include "../risk/risk_cuda_bind.hpp"
#include "training_cuda.hpp"

namespace cbk::device {
namespace {

using Numbers = std::map<std::string, double>;
using Indices = std::optional<py::array_t<int64_t>>;

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

// What the method has not is NaN.
EpochNumbers numbers_of(const RunShape& shape, const Numbers& numbers) {
  constexpr double none = std::numeric_limits<double>::quiet_NaN();
  EpochNumbers to{none, none, none, none, none, none, none, none, none, none, none, none, none, none};
  Taken take("an epoch's numbers", numbers);
  const auto move = [&] {
    to.drift = take("drift"), to.diffusion = take("diffusion"), to.dt = take("dt");
    if (shape.noise == Noise::truncated) to.radius = take("radius");
  };
  const auto descend = [&] {
    to.lr = take("lr"), to.beta1 = take("beta1"), to.beta2 = take("beta2"), to.delta = take("delta");
  };
  to.limit = take("limit");
  switch (shape.method) {
    case Method::cbo:
      to.alpha = take("alpha"), to.floor = take("floor"), move();
      if (shape.flies) to.friction = take("friction");
      break;
    case Method::adam: descend(); break;
    case Method::hybrid: to.alpha = take("alpha"), move(), descend(); break;
    case Method::hopping: to.spread = take("spread"), descend(); break;
    case Method::heavy_ball:
      to.friction = take("friction"), to.temperature = take("temperature"), to.dt = take("dt");
      break;
    case Method::gradient_flow: move(); break;
    case Method::transport: to.alpha = take("alpha"), move(); break;
  }
  take.all();
  return to;
}

// The numbers of a shape that only some methods have.
void set_more(RunShape& shape, const Numbers& more) {
  Taken take("the method's numbers", more);
  switch (shape.method) {
    case Method::cbo:
      shape.subset = int64_t(take("subset")), shape.subset_moves = take("subset_moves") != 0;
      shape.flies = take("flies") != 0;
      break;
    case Method::hopping:
      shape.drawn = int64_t(take("drawn")), shape.fraction = take("fraction");
      shape.mirrored = take("mirrored") != 0, shape.atoms = take("atoms") != 0;
      break;
    case Method::transport: shape.iterations = int64_t(take("iterations")), shape.exact = take("exact") != 0; break;
    case Method::adam:
    case Method::hybrid:
    case Method::heavy_ball:
    case Method::gradient_flow: break;
  }
  take.all();
}

Method method_named(const std::string& name) {
  constexpr const char* names[] = {"cbo", "adam", "hybrid", "hopping", "heavy_ball", "gradient_flow", "transport"};
  for (size_t i = 0; i < std::size(names); ++i)
    if (name == names[i]) return Method(i);
  throw py::value_error("unknown method '" + name + "'");
}

struct StartedRun {
  RunShape shape;
  py::object owner;  // of the memory of x and y, which the run may read until it ends
  std::unique_ptr<Run> run;
};

// theta [particles, size] and task [particles] are NumPy's, contiguous; x and y addresses.
std::unique_ptr<StartedRun> start(std::pair<int, Address> on, const NetworkTuple& net, const std::string& method,
                                  Address x, Address y, bool on_host, const std::string& loss, int64_t samples, int64_t batch,
                                  int64_t tasks, bool own_inputs, const py::array& theta,
                                  const std::optional<py::array_t<int32_t>>& task, uint64_t seed,
                                  const std::string& noise, bool solve, const std::string& precision,
                                  const Numbers& more, py::object owner) {
  RunShape shape{on.first, method_named(method), network_of(net), named<Loss>(loss), samples,
                 batch, tasks, own_inputs, theta.shape(0), seed, named<Noise>(noise), solve, precision_of(precision)};
  set_more(shape, more);
  const RunData data{x, y, on_host, {on.second}};
  const void* particles = theta.data();
  const int32_t* rows = task ? task->data() : nullptr;
  const bool float64 = theta.itemsize() == 8;
  auto started = std::make_unique<StartedRun>(StartedRun{shape, std::move(owner), nullptr});
  released([&] {
    started->run = float64 ? make_run(shape, data, static_cast<const double*>(particles), rows)
                           : make_run(shape, data, static_cast<const float*>(particles), rows);
  });
  return started;
}

void check_count(const char* name, const Indices& indices, int64_t wanted) {
  const int64_t got = indices ? indices->size() : 0;
  if (got != wanted)
    throw py::value_error(std::string(name) + " holds " + std::to_string(got) + ", expected " + std::to_string(wanted));
}

void check_bytes(const Run& run, const std::string& name, const py::array& array) {
  if (run.bytes_of(name) != array.nbytes() || run.bytes_of(name) == 0)
    throw py::value_error("the run's " + name + " has " + std::to_string(run.bytes_of(name)) + " bytes");
}

}  // namespace

void register_training(py::module_& m) {
  using py::arg;
  py::class_<StartedRun>(m, "Run")
      .def_readonly_static("in_flight", &Run::in_flight)
      .def_property_readonly("submitted", [](const StartedRun& started) { return started.run->submitted(); })
      .def(
          "submit",
          [](StartedRun& started, const Indices& order, const Indices& subsets, uint32_t step, const Numbers& numbers) {
            const RunShape& shape = started.shape;
            const int64_t steps = shape.batch ? (shape.samples + shape.batch - 1) / shape.batch : 1;
            check_count("order", order, shape.batch ? shape.samples : 0);
            check_count("subsets", subsets, steps * shape.subset);
            const int64_t *samples = order ? order->data() : nullptr, *particles = subsets ? subsets->data() : nullptr;
            const EpochNumbers epoch = numbers_of(started.shape, numbers);
            released([&] { started.run->submit(samples, particles, step, epoch); });
          },
          arg("order"), arg("subsets"), arg("step"), arg("numbers"))
      .def(
          "row",
          [](StartedRun& started, int64_t epoch) {
            Run& run = *started.run;
            const double* row = nullptr;
            released([&] { row = run.row(epoch); });
            return py::array_t<double>(run.columns(), row);
          },
          arg("epoch"))
      .def(
          "point",
          [](StartedRun& started, int64_t epoch, py::array out) {
            Run& run = *started.run;
            if (out.nbytes() != run.point_bytes())
              throw py::value_error("the run's point has " + std::to_string(run.point_bytes()) + " bytes");
            void* to = out.mutable_data();
            released([&] { run.point(epoch, to); });
          },
          arg("epoch"), arg("out"))
      .def(
          "read",
          [](StartedRun& started, const std::string& name, py::array out) {
            Run& run = *started.run;
            check_bytes(run, name, out);
            void* to = out.mutable_data();
            released([&] { run.read(name, to); });
          },
          arg("name"), arg("out"))
      .def(
          "write",
          [](StartedRun& started, const std::string& name, const py::array& values) {
            Run& run = *started.run;
            check_bytes(run, name, values);
            const void* from = values.data();
            released([&] { run.write(name, from); });
          },
          arg("name"), arg("values"));
  m.def("start", &start, arg("on"), arg("net"), arg("method"), arg("x"), arg("y"),
        arg("on_host"), arg("loss"), arg("samples"), arg("batch"), arg("tasks"), arg("own_inputs"), arg("theta"),
        arg("task"), arg("seed"), arg("noise"), arg("solve"), arg("precision"), arg("more"), arg("owner"));
  m.def(
      "count_not_finite",
      [](std::pair<int, Address> on, bool float64, Address values, int64_t count) {
        const Where where(on);
        int64_t bad = 0;
        on_type(where, float64,
                [&](auto type) { bad = count_not_finite(at<const decltype(type)>(values), count, where.stream); });
        return bad;
      },
      arg("on"), arg("float64"), arg("values"), arg("count"));
  m.def(
      "count_outside",
      [](std::pair<int, Address> on, Address values, int64_t count, int64_t end) {
        const Where where(on);
        int64_t bad = 0;
        released([&] {
          const OnDevice here(where.device);
          bad = count_outside(at<const int32_t>(values), count, end, where.stream);
        });
        return bad;
      },
      arg("on"), arg("values"), arg("count"), arg("end"));
}

}  // namespace cbk::device
