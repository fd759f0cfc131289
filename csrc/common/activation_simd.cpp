// Activations over arrays, compiled once per instruction set: the kernels call these, and compile none of them anew.
#include "activation.hpp"

namespace cbk::CBK_ISA {

template <class T>
void activate_array(Activation activation, T* z, int64_t count) {
  using Kind = Activation;
  const auto f = [&](auto tag) {
    if constexpr (tag.value != Activation::identity)
      for (int64_t i = 0; i < count; i += lanes<T>) store(z + i, activate<tag.value>(load(z + i)));
  };
  switch (activation) { CBK_ACTIVATIONS(CBK_KIND_CALL) }
}

template <class T>
void activate_array(Activation activation, T* z, T* derivative, int64_t count) {
  using Kind = Activation;
  const auto f = [&](auto tag) {
    if constexpr (has_slope(tag.value))
      for (int64_t i = 0; i < count; i += lanes<T>) {
        Vector<T> d;
        store(z + i, activate<tag.value>(load(z + i), d));
        store(derivative + i, d);
      }
  };
  switch (activation) { CBK_ACTIVATIONS(CBK_KIND_CALL) }
}

#define CBK_INSTANTIATE(T) \
  template void activate_array(Activation, T*, int64_t); \
  template void activate_array(Activation, T*, T*, int64_t);
CBK_INSTANTIATE(float)
CBK_INSTANTIATE(double)
#undef CBK_INSTANTIATE

}  // namespace cbk::CBK_ISA
