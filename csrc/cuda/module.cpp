// The private compiled module cbokernels._cuda; or, with CBK_EMULATED_MODULE, the same kernels on the host's emulation,
// for tests.
#include "../common/bind.hpp"
#include "owned.hpp"

#if defined(CBK_EMULATED_MODULE)
#define CBK_MODULE _cuda_emulated
#else
#define CBK_MODULE _cuda
#endif

namespace cbk::device {
namespace {

// Every failure of CUDA is a CboError.
void translate(std::exception_ptr thrown) {
  try {
    std::rethrow_exception(thrown);
  } catch (const CudaError& error) {
    py::set_error(py::module_::import("cbokernels.errors").attr("CboError"), error.what());
  }
}

// What cbokernels/cuda.py puts into words.
py::dict findings(bool launch) {
  const Findings found = look(launch);
  py::list cards;
  for (const Card& card : found.cards)
    cards.append(py::dict(py::arg("name") = card.name, py::arg("capability") = py::make_tuple(card.major, card.minor),
                          py::arg("trouble") = card.trouble));
  return py::dict(py::arg("error") = found.error, py::arg("name") = found.name, py::arg("words") = found.words,
                  py::arg("driver") = found.driver, py::arg("runtime") = found.runtime, py::arg("cards") = cards,
                  py::arg("architectures") = architectures());
}

}  // namespace
}  // namespace cbk::device

PYBIND11_MODULE(CBK_MODULE, m) {
  using namespace cbk;
  using namespace cbk::device;
  py::register_local_exception_translator(&translate);
  m.def("device_count", &device_count);
  m.def("driver_state", [] { return std::array{"absent", "idle", "in use"}[size_t(driver_state())]; });
  m.def("look", &findings, py::arg("launch"));
  m.def("is_forked", &is_forked);
  m.def("device_of", &device_of, py::arg("address"));
  m.def("wait_for", [](int device, Address stream, Address producer) {
    const OnDevice here(device);
    wait_for({stream}, {producer});
  }, py::arg("device"), py::arg("stream"), py::arg("producer"));
  m.def("synchronize", [](const Where& on) { released(on, [&] { synchronize(on); }); }, py::arg("on"));
  m.def("read_memory", [](Address address, py::array out, const Where& on) {
    void* const to = out.mutable_data();
    const int64_t bytes = out.nbytes();
    released(on, [&] { read_memory(reinterpret_cast<const void*>(address), bytes, to, on); });
  }, py::arg("address"), py::arg("out"), py::arg("on"));
  py::class_<OwnedMemory>(m, "Memory")
      .def(py::init([](int device, int64_t bytes) {
    std::unique_ptr<OwnedMemory> memory;
    cbk::released([&] { memory = std::make_unique<OwnedMemory>(device, bytes); });
    return memory;
  }),
           py::arg("device"), py::arg("bytes"))
      .def_property_readonly("address", [](const OwnedMemory& memory) { return Address(memory.data()); });
  m.def("write_memory", [](Address address, const py::array& values, const Where& on) {
    const void* const from = values.data();
    const int64_t bytes = values.nbytes();
    released(on, [&] { write_memory(reinterpret_cast<void*>(address), bytes, from, on); });
  }, py::arg("address"), py::arg("values"), py::arg("on"));
  register_random(m);
  register_update(m);
  register_langevin(m);
  register_consensus(m);
  register_risk(m);
  register_hopping(m);
  register_transport(m);
  register_training(m);
  register_testing(m.def_submodule("testing"));
#if defined(CBK_EMULATED_MODULE)
  register_emulation(m);
#endif
}
