#include "../cuda/bind.hpp"
#include "transport_cuda.hpp"

namespace cbk::device {

void register_transport(py::module_& m) {
  m.def(
      "assign",
      [](std::pair<int, Address> on, bool float64, Address first, int64_t firsts, Address second, int64_t seconds,
         int64_t count, int64_t size, Address match, bool guess, Address duals, Address cost, Address gap) {
        const Where where(on);
        on_type(where, float64, [&](auto type) {
          using T = decltype(type);
          Assigned to;
          to.match = at<int64_t>(match), to.guess = guess, to.duals = at<double>(duals);
          to.cost = at<double>(cost), to.gap = at<double>(gap);
          assign(Measures<T>{at<const T>(first), at<const T>(second), firsts, seconds, count, size}, to, where.stream);
        });
      },
      py::arg("on"), py::arg("float64"), py::arg("first"), py::arg("firsts"), py::arg("second"), py::arg("seconds"),
      py::arg("count"), py::arg("size"), py::arg("match"), py::arg("guess"), py::arg("duals"), py::arg("cost"),
      py::arg("gap"));
  m.def(
      "barycenter",
      [](std::pair<int, Address> on, bool float64, Address atoms, int64_t particles, int64_t count, int64_t size,
         Address weights, bool start, Address support, int64_t iterations, Address match, Address history, Address objective) {
        const Where where(on);
        on_type(where, float64, [&](auto type) {
          using T = decltype(type);
          barycenter(BarycenterArrays<T>{at<const T>(atoms), particles, count, size, at<const double>(weights), start,
                                         at<T>(support), iterations, at<int64_t>(match), at<double>(history),
                                         at<double>(objective)},
                     where.stream);
        });
      },
      py::arg("on"), py::arg("float64"), py::arg("atoms"), py::arg("particles"), py::arg("count"), py::arg("size"),
      py::arg("weights"), py::arg("start"), py::arg("support"), py::arg("iterations"), py::arg("match"),
      py::arg("history"), py::arg("objective"));
  m.def(
      "sinkhorn",
      [](std::pair<int, Address> on, bool float64, Address atoms, int64_t particles, int64_t count, int64_t size,
         Address support, int64_t points, double epsilon, double tolerance, int64_t iterations, Address cost, Address error,
         Address projection) {
        const Where where(on);
        on_type(where, float64, [&](auto type) {
          using T = decltype(type);
          sinkhorn(SinkhornArrays<T>{at<const T>(atoms), particles, count, size, at<const T>(support), points, epsilon,
                                     tolerance, iterations, at<double>(cost), at<double>(error), at<T>(projection)},
                   where.stream);
        });
      },
      py::arg("on"), py::arg("float64"), py::arg("atoms"), py::arg("particles"), py::arg("count"), py::arg("size"),
      py::arg("support"), py::arg("points"), py::arg("epsilon"), py::arg("tolerance"), py::arg("iterations"),
      py::arg("cost"), py::arg("error"), py::arg("projection"));
  m.def(
      "transport_update",
      [](std::pair<int, Address> on, bool float64, Address atoms, Address support, Address match, Address out,
         int64_t particles, int64_t count, int64_t size, double drift, double diffusion, double dt, uint64_t seed,
         uint32_t step, uint32_t first_particle) {
        const Where where(on);
        on_type(where, float64, [&](auto type) {
          using T = decltype(type);
          transport_update(at<const T>(atoms), at<const T>(support), at<const int32_t>(match), at<T>(out), particles,
                           count, size, count, drift, diffusion, dt, {seed, 0, step, first_particle}, where.stream);
        });
      },
      py::arg("on"), py::arg("float64"), py::arg("atoms"), py::arg("support"), py::arg("match"), py::arg("out"),
      py::arg("particles"), py::arg("count"), py::arg("size"), py::arg("drift"), py::arg("diffusion"), py::arg("dt"),
      py::arg("seed"), py::arg("step"), py::arg("first_particle"));
}

}  // namespace cbk::device
