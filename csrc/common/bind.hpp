// What the bindings share: arrays that are never converted, checks of shapes, and the scalars' ranges.
//
// The Python layer checks what users pass and speaks of it; these checks keep memory safe whoever calls.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <iterator>
#include <string>

#include "interrupt.hpp"
#include "kinds.hpp"

namespace cbk {

namespace py = pybind11;

// The member of a closed set that a name from Python stands for.
template <class Kind>
Kind named(const std::string& name) {
  const auto found = std::find(std::begin(Names<Kind>::all), std::end(Names<Kind>::all), name);
  if (found != std::end(Names<Kind>::all)) return Kind(found - std::begin(Names<Kind>::all));
  std::string known;
  for (const char* each : Names<Kind>::all) known += std::string(known.empty() ? "" : ", ") + each;
  throw py::value_error(std::string("unknown ") + Names<Kind>::what + " '" + name + "', expected one of " + known);
}

// Whether this is Python's main thread, the only one that runs the handlers of signals.
inline bool on_main_thread() {
  static std::atomic<unsigned long> main{0};
  if (main == 0) {
    main = py::module_::import("threading").attr("main_thread")().attr("ident").cast<unsigned long>();
    pthread_atfork(nullptr, nullptr, [] { main = PyThread_get_thread_ident(); });
  }
  return main == PyThread_get_thread_ident();
}

// Runs the handlers of signals that have come; whether one has raised.
inline bool handle_signals() {
  const py::gil_scoped_acquire acquire;
  return PyErr_CheckSignals() != 0;
}

// Runs f, a kernel, without the GIL.  It ends soon where a signal's handler raises, and so does this.
template <class F>
void released(F&& f) {
  Interrupt call(on_main_thread() ? handle_signals : nullptr);
  {
    const py::gil_scoped_release release;
    try {
      f();
    } catch (const Interrupted&) {
    }
  }
  if (PyErr_Occurred()) throw py::error_already_set();
}

template <class T>
using Array = py::array_t<T, py::array::c_style>;

inline std::string shape_text(const py::ssize_t* sizes, size_t count) {
  std::string text = "[";
  for (size_t i = 0; i < count; ++i) {
    if (i) text += ", ";
    text += std::to_string(sizes[i]);
  }
  text += "]";
  return text;
}

inline void check_shape(const char* name, const py::array& array, std::initializer_list<py::ssize_t> shape) {
  if (std::equal(shape.begin(), shape.end(), array.shape(), array.shape() + array.ndim())) return;
  throw py::value_error(std::string(name) + " has shape " + shape_text(array.shape(), size_t(array.ndim())) +
                        ", expected " + shape_text(shape.begin(), shape.size()));
}

template <class T>
int64_t rows_of(const char* name, const Array<T>& array) {
  if (array.ndim() < 2 || array.shape(0) < 1)
    throw py::value_error(std::string(name) + " must have two or more dimensions and at least one row");
  return array.shape(0);
}

// consensus_bind.cpp: ConsensusError, its message after `where`.
[[noreturn]] void raise_no_finite_risk(int64_t task, int64_t tasks, int64_t particles, const std::string& where = "");

void register_network(py::module_& m);
void register_random(py::module_& m);
void register_risk(py::module_& m);
void register_consensus(py::module_& m);
void register_update(py::module_& m);
void register_langevin(py::module_& m);
void register_hopping(py::module_& m);
void register_training(py::module_& m);
void register_transport(py::module_& m);

}  // namespace cbk
