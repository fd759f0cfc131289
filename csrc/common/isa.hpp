// The kernels of the instruction set in use: chosen once, at the first call, the best that the processor has or the one
// that the environment variable CBOKERNELS_ISA names.
#pragma once

#include <string>
#include <type_traits>
#include <vector>

#include "../consensus/consensus.hpp"
#include "../hopping/hopping.hpp"
#include "../hopping/low_rank.hpp"
#include "../langevin/langevin.hpp"
#include "../random/random.hpp"
#include "../risk/knots/knots.hpp"
#include "../risk/risk.hpp"
#include "../transport/sinkhorn.hpp"
#include "../transport/transport.hpp"
#include "../update/update.hpp"

namespace cbk {

template <class T>
struct IsaKernels {
  RandomKernels<T> random;
  RiskKernels<T> risk;
  GradientKernels<T> gradient;
  ConsensusKernels<T> consensus;
  UpdateKernels<T> update;
  LangevinKernels<T> langevin;
  HoppingKernels<T> hopping;
  LowRankKernels<T> low_rank;
  FitKernels<T> fit;
  TransportKernels<T> transport;
};

struct IsaTable {
  const char* name;
  IsaKernels<float> f32;
  IsaKernels<double> f64;
  WeightKernels weights;
  KnotsKernels knots;
  SinkhornKernels sinkhorn;

  template <class T>
  const IsaKernels<T>& kernels() const {
    if constexpr (std::is_same_v<T, float>)
      return f32;
    else
      return f64;
  }
  template <class T>
  const RandomKernels<T>& random() const {
    return kernels<T>().random;
  }
  template <class T>
  const RiskKernels<T>& risk() const {
    return kernels<T>().risk;
  }
  template <class T>
  const GradientKernels<T>& gradient() const {
    return kernels<T>().gradient;
  }
  template <class T>
  const ConsensusKernels<T>& consensus() const {
    return kernels<T>().consensus;
  }
  template <class T>
  const UpdateKernels<T>& update() const {
    return kernels<T>().update;
  }
  template <class T>
  const LangevinKernels<T>& langevin() const {
    return kernels<T>().langevin;
  }
  template <class T>
  const HoppingKernels<T>& hopping() const {
    return kernels<T>().hopping;
  }
  template <class T>
  const LowRankKernels<T>& low_rank() const {
    return kernels<T>().low_rank;
  }
  template <class T>
  const FitKernels<T>& fit() const {
    return kernels<T>().fit;
  }
  template <class T>
  const TransportKernels<T>& transport() const {
    return kernels<T>().transport;
  }
};

// Throws std::invalid_argument where CBOKERNELS_ISA names a set that is unknown or that this processor lacks.
const IsaTable& isa_table();
std::vector<std::string> isa_names();  // compiled in and usable here, the best last

}  // namespace cbk
