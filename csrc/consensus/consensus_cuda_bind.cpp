#include "../cuda/bind.hpp"
#include "consensus_cuda.hpp"

namespace cbk::device {

void register_consensus(py::module_& m) {
  m.def(
      "consensus",
      [](std::pair<int, Address> on, bool float64, Address theta, Address risk, int64_t particles, int64_t size,
         int64_t tasks, double alpha, Address point, Address weights, Address ess) {
        const Where where(on);
        on_type(where, float64, [&](auto type) {
          using T = decltype(type);
          consensus(at<const T>(theta), at<const double>(risk), particles, size, tasks, {alpha}, at<T>(point),
                    at<double>(weights), at<double>(ess), where.stream);
        });
      },
      py::arg("on"), py::arg("float64"), py::arg("theta"), py::arg("risk"), py::arg("particles"), py::arg("size"),
      py::arg("tasks"), py::arg("alpha"), py::arg("point"), py::arg("weights"), py::arg("ess"));
  m.def(
      "alphas_for_ess",
      [](std::pair<int, Address> on, Address risk, int64_t particles, int64_t tasks, Address target, Address alphas) {
        const Where where(on);
        released([&] {
          const OnDevice here(where.device);
          solve_alphas(at<const double>(risk), particles, tasks, at<const double>(target), at<double>(alphas),
                       where.stream);
        });
      },
      py::arg("on"), py::arg("risk"), py::arg("particles"), py::arg("tasks"), py::arg("target"), py::arg("alphas"));
}

}  // namespace cbk::device
