#include "../cuda/bind.hpp"
#include "random_cuda.hpp"

namespace cbk::device {

void register_random(py::module_& m) {
  m.def(
      "standard_normal",
      [](std::pair<int, Address> on, bool float64, Address out, int64_t rows, int64_t columns, uint64_t seed,
         uint32_t step, uint32_t stream, uint32_t first_particle) {
        const Where where(on);
        on_type(where, float64, [&](auto type) {
          standard_normal(at<decltype(type)>(out), rows, columns, {seed, stream, step, first_particle}, where.stream);
        });
      },
      py::arg("on"), py::arg("float64"), py::arg("out"), py::arg("rows"), py::arg("columns"), py::arg("seed"),
      py::arg("step"), py::arg("stream"), py::arg("first_particle"));
}

}  // namespace cbk::device
