// The closed sets: each has its one list here.  Its type, its names and the choice at compile time are made from the
// list, and what a name stands for is defined once, where the list says; a name without a definition does not compile.
#pragma once

#include <type_traits>

namespace cbk {

// Always inlined: no copy compiled for one instruction set may become everybody's.
#if defined(__CUDACC__)
#define CBK_EVERYWHERE __host__ __device__ __forceinline__
#else
#define CBK_EVERYWHERE inline __attribute__((always_inline))
#endif

#define CBK_ACTIVATIONS(X) X(relu) X(tanh) X(sigmoid) X(gelu) X(softplus) X(identity)  // common/activation.hpp
#define CBK_LOSSES(X) X(mse, values) X(cross_entropy, labels)  // common/loss.hpp; and what outputs are compared with
#define CBK_NOISES(X) X(anisotropic) X(isotropic) X(truncated) X(additive) X(none)  // update/update_law.hpp

#define CBK_KIND_NAME(name, ...) name,
enum class Activation { CBK_ACTIVATIONS(CBK_KIND_NAME) };
enum class Loss { CBK_LOSSES(CBK_KIND_NAME) };
enum class Noise { CBK_NOISES(CBK_KIND_NAME) };
#undef CBK_KIND_NAME

// Values, [outputs] for a sample, or one label, a number in [0, outputs).
enum class Targets { values, labels };

CBK_EVERYWHERE constexpr Targets targets_of(Loss loss) {
#define CBK_KIND_CASE(name, targets) \
  case Loss::name: return Targets::targets;
  switch (loss) { CBK_LOSSES(CBK_KIND_CASE) }
#undef CBK_KIND_CASE
  return Targets::values;
}

// With `using Kind = Activation`, `switch (kind) { CBK_ACTIVATIONS(CBK_KIND_CALL) }` calls f with the kind as a
// compile-time constant.
#define CBK_KIND_CALL(name, ...) \
  case Kind::name: return f(std::integral_constant<Kind, Kind::name>{});

// Names in the lists' order, for bindings.
template <class Kind>
struct Names;
#define CBK_KIND_TEXT(name, ...) #name,
#define CBK_KIND_NAMES(Kind, word, LIST) \
  template <> \
  struct Names<Kind> { \
    static constexpr const char* what = word; \
    static constexpr const char* all[] = {LIST(CBK_KIND_TEXT)}; \
  };
CBK_KIND_NAMES(Activation, "activation", CBK_ACTIVATIONS)
CBK_KIND_NAMES(Loss, "loss", CBK_LOSSES)
CBK_KIND_NAMES(Noise, "noise", CBK_NOISES)
#undef CBK_KIND_NAMES
#undef CBK_KIND_TEXT

}  // namespace cbk
