// What the bindings share: arrays that are never converted, checks of shapes, and the scalars' ranges.
//
// The Python layer checks what users pass and speaks of it; these checks keep memory safe whoever calls.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>

namespace cbk {

namespace py = pybind11;

template <class T>
using Array = py::array_t<T, py::array::c_style>;

template <class T>
void check_shape(const char* name, const Array<T>& array, std::initializer_list<py::ssize_t> shape) {
  bool same = array.ndim() == py::ssize_t(shape.size());
  py::ssize_t axis = 0;
  for (const py::ssize_t n : shape) same = same && array.shape(axis++) == n;
  if (same) return;
  std::string wanted, got;
  for (const py::ssize_t n : shape) wanted += (wanted.empty() ? "" : ", ") + std::to_string(n);
  for (py::ssize_t i = 0; i < array.ndim(); ++i) got += (i ? ", " : "") + std::to_string(array.shape(i));
  throw py::value_error(std::string(name) + " has shape [" + got + "], expected [" + wanted + "]");
}

template <class T>
int64_t rows_of(const char* name, const Array<T>& array) {
  if (array.ndim() < 2 || array.shape(0) < 1)
    throw py::value_error(std::string(name) + " must have two or more dimensions and at least one row");
  return array.shape(0);
}

void register_network(py::module_& m);
void register_random(py::module_& m);
void register_risk(py::module_& m);
void register_consensus(py::module_& m);
void register_update(py::module_& m);

}  // namespace cbk
