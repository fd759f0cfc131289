// The private compiled module cbokernels._cpu.
#include <omp.h>

#include "common/bind.hpp"
#include "common/isa.hpp"

PYBIND11_MODULE(_cpu, m) {
  cbk::isa_table();  // an unusable CBOKERNELS_ISA is an error at import, not at the first kernel
  m.def("isa", [] { return std::string(cbk::isa_table().name); });
  m.def("isas", &cbk::isa_names);
  m.def("max_threads", &omp_get_max_threads);
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
