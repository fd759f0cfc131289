// What the Python tests want of the emulation, and ask of it.
#include "../../../csrc/cuda/bind.hpp"
#include "../../../csrc/risk/cuda/risk_cuda.hpp"
#include "state.hpp"

namespace cbk::device {

void register_emulation(py::module_& m) {
  namespace emulation = cbk::emulation;
  // Order 0: forward, 1: reverse, else a seed.
  m.def("set_order", [](uint64_t order) {
    using emulation::Order;
    emulation::machine().set_order(order == 0 ? Order::forward : order == 1 ? Order::reverse : Order::random, order);
  });
  m.def("set_gradient_bytes", [](int64_t bytes) { gradient_bytes = bytes; });
  m.def("set_capability", [](int major) { emulation::machine().options.capability = major; });
  m.def("set_devices", &emulation::set_devices);
  m.def("fail_calls", [](const std::string& name, int error) { emulation::fail_calls(name, cudaError_t(error)); });
  m.def("set_device", [](int device) { return int(cudaSetDevice(device)); });
  m.def("get_device", [] {
    int device = -1;
    cudaGetDevice(&device);
    return device;
  });
  m.def("counts", [] {  // of the runtime's calls so far
    const emulation::Counts& c = emulation::counts;
    return std::map<std::string, size_t>{{"allocations", c.allocations},
                                         {"instantiations", c.instantiations},
                                         {"graph_launches", c.graph_launches},
                                         {"graph_nodes", c.graph_nodes},
                                         {"kernels", c.kernels},
                                         {"chained", c.chained},
                                         {"copies_to_device", c.copies_to_device},
                                         {"copies_to_host", c.copies_to_host}};
  });
  m.def("copied_bytes", [] { return std::pair{emulation::state().bytes_to_device, emulation::state().bytes_to_host}; });
  m.def("ledger", [] {
    const emulation::Ledger& l = emulation::ledger();
    return py::dict(py::arg("system_allocations") = l.system_allocations, py::arg("pools") = l.pools,
                    py::arg("shared_settings") = l.shared_settings, py::arg("contexts") = l.contexts);
  });
}

}  // namespace cbk::device
