#include <pybind11/numpy.h>

#include "../risk/risk_cuda_bind.hpp"
#include "../update/noise_bind.hpp"
#include "training_cuda.hpp"

namespace cbk::device {
namespace {

using Numbers = std::map<std::string, double>;

double number(const Numbers& numbers, const char* name) {
  const auto found = numbers.find(name);
  return found == numbers.end() ? 0 : found->second;
}

EpochNumbers numbers_of(const Numbers& n) {
  const auto get = [&](const char* name) { return number(n, name); };
  return {get("alpha"), get("drift"), get("diffusion"), get("dt"), get("floor"), get("radius"), get("lr"), get("beta1"),
          get("beta2"), get("delta"), get("friction"), get("temperature"), get("spread"), get("limit")};
}

Method method_named(const std::string& name) {
  constexpr const char* names[] = {"cbo", "adam", "hybrid", "hopping", "heavy_ball", "gradient_flow", "transport"};
  for (size_t i = 0; i < std::size(names); ++i)
    if (name == names[i]) return Method(i);
  throw py::value_error("unknown method '" + name + "'");
}

// theta [particles, size] and task [particles] are NumPy's, contiguous; x and y addresses.
// `more` are the shape's numbers that only some methods have.
std::unique_ptr<Run> start(std::pair<int, Address> on, const NetworkTuple& net, const std::string& method, Address x,
                           Address y, bool on_host, bool labels, int64_t samples, int64_t batch, int64_t tasks,
                           bool own_inputs, const py::array& theta, const std::optional<py::array_t<int32_t>>& task,
                           uint64_t seed, const std::string& noise, bool solve, const std::string& precision,
                           const Numbers& more) {
  RunShape shape{on.first, method_named(method), network_of(net), labels ? Loss::cross_entropy : Loss::mse, samples, batch,
                 tasks, own_inputs, theta.shape(0), seed, noise_named(noise), solve, precision_of(precision)};
  shape.subset = int64_t(number(more, "subset")), shape.subset_moves = number(more, "subset_moves") != 0;
  shape.flies = number(more, "flies") != 0;
  shape.drawn = int64_t(number(more, "drawn")), shape.fraction = number(more, "fraction");
  shape.mirrored = number(more, "mirrored") != 0, shape.atoms = number(more, "atoms") != 0;
  shape.iterations = int64_t(number(more, "iterations")), shape.exact = number(more, "exact") != 0;
  const RunData data{x, y, on_host, {on.second}};
  const void* particles = theta.data();
  const int32_t* rows = task ? task->data() : nullptr;
  const bool float64 = theta.itemsize() == 8;
  py::gil_scoped_release release;
  return float64 ? make_run(shape, data, static_cast<const double*>(particles), rows)
                 : make_run(shape, data, static_cast<const float*>(particles), rows);
}

void check_bytes(const Run& run, const std::string& name, const py::array& array) {
  if (run.bytes_of(name) != array.nbytes() || run.bytes_of(name) == 0)
    throw py::value_error("the run's " + name + " has " + std::to_string(run.bytes_of(name)) + " bytes");
}

}  // namespace

void register_training(py::module_& m) {
  using py::arg;
  py::class_<Run>(m, "Run")
      .def_readonly_static("in_flight", &Run::in_flight)
      .def_property_readonly("submitted", &Run::submitted)
      .def(
          "submit",
          [](Run& run, const std::optional<py::array_t<int64_t>>& order, const std::optional<py::array_t<int64_t>>& subsets,
             uint32_t step, const Numbers& numbers) {
            const int64_t *samples = order ? order->data() : nullptr, *particles = subsets ? subsets->data() : nullptr;
            const EpochNumbers epoch = numbers_of(numbers);
            py::gil_scoped_release release;
            run.submit(samples, particles, step, epoch);
          },
          arg("order"), arg("subsets"), arg("step"), arg("numbers"))
      .def(
          "row",
          [](Run& run, int64_t epoch) {
            const double* row = nullptr;
            {
              py::gil_scoped_release release;
              row = run.row(epoch);
            }
            return py::array_t<double>(run.columns(), row);
          },
          arg("epoch"))
      .def(
          "read",
          [](Run& run, const std::string& name, py::array out) {
            check_bytes(run, name, out);
            void* to = out.mutable_data();
            py::gil_scoped_release release;
            run.read(name, to);
          },
          arg("name"), arg("out"))
      .def(
          "write",
          [](Run& run, const std::string& name, const py::array& values) {
            check_bytes(run, name, values);
            const void* from = values.data();
            py::gil_scoped_release release;
            run.write(name, from);
          },
          arg("name"), arg("values"));
  m.def("start", &start, arg("on"), arg("net"), arg("method"), arg("x"), arg("y"), arg("on_host"), arg("labels"),
        arg("samples"), arg("batch"), arg("tasks"), arg("own_inputs"), arg("theta"), arg("task"), arg("seed"), arg("noise"),
        arg("solve"), arg("precision"), arg("more"));
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
        py::gil_scoped_release release;
        const OnDevice here(where.device);
        return count_outside(at<const int32_t>(values), count, end, where.stream);
      },
      arg("on"), arg("values"), arg("count"), arg("end"));
}

}  // namespace cbk::device
