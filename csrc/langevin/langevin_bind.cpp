#include "langevin.hpp"

#include "../common/bind.hpp"

namespace cbk {
namespace {

template <class T>
void register_typed(py::module_& m) {
  m.def(
      "langevin_drift",
      [](Array<T> theta, Array<T> velocity, const Array<T>& gradient, double factor, double friction,
         double temperature, double dt, uint64_t seed, uint32_t step, int num_threads) {
        const int64_t networks = rows_of("theta", theta), size = theta.shape(1);
        check_shape("velocity", velocity, {networks, size});
        check_shape("gradient", gradient, {networks, size});
        T *t = theta.mutable_data(), *r = velocity.mutable_data();
        released([&] {
          langevin_drift(t, r, gradient.data(), networks, size, factor, friction, temperature, dt, {seed, 0, step, 0},
                         num_threads);
        });
      },
      py::arg("theta").noconvert(), py::arg("velocity").noconvert(), py::arg("gradient").noconvert(),
      py::arg("factor"), py::arg("friction"), py::arg("temperature"), py::arg("dt"), py::arg("seed"),
      py::arg("step"), py::arg("num_threads"));
  m.def(
      "langevin_kick",
      [](Array<T> velocity, const Array<T>& gradient, double factor, double dt, int num_threads) {
        const int64_t networks = rows_of("velocity", velocity), size = velocity.shape(1);
        check_shape("gradient", gradient, {networks, size});
        T* r = velocity.mutable_data();
        released([&] { langevin_kick(r, gradient.data(), networks, size, factor, dt, num_threads); });
      },
      py::arg("velocity").noconvert(), py::arg("gradient").noconvert(), py::arg("factor"), py::arg("dt"),
      py::arg("num_threads"));
}

}  // namespace

void register_langevin(py::module_& m) {
  register_typed<float>(m);
  register_typed<double>(m);
}

}  // namespace cbk
