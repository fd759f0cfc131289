// The private compiled module cbokernels._cpu.
#include <omp.h>

#include "common/bind.hpp"
#include "common/isa.hpp"

namespace {

// The members of a closed set.
template <class Kind>
cbk::py::tuple names() {
  cbk::py::list list;
  for (const char* name : cbk::Names<Kind>::all) list.append(name);
  return cbk::py::tuple(list);
}

// Each activation, and whether it has a gradient.
cbk::py::dict activations() {
  cbk::py::dict all;
  for (const char* name : cbk::Names<cbk::Activation>::all)
    all[name] = cbk::has_slope(cbk::named<cbk::Activation>(name));
  return all;
}

// Each loss's targets, whether it has a gradient, and its parameter's default.
cbk::py::dict losses() {
  constexpr const char* targets[] = {"values", "labels", "sides", "side"};
  cbk::py::dict all;
  for (const char* name : cbk::Names<cbk::LossKind>::all) {
    const cbk::LossTraits traits = cbk::traits_of(cbk::named<cbk::LossKind>(name));
    const bool sloped = traits.slopes == cbk::Slopes::sloped;
    all[name] = cbk::py::make_tuple(targets[int(traits.targets)], sloped, traits.parameter);
  }
  return all;
}

}  // namespace

// Without the GIL too: what the kernels share is atomic, has a lock, or is made once.
PYBIND11_MODULE(_cpu, m, cbk::py::mod_gil_not_used()) {
  cbk::isa_table();  // an unusable CBOKERNELS_ISA is an error at import, not at the first kernel
  m.def("isa", [] { return std::string(cbk::isa_table().name); });
  m.def("isas", &cbk::isa_names);
  m.def("max_threads", &omp_get_max_threads);
  m.attr("ACTIVATIONS") = activations();
  m.attr("NOISES") = names<cbk::Noise>();
  m.attr("LOSSES") = losses();
  cbk::register_network(m);
  cbk::register_random(m);
  cbk::register_risk(m);
  cbk::register_consensus(m);
  cbk::register_update(m);
  cbk::register_langevin(m);
  cbk::register_hopping(m);
  cbk::register_training(m);
  cbk::register_transport(m);
}
