#include "update_bind.hpp"

#if defined(CBK_CARD)
#include "update_cuda.hpp"
#endif

namespace cbk {
#if !defined(CBK_CARD)
// As on a card, whose kernels check the tasks' range.
template <class T>
void cbo_update(const UpdateProblem<T>& problem, int64_t, Execution run) {
  cbo_update(problem, run);
}
template <class T>
void hybrid_update(const UpdateProblem<T>& problem, int64_t, const AdamState<T>& adam, Execution run) {
  hybrid_update(problem, adam, run);
}
#endif
namespace {

template <class T>
void register_typed_update(py::module_& m) {
  m.def("cbo_update", [](const Input<T>& theta, const Input<T>& point, const std::optional<Input<int32_t>>& task,
                         const std::optional<Input<int64_t>>& rows, const Law& law, NoiseKey key, const Output<T>& out,
                         const Execution& run) {
    UpdateProblem<T> problem = update_of(theta, point, task, law, key, out);
    if (rows) {
      if (rows->size() == 0) return;  // on a card its address is none, which stands for all
      check_indices("rows", rows->data(), rows->size(), problem.particles);
      problem.rows = rows->data(), problem.row_count = rows->size();
    }
    released(run, [&] { kernels::cbo_update(problem, count_of(point), run); });
  });
  m.def("hybrid_update", [](const Input<T>& theta, const Input<T>& point, const std::optional<Input<int32_t>>& task,
                            const Input<T>& gradient, const Output<T>& first, const Output<T>& second, const Law& law,
                            const Descent& by, NoiseKey key, const Output<T>& out, const Execution& run) {
    const UpdateProblem<T> problem = update_of(theta, point, task, law, key, out);
    const AdamState<T> adam = adam_of(theta, gradient, first, second, by);
    released(run, [&] { kernels::hybrid_update(problem, count_of(point), adam, run); });
  });
  m.def("adam_update",
        [](const Input<T>& theta, const Input<T>& gradient, const Output<T>& first, const Output<T>& second,
           const Descent& by, const std::optional<Input<double>>& rates, const Output<T>& out, const Execution& run) {
    AdamState<T> adam = adam_of(theta, gradient, first, second, by);
    set_rates(adam, theta, rates);
    check_shape("out", out, {theta.shape(0), theta.shape(1)});
    released(run, [&] { kernels::adam_update(theta.data(), out.data(), theta.shape(0), theta.shape(1), adam, run); });
  });
}

}  // namespace

void register_update(py::module_& m) {
  register_typed_update<float>(m);
  register_typed_update<double>(m);
}

}  // namespace cbk
