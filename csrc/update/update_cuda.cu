// Steps on the GPU, one pass over the particles; the CPU's twin is update_cpu.cpp.
#include "../cuda/reduce.hpp"
#include "../cuda/rows.hpp"

#include "../common/philox.hpp"
#include "update_cuda.hpp"
#include "update_law.hpp"
#include "update_math.hpp"

namespace cbk::device {
namespace {

template <class T>
struct Step {
  const T *theta, *point;
  T* out;
  int64_t moving, size, tasks;
  const int64_t* rows;  // [moving], or nullptr: all
  const int32_t* task;
  const double* distance;  // [particles], or nullptr
  const T* gradient;
  T *first, *second;
  const double* rates;  // [particles], or nullptr
  NoiseKey key;
  int width;
  StepNumbers<T> numbers;
  const StepNumbers<T>* now;  // nullptr: `numbers`

  __device__ __forceinline__ StepNumbers<T> current() const { return now ? *now : numbers; }
  __device__ __forceinline__ int64_t particle(int64_t row) const { return rows ? rows[row] : row; }
};

template <class T>
__device__ __forceinline__ bool has_point(const Step<T>& k, int64_t n) {
  return !k.task || (k.task[n] >= 0 && k.task[n] < k.tasks);
}

// plain: all particles move, to one point, with noise that needs no distance, or by one learning rate.
template <UpdateForm form, bool adam, bool plain, class T>
CBK_KERNEL(256)
step_rows(Step<T> k) {
  constexpr bool noisy = draws(form), pointed = form != UpdateForm::still;
  const StepNumbers<T> now = k.current();
  for_columns(k.size, [&](int64_t i, int count) {
    T point[4] = {};
    if (plain && pointed) load_quad(k.point + i, count, k.width, point);
    for_rows(k.moving, k.size, [&](int64_t row, int64_t row_at) {
      const int64_t n = plain ? row : k.particle(row), at = (plain ? row_at : n * k.size) + i;
      T theta[4], z[4] = {}, gradient[4] = {}, first[4] = {}, second[4] = {};
      load_quad(k.theta + at, count, k.width, theta);
      const bool valid = plain || !pointed || has_point(k, n);
      if (!plain && pointed && valid) load_quad(k.point + (k.task ? k.task[n] : 0) * k.size + i, count, k.width, point);
      if constexpr (noisy)
        normals(Counter{k.key.seed, k.key.stream, now.step, k.key.first_particle + uint32_t(n)}, uint32_t(i / 4), z);
      if constexpr (adam) {
        load_quad(k.gradient + at, count, k.width, gradient);
        load_quad(k.first + at, count, k.width, first);
        load_quad(k.second + at, count, k.width, second);
      }
      AdamCoefficients<T> by = now.adam;
      if constexpr (!plain && !pointed) by.rate = T(k.rates[n] / now.bias);
      const T b = !plain && k.distance ? T(now.amplitude * k.distance[n]) : now.b;
      for (int j = 0; j < 4; ++j) {
        const T delta = pointed ? theta[j] - point[j] : theta[j];
        T start = theta[j];
        if constexpr (adam) start = descended(theta[j], gradient[j], first[j], second[j], by);
        theta[j] = valid ? moved<form>(start, delta, z[j], now.a, b, now.floor) : T(quiet_nan);
      }
      store_quad(k.out + at, count, k.width, theta);
      if constexpr (adam) {
        store_quad(k.first + at, count, k.width, first);
        store_quad(k.second + at, count, k.width, second);
      }
    });
  });
}

// distance[n] = |theta_n - point|, at most the radius.
template <class T>
CBK_KERNEL(256)
distances(Step<T> k, double* distance) {
  const double radius = k.current().radius;
  for (int64_t row = blockIdx.x; row < k.moving; row += gridDim.x) {
    const int64_t n = k.particle(row);
    double total = 0;
    if (has_point(k, n)) {
      const T *theta = k.theta + n * k.size, *point = k.point + (k.task ? k.task[n] : 0) * k.size;
      for (int64_t i = threadIdx.x; i < k.size; i += blockDim.x) total = add_square(total, theta[i] - point[i]);
    }
    total = sqrt(block_sum(total));
    if (threadIdx.x == 0) distance[n] = total < radius || total != total ? total : radius;
  }
}

template <UpdateForm form, class T>
void run(const Step<T>& k, cudaStream_t stream) {
  const auto start = [&](auto kernel) { launch_rows(kernel, k.moving, k.size, stream, k); };
  if constexpr (form == UpdateForm::still)
    k.rates ? start(step_rows<form, true, false, T>) : start(step_rows<form, true, true, T>);
  else if (k.rows || k.task || k.distance)
    k.gradient ? start(step_rows<form, true, false, T>) : start(step_rows<form, false, false, T>);
  else
    k.gradient ? start(step_rows<form, true, true, T>) : start(step_rows<form, false, true, T>);
}

template <class T>
void update(const UpdateProblem<T>& problem, int64_t tasks, UpdateForm form, const AdamState<T>* adam, CudaStream on,
            const StepNumbers<T>* now) {
  const cudaStream_t stream = native(on);
  const int64_t moving = problem.rows ? problem.row_count : problem.particles;
  Step<T> k{problem.theta,
            problem.point,
            problem.out,
            moving,
            problem.size,
            tasks,
            problem.rows,
            problem.task,
            nullptr,
            nullptr,
            nullptr,
            nullptr,
            adam ? adam->rates : nullptr,
            problem.key,
            access_width(problem.size, problem.theta, problem.out),
            numbers_of(problem, adam),
            now};
  if (problem.point) k.width = std::min(k.width, access_width(problem.size, problem.point));
  if (adam) {
    k.gradient = adam->gradient, k.first = adam->first, k.second = adam->second;
    k.width = std::min(k.width, access_width(problem.size, k.gradient, k.first, k.second));
  }
  const bool by_norm = by_distance(problem.noise);
  Workspace<double> distance(by_norm ? problem.particles : 0, stream);
  if (by_norm) {
    launch(distances<T>, strided_grid(distances<T>, moving, 256), dim3(256), 0, stream, k, distance.data());
    k.distance = distance.data();
  }
  with_form(form, [&](auto constant) { run<constant()>(k, stream); });
}

}  // namespace

template <class T>
StepNumbers<T> numbers_of(const UpdateProblem<T>& problem, const AdamState<T>* adam) {
  const UpdateScalars scalars = scalars_of(problem);
  return {T(scalars.a),
          T(scalars.b),
          T(scalars.floor),
          scalars.b,
          farthest(problem),
          adam ? coefficients(*adam) : AdamCoefficients<T>{},
          adam ? bias_of_first(*adam) : 1,
          problem.key.step};
}

template <class T>
void cbo_update(const UpdateProblem<T>& problem, int64_t tasks, CudaStream stream, const StepNumbers<T>* now) {
  update<T>(problem, tasks, form_of(problem), nullptr, stream, now);
}

template <class T>
void hybrid_update(const UpdateProblem<T>& problem, int64_t tasks, const AdamState<T>& adam, CudaStream stream,
                   const StepNumbers<T>* now) {
  update(problem, tasks, form_of(problem), &adam, stream, now);
}

template <class T>
void adam_update(const T* theta, T* out, int64_t particles, int64_t size, const AdamState<T>& adam, CudaStream stream,
                 const StepNumbers<T>* now) {
  UpdateProblem<T> problem{};
  problem.theta = theta, problem.out = out, problem.particles = particles, problem.size = size;
  problem.noise = Noise::none;
  update(problem, 0, UpdateForm::still, &adam, stream, now);
}

#define CBK_INSTANTIATE(T) \
  template StepNumbers<T> numbers_of(const UpdateProblem<T>&, const AdamState<T>*); \
  template void cbo_update(const UpdateProblem<T>&, int64_t, CudaStream, const StepNumbers<T>*); \
  template void hybrid_update(const UpdateProblem<T>&, int64_t, const AdamState<T>&, CudaStream, \
                              const StepNumbers<T>*); \
  template void adam_update(const T*, T*, int64_t, int64_t, const AdamState<T>&, CudaStream, const StepNumbers<T>*);
CBK_INSTANTIATE(float)
CBK_INSTANTIATE(double)
#undef CBK_INSTANTIATE

}  // namespace cbk::device
