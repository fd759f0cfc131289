#include "../risk/risk_cuda_bind.hpp"
#include "hopping_cuda.hpp"
#include "weights_cuda.hpp"

namespace cbk::device {

void register_hopping(py::module_& m) {
  m.def(
      "hopping_risk",
      [](std::pair<int, Address> on, bool float64, const NetworkTuple& net, Address center, int64_t particles,
         double spread, bool mirrored, uint64_t seed, uint32_t step, Address x, int64_t samples, Address y, const std::string& loss,
         bool atoms, Address out) {
        const Where where(on);
        const Network network = network_of(net);
        const Loss law = named<Loss>(loss);
        on_type(where, float64, [&](auto type) {
          using T = decltype(type);
          const Draw<T> draw{at<const T>(center), T(spread), mirrored, particles, {seed, 0, step, 0}};
          RiskProblem<T> problem = problem_of<T>(network, 0, particles, x, samples, y, law, 1);
          problem.draw = &draw;
          if (atoms)
            atom_risks(problem, draw.center, at<double>(out), where.stream);
          else
            risk(problem, at<double>(out), where.stream);
        });
      },
      py::arg("on"), py::arg("float64"), py::arg("net"), py::arg("center"), py::arg("particles"), py::arg("spread"),
      py::arg("mirrored"), py::arg("seed"), py::arg("step"), py::arg("x"), py::arg("samples"), py::arg("y"),
      py::arg("loss"), py::arg("atoms"), py::arg("out"));
  m.def(
      "atom_risks",
      [](std::pair<int, Address> on, bool float64, const NetworkTuple& net, Address center, Address theta,
         int64_t particles, Address x, int64_t samples, Address y, const std::string& loss, Address out) {
        const Where where(on);
        const Network network = network_of(net);
        const Loss law = named<Loss>(loss);
        on_type(where, float64, [&](auto type) {
          using T = decltype(type);
          atom_risks(problem_of<T>(network, theta, particles, x, samples, y, law, 1), at<const T>(center),
                     at<double>(out), where.stream);
        });
      },
      py::arg("on"), py::arg("float64"), py::arg("net"), py::arg("center"), py::arg("theta"), py::arg("particles"),
      py::arg("x"), py::arg("samples"), py::arg("y"), py::arg("loss"), py::arg("out"));
  m.def(
      "weights_by_rank",
      [](std::pair<int, Address> on, Address risk, int64_t rows, int64_t columns, bool mirrored, Address weights,
         Address ess) {
        const Where where(on);
        released([&] {
          const OnDevice here(where.device);
          hopping_weights(at<const double>(risk), rows, columns, mirrored, nullptr, at<double>(weights), at<double>(ess),
                          nullptr, where.stream);
        });
      },
      py::arg("on"), py::arg("risk"), py::arg("rows"), py::arg("columns"), py::arg("mirrored"), py::arg("weights"),
      py::arg("ess"));
  m.def(
      "noise_drift",
      [](std::pair<int, Address> on, bool float64, Address weights, int64_t rows, int64_t atoms, Address atom,
         uint64_t seed, uint32_t step, int64_t size, Address out) {
        const Where where(on);
        on_type(where, float64, [&](auto type) {
          noise_drift<decltype(type)>(at<const double>(weights), rows, atoms, at<const int32_t>(atom),
                                      {seed, 0, step, 0}, size, at<double>(out), where.stream);
        });
      },
      py::arg("on"), py::arg("float64"), py::arg("weights"), py::arg("rows"), py::arg("atoms"), py::arg("atom"),
      py::arg("seed"), py::arg("step"), py::arg("size"), py::arg("out"));
}

}  // namespace cbk::device
