#include "langevin.hpp"

#include "../common/bind.hpp"
#if defined(CBK_CARD)
#include "langevin_cuda.hpp"
#endif

namespace cbk {
namespace {

template <class T>
void register_typed_langevin(py::module_& m) {
  m.def("langevin_drift", [](const Output<T>& theta, const Output<T>& velocity, const Input<T>& gradient, double factor,
                             double friction, double temperature, double dt, NoiseKey key, const Execution& run) {
    const int64_t networks = rows_of("theta", theta), size = theta.shape(1);
    check_shape("velocity", velocity, {networks, size});
    check_shape("gradient", gradient, {networks, size});
    released(run, [&] {
      kernels::langevin_drift(theta.data(), velocity.data(), gradient.data(), networks, size, factor, friction,
                              temperature, dt, key, run);
    });
  });
  m.def("langevin_kick",
        [](const Output<T>& velocity, const Input<T>& gradient, double factor, double dt, const Execution& run) {
    const int64_t networks = rows_of("velocity", velocity), size = velocity.shape(1);
    check_shape("gradient", gradient, {networks, size});
    released(run, [&] { kernels::langevin_kick(velocity.data(), gradient.data(), networks, size, factor, dt, run); });
  });
}

}  // namespace

void register_langevin(py::module_& m) {
  register_typed_langevin<float>(m);
  register_typed_langevin<double>(m);
}

}  // namespace cbk
