// The private compiled module cbokernels._cuda; or, with CBK_EMULATED_MODULE, the same kernels on the host's emulation, for
// tests.
#include "../risk/risk_cuda.hpp"
#include "bind.hpp"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#if defined(CBK_EMULATED_MODULE)
#include "emulation/runtime.hpp"
#define CBK_MODULE _cuda_emulated
#else
#define CBK_MODULE _cuda
#endif

PYBIND11_MODULE(CBK_MODULE, m) {
  using namespace cbk::device;
  m.def("device_count", &device_count);
  m.def("device_of", &device_of, py::arg("address"));
  m.def(
      "wait_for",
      [](int device, Address stream, Address producer) {
        const OnDevice here(device);
        wait_for({stream}, {producer});
      },
      py::arg("device"), py::arg("stream"), py::arg("producer"));
  m.def(
      "read_memory",
      [](std::pair<int, Address> on, Address address, py::array out) {
        const Where where(on);
        void* const to = out.mutable_data();
        const int64_t bytes = out.nbytes();
        const py::gil_scoped_release release;
        const OnDevice here(where.device);
        read_memory(at<const void>(address), bytes, to, where.stream);
      },
      py::arg("on"), py::arg("address"), py::arg("out"));
  m.def("has_warp_groups", &has_warp_groups);
  m.def("use_warp_groups", [](bool wanted) {  // whether they can be had: for tests and timings
    warp_groups = wanted;
    return can_use_warp_groups();
  }, py::arg("wanted"));
  register_random(m);
  register_update(m);
  register_langevin(m);
  register_consensus(m);
  register_risk(m);
  register_hopping(m);
  register_transport(m);
  register_training(m);
#if defined(CBK_EMULATED_MODULE)
  // Order 0: forward, 1: reverse, else a seed.
  m.def("set_order", [](uint64_t order) {
    using cbk::emulation::Order;
    cbk::emulation::machine().set_order(order == 0 ? Order::forward : order == 1 ? Order::reverse : Order::random, order);
  });
  m.def("counts", [] {  // of the runtime's calls so far
    const cbk::emulation::Counts& c = cbk::emulation::counts;
    return std::map<std::string, size_t>{{"allocations", c.allocations}, {"instantiations", c.instantiations},
                                         {"graph_launches", c.graph_launches}, {"graph_nodes", c.graph_nodes},
                                         {"kernels", c.kernels}, {"chained", c.chained},
                                         {"copies_to_device", c.copies_to_device},
                                         {"copies_to_host", c.copies_to_host}};
  });
  m.def("set_gradient_bytes", [](int64_t bytes) { gradient_bytes = bytes; });
  m.def("set_capability", [](int major) { cbk::emulation::machine().options.capability = major; });
#endif
}
