// The private compiled module cbokernels._cpu.
#include <omp.h>

#include "common/bind.hpp"
#include "common/isa.hpp"

namespace {

// The members of a closed set that `wanted` says yes to.
template <class Kind, class F>
cbk::py::tuple names(F&& wanted) {
  cbk::py::list list;
  for (const char* name : cbk::Names<Kind>::all)
    if (wanted(cbk::named<Kind>(name))) list.append(name);
  return cbk::py::tuple(list);
}

}  // namespace

PYBIND11_MODULE(_cpu, m) {
  cbk::isa_table();  // an unusable CBOKERNELS_ISA is an error at import, not at the first kernel
  m.def("isa", [] { return std::string(cbk::isa_table().name); });
  m.def("isas", &cbk::isa_names);
  m.def("max_threads", &omp_get_max_threads);
  const auto all = [](auto) { return true; };
  m.attr("ACTIVATIONS") = names<cbk::Activation>(all);
  m.attr("NOISES") = names<cbk::Noise>(all);
  m.attr("LOSSES") = names<cbk::Loss>(all);
  m.attr("LABEL_LOSSES") = names<cbk::Loss>([](cbk::Loss l) { return cbk::targets_of(l) == cbk::Targets::labels; });
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
