// How the bindings are told where to run: device, stream and precision, in place of a number of threads.  Memory is
// given back in the stream's order, after the work that uses it.  Until a call returns _arrays (Python) holds it.
#pragma once

#include "../common/bind.hpp"
#include "../risk/cuda/risk_cuda.hpp"
#include "device.hpp"

namespace cbk {

template <>
struct Names<device::Precision> {
  static constexpr const char* what = "precision";
  static constexpr const char* all[] = {"float32", "tf32", "bf16"};
};

namespace device {

using Address = uintptr_t;

// Tuples in Python.  Kernels without products take them as their stream.
struct Where {
  int device;
  CudaStream stream;
  operator CudaStream() const { return stream; }
};
struct Execution : Where {
  Precision precision;
};

// Without the GIL, on the device.
template <class F>
void released(const Where& where, F&& f) {
  cbk::released([&] {
    const OnDevice here(where.device);
    f();
  });
}

void register_emulation(py::module_& m);  // of the emulated module alone: tests/cuda/emulation/bind.cpp

}  // namespace device

void register_testing(py::module_ m);  // testing_bind.cpp

namespace kernels = device;
using device::Execution;
using device::released;

}  // namespace cbk

namespace pybind11::detail {

template <>
struct type_caster<cbk::device::Precision> : cbk::KindCaster<cbk::device::Precision> {};
template <>
struct type_caster<cbk::device::Where> : cbk::TupleCaster<cbk::device::Where, int, cbk::device::Address> {};
template <>
struct type_caster<cbk::device::Execution>
    : cbk::TupleCaster<cbk::device::Execution, int, cbk::device::Address, cbk::device::Precision> {};

}  // namespace pybind11::detail
