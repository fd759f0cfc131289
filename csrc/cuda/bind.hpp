// What the CUDA bindings share.  Arrays come as addresses: python/cbokernels/_arrays has checked dtypes, shapes, layout
// and where they lie, and keeps them alive until the call returns; stream order does the rest.
#pragma once

#include <optional>

#include "../common/bind.hpp"
#include "device.hpp"

namespace cbk::device {

namespace py = pybind11;

using Address = uintptr_t;

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

struct Where {  // a tuple in Python
  int device;
  CudaStream stream;
  explicit Where(const std::pair<int, Address>& pair) : device(pair.first), stream{pair.second} {}
};

// f(float{}) or f(double{}), on the device, without the GIL.
template <class F>
void on_type(const Where& where, bool float64, F&& f) {
  released([&] {
    const OnDevice here(where.device);
    float64 ? f(double{}) : f(float{});
  });
}

void register_random(py::module_& m);
void register_update(py::module_& m);
void register_langevin(py::module_& m);
void register_consensus(py::module_& m);
void register_risk(py::module_& m);
void register_hopping(py::module_& m);
void register_transport(py::module_& m);
void register_training(py::module_& m);
void register_emulation(py::module_& m);  // of the emulated module alone: tests/cuda/emulation/bind.cpp

}  // namespace cbk::device
