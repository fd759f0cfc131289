// The inner kernels of the risks' gradients, compiled once per instruction set.
//
//   e_cs = (1/S) dL/dg_c,  delta_ms = scale (sum_c c_cm e_cs) sigma'(z_ms)
//   dR/dc_cm = scale sum_s e_cs h_ms,  dR/db_m = sum_s delta_ms,  dR/dw_mk = sum_s delta_ms x_sk,  dR/da_c = sum_s e_cs
// of output c, neuron m, input k and sample s.
#include "direct/direct_gradient.hpp"
#include "lists/list_gradient.hpp"
#include "products/product_gradient.hpp"

namespace cbk::CBK_ISA {
namespace {

template <class T>
int64_t scratch_size(const Network& net, const GradientPlan& plan) {
  if (plan.path == Path::direct) return direct_scratch_size<T>(net, plan);
  if (plan.path == Path::lists) return list_scratch_size<T>(net, plan);
  return product_scratch_size<T>(net, plan);
}

template <class T>
void evaluate(const GradientTask<T>& task) {
  if (task.plan->path == Path::lists) return list_gradient(task);
  *task.sum += sum(task.plan->path == Path::direct ? direct_gradient(task) : product_gradient(task));
}

}  // namespace

template <class T>
GradientKernels<T> gradient_kernels() {
  return {lanes<T>, list_block<T>, scratch_size<T>, evaluate<T>};
}
template GradientKernels<float> gradient_kernels();
template GradientKernels<double> gradient_kernels();

}  // namespace cbk::CBK_ISA
