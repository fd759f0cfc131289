#include "random.hpp"

#include "../common/bind.hpp"
#if defined(CBK_CARD)
#include "random_cuda.hpp"
#endif

namespace cbk {
namespace {

template <class T>
void register_typed_random(py::module_& m) {
  m.def("standard_normal", [](const Output<T>& out, NoiseKey key, const Execution& run) {
    const int64_t rows = rows_of("out", out), columns = out.shape(1);
    released(run, [&] { kernels::standard_normal(out.data(), rows, columns, key, run); });
  });
#if !defined(CBK_CARD)
  m.def("uniform", [](const Output<T>& out, double low, double high, NoiseKey key, Execution run) {
    const int64_t rows = rows_of("out", out), columns = out.shape(1);
    released(run, [&] { uniform(out.data(), rows, columns, low, high, key, run); });
  });
#endif
}

}  // namespace

void register_random(py::module_& m) {
  register_typed_random<float>(m);
  register_typed_random<double>(m);
#if !defined(CBK_CARD)
  m.def("philox4x32", [](const Input<uint32_t>& counter, const Input<uint32_t>& key, const Output<uint32_t>& out) {
    const int64_t count = counter.ndim() ? counter.shape(0) : 0;
    check_shape("counter", counter, {count, 4});
    check_shape("key", key, {count, 2});
    check_shape("out", out, {count, 4});
    released([&] { philox4x32(counter.data(), key.data(), count, out.data()); });
  });
  m.def("permutation", [](const Output<int64_t>& out, int64_t n, uint64_t seed, uint32_t step, uint32_t stream) {
    const int64_t count = out.size();
    if (count > n) throw py::value_error("out is longer than the permutation");
    released([&] { permutation(out.data(), count, n, seed, step, stream); });
  });
#endif
}

}  // namespace cbk
