#include "risk_cuda_bind.hpp"

namespace cbk::device {

void register_risk(py::module_& m) {
  m.def(
      "forward",
      [](std::pair<int, Address> on, bool float64, const NetworkTuple& net, Address theta, int64_t particles, Address x,
         int64_t samples, Address out, const std::string& precision) {
        const Where where(on);
        const Network network = network_of(net);
        on_type(where, float64, [&](auto type) {
          using T = decltype(type);
          forward(problem_of<T>(network, theta, particles, x, samples, 0, Loss::mse, 0), at<T>(out), where.stream, precision_of(precision));
        });
      },
      py::arg("on"), py::arg("float64"), py::arg("net"), py::arg("theta"), py::arg("particles"), py::arg("x"),
      py::arg("samples"), py::arg("out"), py::arg("precision") = "float32");
  m.def(
      "risk",
      [](std::pair<int, Address> on, bool float64, const NetworkTuple& net, Address theta, int64_t particles, Address x,
         int64_t samples, Address y, const std::string& loss, int64_t tasks, Address out, int64_t stride,
         const std::string& precision) {
        const Where where(on);
        const Network network = network_of(net);
        const Loss law = named<Loss>(loss);
        on_type(where, float64, [&](auto type) {
          using T = decltype(type);
          risk(problem_of<T>(network, theta, particles, x, samples, y, law, tasks), at<double>(out), where.stream,
               stride, precision_of(precision));
        });
      },
      py::arg("on"), py::arg("float64"), py::arg("net"), py::arg("theta"), py::arg("particles"), py::arg("x"),
      py::arg("samples"), py::arg("y"), py::arg("loss"), py::arg("tasks"), py::arg("out"), py::arg("stride"),
      py::arg("precision") = "float32");
  m.def(
      "risk_gradient",
      [](std::pair<int, Address> on, bool float64, const NetworkTuple& net, Address theta, int64_t particles, Address x,
         int64_t samples, Address y, const std::string& loss, Address out, Address gradient,
         const std::string& precision) {
        const Where where(on);
        const Network network = network_of(net);
        const Loss law = named<Loss>(loss);
        on_type(where, float64, [&](auto type) {
          using T = decltype(type);
          risk_gradient(problem_of<T>(network, theta, particles, x, samples, y, law, 1), at<double>(out),
                        at<T>(gradient), where.stream, precision_of(precision));
        });
      },
      py::arg("on"), py::arg("float64"), py::arg("net"), py::arg("theta"), py::arg("particles"), py::arg("x"),
      py::arg("samples"), py::arg("y"), py::arg("loss"), py::arg("out"), py::arg("gradient"),
      py::arg("precision") = "float32");
}

}  // namespace cbk::device
