#include "network.hpp"

#include "../common/bind.hpp"

namespace cbk {
namespace {

Network make(int64_t inputs, int64_t width, int64_t outputs, Activation activation, const std::string& scaling,
             bool output_bias) {
  for (const int64_t count : {inputs, width, outputs})  // below 2^31 their products are below 2^63
    if (count < 1 || count >= int64_t(1) << 31) throw py::value_error("inputs, width and outputs must be in [1, 2^31)");
  if (scaling != "mean" && scaling != "none") throw py::value_error("unknown scaling '" + scaling + "'");
  return {inputs, width, outputs, activation, scaling == "mean" ? 1.0 / double(width) : 1.0, output_bias, 0};
}

}  // namespace

void register_network(py::module_& m) {
  py::class_<Network>(m, "Network")  // _cuda's functions take it too
      .def(py::init(&make))
      .def("part_of", [](Network net, int64_t particles) {
    net.ensemble = particles;
    return net;
  }).def_property_readonly("size", &Network::size);
}

}  // namespace cbk
