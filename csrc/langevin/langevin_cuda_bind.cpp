#include "../cuda/bind.hpp"
#include "langevin_cuda.hpp"

namespace cbk::device {

void register_langevin(py::module_& m) {
  m.def(
      "langevin_drift",
      [](std::pair<int, Address> on, bool float64, Address theta, Address velocity, Address gradient, int64_t networks,
         int64_t size, double factor, double friction, double temperature, double dt, uint64_t seed, uint32_t step) {
        const Where where(on);
        on_type(where, float64, [&](auto type) {
          using T = decltype(type);
          langevin_drift(at<T>(theta), at<T>(velocity), at<const T>(gradient), networks, size, factor, friction,
                         temperature, dt, {seed, 0, step, 0}, where.stream);
        });
      },
      py::arg("on"), py::arg("float64"), py::arg("theta"), py::arg("velocity"), py::arg("gradient"),
      py::arg("networks"), py::arg("size"), py::arg("factor"), py::arg("friction"), py::arg("temperature"),
      py::arg("dt"), py::arg("seed"), py::arg("step"));
  m.def(
      "langevin_kick",
      [](std::pair<int, Address> on, bool float64, Address velocity, Address gradient, int64_t networks, int64_t size,
         double factor, double dt) {
        const Where where(on);
        on_type(where, float64, [&](auto type) {
          using T = decltype(type);
          langevin_kick(at<T>(velocity), at<const T>(gradient), networks, size, factor, dt, where.stream);
        });
      },
      py::arg("on"), py::arg("float64"), py::arg("velocity"), py::arg("gradient"), py::arg("networks"),
      py::arg("size"), py::arg("factor"), py::arg("dt"));
}

}  // namespace cbk::device
