// The closed sets: each has its one list here.  Its type, its names and the choice at compile time are made from the
// list, and what a name stands for is defined once, where the list says; a name without a definition does not compile.
#pragma once

#include <cstdint>
#include <type_traits>

namespace cbk {

// Always inlined, or the linker might give all sets the copy that one instruction set's file compiled.
#if defined(__CUDACC__)
#define CBK_EVERYWHERE __host__ __device__ __forceinline__
#else
#define CBK_EVERYWHERE inline __attribute__((always_inline))
#endif

// common/activation.hpp.  With each activation whether it has a slope, and whether risks and gradients have kernels of
// its own, or share theirs with others and are told at run time which one it is.
#define CBK_ACTIVATIONS(X) \
  X(relu, sloped, own) \
  X(tanh, sloped, own) \
  X(sigmoid, sloped, own) \
  X(gelu, sloped, own) \
  X(softplus, sloped, own) \
  X(identity, sloped, own) \
  X(leaky_relu, sloped, common) \
  X(silu, sloped, common) \
  X(sin, sloped, common) \
  X(erf, sloped, common) \
  X(sign, flat, common) \
  X(step, flat, common)
// common/loss.hpp.  With each loss what outputs are compared with, whether it has a slope, and its parameter where no
// other one is given: huber's delta, pinball's quantile.
#define CBK_LOSSES(X) \
  X(mse, values, sloped, 0) \
  X(mae, values, sloped, 0) \
  X(huber, values, sloped, 1) \
  X(pinball, values, sloped, 0.5) \
  X(hinge, sides, sloped, 0) \
  X(logistic, side, sloped, 0) \
  X(cross_entropy, labels, sloped, 0) \
  X(zero_one, sides, flat, 0)
// Compiled functions of one's own.  They have no names, and cards have none of them.
#define CBK_OWN_LOSSES(X) X(own_values, values, flat, 0) X(own_labels, labels, flat, 0)
// What an update computes of a coordinate: update/update_math.hpp.
#define CBK_UPDATE_FORMS(X) X(multiplied) X(floored) X(added) X(quiet) X(still)
// With each noise the parameter that decides its form, the forms where that is 0 and where it is above, and what the
// normals' factor is multiplied by.
#define CBK_NOISES(X) \
  X(anisotropic, floor, multiplied, floored, nothing) \
  X(isotropic, diffusion, quiet, added, distance) \
  X(truncated, diffusion, quiet, added, bounded_distance) \
  X(additive, diffusion, quiet, added, nothing) \
  X(none, diffusion, quiet, quiet, nothing)

#define CBK_KIND_NAME(name, ...) name,
enum class Activation { CBK_ACTIVATIONS(CBK_KIND_NAME) };
enum class LossKind { CBK_LOSSES(CBK_KIND_NAME) CBK_OWN_LOSSES(CBK_KIND_NAME) };
enum class Noise { CBK_NOISES(CBK_KIND_NAME) };
enum class UpdateForm { CBK_UPDATE_FORMS(CBK_KIND_NAME) };
#undef CBK_KIND_NAME

// What a sample's outputs are compared with.
enum class Targets {
  values,  // [outputs]
  labels,  // one label, a number in [0, outputs)
  sides,   // the same; of one output label 1 is the side from 0 up, label 0 the side below
  side     // that of one output, and no more outputs
};
enum class Slopes { flat, sloped };
enum class Kernels { own, common };

struct ActivationTraits {
  Slopes slopes;
  Kernels kernels;
};

CBK_EVERYWHERE constexpr ActivationTraits traits_of(Activation activation) {
#define CBK_KIND_CASE(name, slopes, kernels) \
  case Activation::name: return {Slopes::slopes, Kernels::kernels};
  switch (activation) { CBK_ACTIVATIONS(CBK_KIND_CASE) }
#undef CBK_KIND_CASE
  return {};
}
CBK_EVERYWHERE constexpr bool has_slope(Activation activation) {
  return traits_of(activation).slopes == Slopes::sloped;
}

CBK_EVERYWHERE constexpr bool has_kernels_of_its_own(Activation activation) {
  return traits_of(activation).kernels == Kernels::own;
}

struct LossTraits {
  Targets targets;
  Slopes slopes;
  double parameter;
};

CBK_EVERYWHERE constexpr LossTraits traits_of(LossKind kind) {
#define CBK_KIND_CASE(name, targets, slopes, parameter) \
  case LossKind::name: return {Targets::targets, Slopes::slopes, parameter};
  switch (kind) { CBK_LOSSES(CBK_KIND_CASE) CBK_OWN_LOSSES(CBK_KIND_CASE) }
#undef CBK_KIND_CASE
  return {};
}

enum class DecidedBy { floor, diffusion };
enum class Reach { nothing, distance, bounded_distance };  // to the point; bounded: by the radius

struct NoiseTraits {
  DecidedBy decided_by;
  UpdateForm without, with;
  Reach reach;
};

CBK_EVERYWHERE constexpr NoiseTraits traits_of(Noise noise) {
#define CBK_KIND_CASE(name, decided_by, without, with, reach) \
  case Noise::name: return {DecidedBy::decided_by, UpdateForm::without, UpdateForm::with, Reach::reach};
  switch (noise) { CBK_NOISES(CBK_KIND_CASE) }
#undef CBK_KIND_CASE
  return {};
}

// A loss with its parameter, or with its function (own_loss.hpp), which takes numbers of `item` bytes.
struct Loss {
  LossKind kind = LossKind::mse;
  double parameter = 0;
  const void* function = nullptr;
  int64_t item = 0;

  constexpr Loss() = default;
  constexpr Loss(LossKind kind) : kind(kind), parameter(traits_of(kind).parameter) {}
  constexpr Loss(LossKind kind, double parameter) : kind(kind), parameter(parameter) {}
};

CBK_EVERYWHERE constexpr bool takes_labels(LossKind kind) { return traits_of(kind).targets != Targets::values; }
CBK_EVERYWHERE constexpr bool has_slope(LossKind kind) { return traits_of(kind).slopes == Slopes::sloped; }
CBK_EVERYWHERE constexpr bool suits(LossKind kind, int64_t outputs) {
  return outputs == 1 || traits_of(kind).targets != Targets::side;
}
// Numbers that a sample's targets take.
CBK_EVERYWHERE constexpr int64_t target_columns(LossKind kind, int64_t outputs) {
  return takes_labels(kind) ? 1 : outputs;
}
// Labels are below this.
CBK_EVERYWHERE constexpr int64_t label_count(LossKind kind, int64_t outputs) {
  return outputs == 1 && traits_of(kind).targets != Targets::labels ? 2 : outputs;
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
CBK_KIND_NAMES(LossKind, "loss", CBK_LOSSES)
CBK_KIND_NAMES(Noise, "noise", CBK_NOISES)
#undef CBK_KIND_NAMES
#undef CBK_KIND_TEXT

}  // namespace cbk
