// What the bindings share: arrays that are never converted, structs that come as tuples, checks of shapes.
//
// A family's binding is compiled into both modules: into _cpu, and with CBK_CARD into _cuda, where arrays lie in a
// card's memory.  `kernels` is the namespace of the module's drivers.  `Execution` is what they take last: on the CPU
// the number of threads, on a card the device, its stream and the precision of products.
//
// The Python layer checks what users pass and speaks of it; these checks keep memory safe whoever calls.  What lies on
// a card is not read here: its values are the kernels' to check.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <pthread.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>

#include "../random/random.hpp"
#include "interrupt.hpp"
#include "kinds.hpp"

namespace cbk {

namespace py = pybind11;

#if defined(CBK_CARD)
constexpr bool on_card = true;
#else
constexpr bool on_card = false;
#endif

// The member of a closed set that a name from Python stands for.
template <class Kind>
Kind named(std::string_view name) {
  const auto found = std::find(std::begin(Names<Kind>::all), std::end(Names<Kind>::all), name);
  if (found != std::end(Names<Kind>::all)) return Kind(found - std::begin(Names<Kind>::all));
  std::string known;
  for (const char* each : Names<Kind>::all) known += std::string(known.empty() ? "" : ", ") + each;
  throw py::value_error(std::string("unknown ") + Names<Kind>::what + " '" + std::string(name) + "', expected one of " +
                        known);
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

// An array as kernels take it, C-contiguous and aligned: NumPy's, or for a card a DeviceArray
// (python/cbokernels/_arrays/memory.py).  The caller's reference keeps it until the call returns.
class Array {
 public:
  int ndim() const { return ndim_; }
  int64_t shape(int axis) const { return shape_[size_t(axis)]; }
  const int64_t* begin() const { return shape_.data(); }
  const int64_t* end() const { return shape_.data() + ndim_; }
  int64_t size() const {
    int64_t size = 1;
    for (const int64_t axis : *this) size *= axis;
    return size;
  }

  bool load(py::handle source) { return on_card ? load_device(source) : load_numpy(source); }
  bool load_device(py::handle source) {
    const py::object pointer = py::getattr(source, "pointer", py::none());
    if (pointer.is_none()) return false;
    const py::tuple shape = source.attr("shape");
    data_ = reinterpret_cast<void*>(pointer.cast<uintptr_t>());
    return set_shape(int64_t(shape.size()), [&](size_t i) { return shape[i].cast<int64_t>(); }) &&
           set_type(source.attr("dtype"));
  }
  bool load_numpy(py::handle source) {
    using Numpy = py::detail::npy_api;
    if (!py::isinstance<py::array>(source)) return false;
    const auto* array = py::detail::array_proxy(source.ptr());
    constexpr int layout = Numpy::NPY_ARRAY_C_CONTIGUOUS_ | Numpy::NPY_ARRAY_ALIGNED_;
    if ((array->flags & layout) != layout) return false;
    data_ = array->data, writable_ = array->flags & Numpy::NPY_ARRAY_WRITEABLE_;
    return set_shape(array->nd, [&](size_t i) { return array->dimensions[i]; }) && set_type(array->descr);
  }
  template <class T>
  bool holds() const {
    static PyObject* const wanted = py::dtype::of<T>().release().ptr();
    return type_ == wanted || py::detail::npy_api::get().PyArray_EquivTypes_(type_, wanted);
  }
  bool is_writable() const { return writable_; }
  template <class T>
  T* entries() const {  // of the type that it `holds`
    return static_cast<T*>(data_);
  }

 private:
  template <class F>
  bool set_shape(int64_t axes, F&& axis) {
    if (axes > int64_t(shape_.size())) return false;
    ndim_ = int(axes);
    for (size_t i = 0; i < size_t(axes); ++i) shape_[i] = axis(i);
    return true;
  }
  bool set_type(py::handle dtype) {  // which the array keeps
    type_ = dtype.ptr();
    return true;
  }

  void* data_ = nullptr;
  PyObject* type_ = nullptr;
  bool writable_ = true;
  int ndim_ = 0;
  std::array<int64_t, 8> shape_{};
};

template <class T>
struct Input : Array {
  const T* data() const { return entries<T>(); }
};
template <class T>
struct Output : Array {  // read too, where it is changed in place
  T* data() const { return entries<T>(); }
};

// What outputs are compared with: an array, or a pair of it and the samples' weights.
struct TargetInput {
  Array y;
  std::optional<Array> weights;
};

template <template <class> class A, class T>
auto data_or_null(const std::optional<A<T>>& array) {
  return array ? array->data() : nullptr;
}

template <class Sizes>
std::string shape_text(const Sizes& sizes) {
  std::string text;
  for (const int64_t size : sizes) text += (text.empty() ? "" : ", ") + std::to_string(size);
  return "[" + text + "]";
}

inline void check_shape(const char* name, const Array& array, std::initializer_list<int64_t> shape) {
  if (std::equal(shape.begin(), shape.end(), array.begin(), array.end())) return;
  throw py::value_error(std::string(name) + " has shape " + shape_text(array) + ", expected " + shape_text(shape));
}

inline int64_t rows_of(const char* name, const Array& array) {
  if (array.ndim() < 2 || array.size() < 1)
    throw py::value_error(std::string(name) + " must have two or more dimensions, none of them 0");
  return array.shape(0);
}

// Indices in [0, bound), where they can be read.
template <class I>
void check_indices(const char* name, const I* indices, int64_t count, int64_t bound) {
  if (on_card) return;
  for (int64_t i = 0; i < count; ++i)
    if (indices[i] < 0 || int64_t(indices[i]) >= bound)
      throw py::value_error(std::string(name) + " holds " + std::to_string(indices[i]) + ", expected [0, " +
                            std::to_string(bound) + ")");
}

// Raises ConsensusError, whose message begins with `where`; task -1: of neurons that are judged one by one.  Defined in
// consensus_bind.cpp.
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

// Casters: of closed sets, and of structs that come as the tuples of their members.
template <class Kind>
struct KindCaster {
  PYBIND11_TYPE_CASTER(Kind, py::detail::const_name("str"));
  bool load(py::handle source, bool) {
    Py_ssize_t size = 0;
    const char* text = PyUnicode_Check(source.ptr()) ? PyUnicode_AsUTF8AndSize(source.ptr(), &size) : nullptr;
    if (text == nullptr) PyErr_Clear();
    if (text != nullptr) value = named<Kind>({text, size_t(size)});
    return text != nullptr;
  }
};

template <class Struct, class... Members>
struct TupleCaster {
  using Tuple = py::detail::make_caster<std::tuple<Members...>>;
  PYBIND11_TYPE_CASTER(Struct, Tuple::name);
  bool load(py::handle source, bool convert) {
    Tuple tuple;
    if (!PyTuple_Check(source.ptr()) || !tuple.load(source, convert)) return false;
    value = std::apply([](auto... member) { return Struct{member...}; },
                       py::detail::cast_op<std::tuple<Members...>>(std::move(tuple)));
    return true;
  }
};

}  // namespace cbk

namespace pybind11::detail {

template <>
struct type_caster<cbk::Activation> : cbk::KindCaster<cbk::Activation> {};
template <>
struct type_caster<cbk::LossKind> : cbk::KindCaster<cbk::LossKind> {};
template <>
struct type_caster<cbk::Loss> {  // a name, a pair of it and its parameter, or a function (_kinds.Compiled)
  PYBIND11_TYPE_CASTER(cbk::Loss, const_name("loss"));
  bool load(handle source, bool convert) {
    make_caster<cbk::LossKind> name;
    make_caster<std::pair<cbk::LossKind, double>> both;
    if (name.load(source, convert))
      value = cast_op<cbk::LossKind&>(name);
    else if (PyTuple_Check(source.ptr()) && both.load(source, convert))
      value = std::make_from_tuple<cbk::Loss>(cast_op<std::pair<cbk::LossKind, double>>(both));
    else
      return !cbk::on_card && PyTuple_Check(source.ptr()) && load_function(source, convert);
    return true;
  }
  bool load_function(handle source, bool convert) {
    make_caster<std::tuple<bool, uintptr_t, int64_t, object>> parts;
    if (!parts.load(source, convert)) return false;
    const auto [labels, address, item, keeper] = cast_op<std::tuple<bool, uintptr_t, int64_t, object>>(parts);
    if (address == 0) throw value_error("the function of a loss must not be null");
    value.kind = labels ? cbk::LossKind::own_labels : cbk::LossKind::own_values;
    value.function = reinterpret_cast<const void*>(address);
    value.item = item;
    return true;
  }
};
template <>
struct type_caster<cbk::Noise> : cbk::KindCaster<cbk::Noise> {};
template <>
struct type_caster<cbk::NoiseKey> : cbk::TupleCaster<cbk::NoiseKey, uint64_t, uint32_t, uint32_t, uint32_t> {};

template <>
struct type_caster<cbk::Array> {
  PYBIND11_TYPE_CASTER(cbk::Array, const_name("array"));
  bool load(handle source, bool) { return value.load(source); }
};
template <>
struct type_caster<cbk::TargetInput> {
  PYBIND11_TYPE_CASTER(cbk::TargetInput, const_name("targets"));
  bool load(handle source, bool) {
    if (!PyTuple_Check(source.ptr())) return value.y.load(source);
    if (PyTuple_Size(source.ptr()) != 2) return false;
    value.weights.emplace();
    return value.y.load(PyTuple_GetItem(source.ptr(), 0)) && value.weights->load(PyTuple_GetItem(source.ptr(), 1));
  }
};
template <class T>
struct type_caster<cbk::Input<T>> {
  PYBIND11_TYPE_CASTER(cbk::Input<T>, const_name("array[") + npy_format_descriptor<T>::name + const_name("]"));
  bool load(handle source, bool) { return value.load(source) && value.template holds<T>(); }
};
template <class T>
struct type_caster<cbk::Output<T>> {
  PYBIND11_TYPE_CASTER(cbk::Output<T>, const_name("array[") + npy_format_descriptor<T>::name + const_name("]"));
  bool load(handle source, bool) {
    if (!value.load(source) || !value.template holds<T>()) return false;
    if (!value.is_writable()) throw value_error("array is not writeable");
    return true;
  }
};

}  // namespace pybind11::detail

#if defined(CBK_CARD)
#include "../cuda/bind.hpp"
#else
namespace cbk {

namespace kernels = cbk;
using Execution = int;

template <class F>
void released(Execution, F&& f) {
  released(f);
}

}  // namespace cbk
#endif
