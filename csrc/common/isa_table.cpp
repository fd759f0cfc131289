// The table of one instruction set, compiled once per set.
#include "isa.hpp"
#include "simd.hpp"

#define CBK_STRING(x) CBK_STRING_(x)
#define CBK_STRING_(x) #x

namespace cbk::CBK_ISA {

template <class T>
RandomKernels<T> random_kernels();
template <class T>
RiskKernels<T> risk_kernels();
template <class T>
GradientKernels<T> gradient_kernels();
template <class T>
ConsensusKernels<T> consensus_kernels();
template <class T>
UpdateKernels<T> update_kernels();
template <class T>
LangevinKernels<T> langevin_kernels();
template <class T>
HoppingKernels<T> hopping_kernels();
template <class T>
LowRankKernels<T> low_rank_kernels();
template <class T>
FitKernels<T> fit_kernels();
template <class T>
TransportKernels<T> transport_kernels();

WeightKernels weight_kernels();
KnotsKernels knots_kernels();
SinkhornKernels sinkhorn_kernels();

namespace {
template <class T>
IsaKernels<T> all() {
  return {random_kernels<T>(), risk_kernels<T>(),     gradient_kernels<T>(), consensus_kernels<T>(),
          update_kernels<T>(), langevin_kernels<T>(), hopping_kernels<T>(),  low_rank_kernels<T>(),
          fit_kernels<T>(),    transport_kernels<T>()};
}
}  // namespace

void fill_table(IsaTable& table) {
  table = {CBK_STRING(CBK_ISA), all<float>(), all<double>(), weight_kernels(), knots_kernels(), sinkhorn_kernels()};
}

}  // namespace cbk::CBK_ISA
