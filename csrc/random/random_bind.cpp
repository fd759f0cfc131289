#include "../common/bind.hpp"
#include "random.hpp"

namespace cbk {
namespace {

template <class T>
void register_filled(py::module_& m) {
  m.def(
      "standard_normal",
      [](Array<T> out, uint64_t seed, uint32_t step, uint32_t stream, uint32_t first_particle, int num_threads) {
        const int64_t rows = rows_of("out", out), columns = out.shape(1);
        T* p = out.mutable_data();
        released([&] { standard_normal(p, rows, columns, {seed, stream, step, first_particle}, num_threads); });
      },
      py::arg("out").noconvert(), py::arg("seed"), py::arg("step"), py::arg("stream"), py::arg("first_particle"),
      py::arg("num_threads"));
  m.def(
      "uniform",
      [](Array<T> out, double low, double high, uint64_t seed, uint32_t step, uint32_t stream,
         uint32_t first_particle, int num_threads) {
        const int64_t rows = rows_of("out", out), columns = out.shape(1);
        T* p = out.mutable_data();
        released([&] { uniform(p, rows, columns, low, high, {seed, stream, step, first_particle}, num_threads); });
      },
      py::arg("out").noconvert(), py::arg("low"), py::arg("high"), py::arg("seed"), py::arg("step"),
      py::arg("stream"), py::arg("first_particle"), py::arg("num_threads"));
}

}  // namespace

void register_random(py::module_& m) {
  register_filled<float>(m);
  register_filled<double>(m);
  m.def(
      "philox4x32",
      [](const Array<uint32_t>& counter, const Array<uint32_t>& key, Array<uint32_t> out) {
        const int64_t count = counter.ndim() ? counter.shape(0) : 0;
        check_shape("counter", counter, {count, 4});
        check_shape("key", key, {count, 2});
        check_shape("out", out, {count, 4});
        uint32_t* p = out.mutable_data();
        released([&] { philox4x32(counter.data(), key.data(), count, p); });
      },
      py::arg("counter").noconvert(), py::arg("key").noconvert(), py::arg("out").noconvert());
  m.def(
      "permutation",
      [](Array<int64_t> out, int64_t n, uint64_t seed, uint32_t step, uint32_t stream) {
        const int64_t count = out.size();
        if (count > n) throw py::value_error("out is longer than the permutation");
        int64_t* p = out.mutable_data();
        released([&] { permutation(p, count, n, seed, step, stream); });
      },
      py::arg("out").noconvert(), py::arg("n"), py::arg("seed"), py::arg("step"), py::arg("stream"));
}

}  // namespace cbk
