// Every CUDA kernel on the emulation in several orders of threads and blocks, eager and lazy streams: the results must
// be the same bits, and a sanitizer's build must have nothing to say.  Values are compared with references in the
// Python tests.  Compiled by nvcc (-DCBK_CARD=ON) it runs on a card several times over, for compute-sanitizer.
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "../../csrc/consensus/consensus_cuda.hpp"
#include "../../csrc/cuda/graph.hpp"
#include "../../csrc/hopping/hopping_cuda.hpp"
#include "../../csrc/hopping/low_rank_cuda.hpp"
#include "../../csrc/hopping/spans_cuda.hpp"
#include "../../csrc/hopping/weights_cuda.hpp"
#include "../../csrc/langevin/langevin_cuda.hpp"
#include "../../csrc/random/random_cuda.hpp"
#include "../../csrc/risk/cuda/risk_cuda.hpp"
#include "../../csrc/training/training_cuda.hpp"
#include "../../csrc/transport/transport_cuda.hpp"
#include "../../csrc/update/update_cuda.hpp"
#include "device_array.hpp"
#include "fitted.hpp"
#include "other_ranks.hpp"

namespace {

using namespace cbk;
using namespace cbk::device;

// Alphas and ranks of so many particles that several blocks share them.
std::string weights_of_many(CudaStream stream) {
  constexpr int64_t n = 4100;
  DeviceArray<double> risk(numbers<double>(n, 16)), target(std::vector<double>{900}), alphas(2), weights(n / 2), ess(1);
  solve_alphas(risk.data(), n / 2, 2, target.data(), alphas.data(), stream);
  hopping_weights(risk.data(), n, 1, true, nullptr, weights.data(), ess.data(), nullptr, stream);
  cudaStreamSynchronize(reinterpret_cast<cudaStream_t>(stream.handle));
  std::string bytes;
  for (const DeviceArray<double>* a : {&alphas, &weights, &ess}) a->append(bytes);
  return bytes;
}

// Bytes of all results.
template <class T>
std::string elementwise(CudaStream stream) {
  constexpr int64_t n = 5, size = 37;
  DeviceArray<T> theta(numbers<T>(n * size, 1)), point(numbers<T>(size, 2)), gradient(numbers<T>(n * size, 3)),
      first(n * size), second(n * size), out(n * size), normals(n * size);
  standard_normal(normals.data(), n, size, {7, 0, 1, 0}, stream);
  UpdateProblem<T> problem{};
  problem.theta = theta.data(), problem.out = out.data(), problem.particles = n, problem.size = size;
  problem.point = point.data(), problem.drift = 1, problem.diffusion = 1.2, problem.dt = 0.1;
  problem.noise = Noise::isotropic;
  cbo_update(problem, 1, stream);
  problem.theta = out.data(), problem.noise = Noise::anisotropic, problem.floor = 0.1;
  hybrid_update(problem, 1, AdamState<T>{gradient.data(), first.data(), second.data(), 0.1, 0.9, 0.999, 1e-8, 1},
                stream);
  langevin_drift(theta.data(), normals.data(), gradient.data(), n, size, 10.0, 1.0, 0.5, 0.1, {7, 0, 1, 0}, stream);
  langevin_kick(normals.data(), gradient.data(), n, size, 10.0, 0.1, stream);
  cudaStreamSynchronize(reinterpret_cast<cudaStream_t>(stream.handle));
  std::string bytes;
  for (const DeviceArray<T>* a : {&theta, &first, &second, &out, &normals}) a->append(bytes);
  return bytes;
}

template <class T>
std::string weighing(CudaStream stream) {
  constexpr int64_t n = 1100, size = 5, tasks = 2;
  std::vector<double> values = numbers<double>(n * tasks, 4);
  values[3] = NAN;
  DeviceArray<T> theta(numbers<T>(n * size, 5)), point(tasks * size);
  DeviceArray<double> risk(values), weights(n * tasks), ess(tasks);
  consensus(theta.data(), risk.data(), n, size, tasks, {3.0}, point.data(), weights.data(), ess.data(), stream);
  cudaStreamSynchronize(reinterpret_cast<cudaStream_t>(stream.handle));
  std::string bytes;
  point.append(bytes), weights.append(bytes), ess.append(bytes);
  return bytes;
}

template <class T>
std::string risks(CudaStream stream, const Network& net, int64_t n, int64_t samples, Loss loss, bool weighted = false) {
  DeviceArray<T> theta(numbers<T>(n * net.size(), 6)), x(numbers<T>(samples * net.inputs, 7)),
      y(numbers<T>(samples * net.outputs, 8)), out(n * samples * net.outputs), gradient(n * net.size());
  std::vector<int32_t> classes(static_cast<size_t>(samples));
  for (int64_t s = 0; s < samples; ++s) classes[size_t(s)] = int32_t(s % net.outputs);
  DeviceArray<int32_t> labels(classes);
  DeviceArray<double> risk_of(n), drawn(n), with_gradient(n);
  RiskProblem<T> problem{net, loss, theta.data(), n, x.data(), samples, nullptr, nullptr, 1};
  std::vector<T> positive = numbers<T>(samples, 16);
  for (T& w : positive) w = std::abs(w);
  DeviceArray<T> sample_weights(positive);
  if (weighted) problem.weights = sample_weights.data();
  if (!takes_labels(loss.kind))
    problem.y = y.data();
  else
    problem.labels = labels.data();
  risk(problem, risk_of.data(), stream);
  if (has_slope(loss.kind)) risk_gradient(problem, with_gradient.data(), gradient.data(), stream);
  const Draw<T> draw{theta.data(), T(0.1), n % 2 == 0, n, {3, 0, 1, 0}};
  RiskProblem<T> hopping = problem;
  hopping.theta = nullptr, hopping.draw = &draw;
  risk(hopping, drawn.data(), stream);
  DeviceArray<double> exchanged(n * net.width), weights(numbers<double>(n, 9)), drift(net.size());
  atom_risks(problem, theta.data(), exchanged.data(), stream);
  noise_drift<T>(weights.data(), n, 1, nullptr, {3, 0, 1, 0}, net.size(), drift.data(), stream);
  RiskProblem<T> outputs = problem;
  outputs.tasks = 0;
  forward(outputs, out.data(), stream);
  DeviceArray<double> rounded(6 * n);
  if (sizeof(T) == sizeof(float) && net.inputs > 16) {  // on tensor cores, by warps and by groups of them
    double* to = rounded.data();
    const bool before = warp_groups;
    for (const int groups : {1, 0}) {
#if !defined(__CUDACC__)
      emulation::machine().options.capability = 8 + groups;
#endif
      warp_groups = groups && before;  // not with CBOKERNELS_WGMMA=0
      for (const Precision precision : {Precision::float32, Precision::tf32, Precision::bf16}) {
#if defined(__SANITIZE_THREAD__)  // tf32 differs from float32 in what a thread does alone
        if (precision == Precision::tf32 || (precision == Precision::float32 && !groups)) continue;
#endif
        risk(problem, to, stream, 1, precision);
        to += n;
      }
    }
    warp_groups = before;
  }
  cudaStreamSynchronize(reinterpret_cast<cudaStream_t>(stream.handle));
  std::string bytes;
  out.append(bytes), gradient.append(bytes);
  for (const DeviceArray<double>* a : {&rounded, &risk_of, &drawn, &with_gradient, &exchanged, &drift})
    a->append(bytes);
  return bytes;
}

template <class T>
std::string transport(CudaStream stream, int64_t n, int64_t count) {
  constexpr int64_t size = 3;
  DeviceArray<T> atoms(numbers<T>(n * count * size, 11)), others(numbers<T>(2 * count * size, 12)),
      out(n * count * size);
  std::vector<int32_t> permutations(static_cast<size_t>(n * count));
  for (size_t i = 0; i < permutations.size(); ++i) permutations[i] = int32_t((i * 7 + 3) % size_t(count));
  DeviceArray<int32_t> partners(permutations);
  DeviceArray<int64_t> match(n * 2 * count);
  DeviceArray<double> cost(n * 2), cost_soft(n), error(n);
  DeviceArray<T> projection(n * count * size);
  DeviceArray<double> duals(n * 2 * count), gap(n * 2), weights(std::vector<double>(size_t(n), 0.5)), history(2),
      objective(1);
  Assigned to;
  to.match = match.data(), to.duals = duals.data(), to.cost = cost.data(), to.gap = gap.data();
  assign(Measures<T>{atoms.data(), others.data(), n, 2, count, size}, to, stream);
  DeviceArray<T> support(count * size);
  if (count <= 64)  // larger ones take another block of the assignment alone
    barycenter(BarycenterArrays<T>{atoms.data(), n, count, size, weights.data(), false, support.data(), 2, match.data(),
                                   history.data(), objective.data()},
               stream);
  transport_update(atoms.data(), others.data(), partners.data(), out.data(), n, count, size, count, 1.0, 1.1, 0.1,
                   {3, 0, 1, 0}, stream);
  sinkhorn(SinkhornProblem<T>{atoms.data(), n, count, size, others.data(), count, 0.5, 1e-2, 5, cost_soft.data(),
                              error.data(), projection.data()},
           stream);
  cudaStreamSynchronize(reinterpret_cast<cudaStream_t>(stream.handle));
  std::string bytes;
  projection.append(bytes);
  match.append(bytes), cost.append(bytes), out.append(bytes), support.append(bytes);
  for (const DeviceArray<double>* a : {&duals, &gap, &history, &objective, &cost_soft, &error}) a->append(bytes);
  return bytes;
}

// A call in a graph of the caller's, whose workspaces are then the graph's own: replayed twice, the second time on
// other particles; and the same without a graph.
template <class T>
std::string captured(CudaStream on) {
  const Network net{3, 7, 2, Activation::tanh, 1, false};
  constexpr int64_t n = 3, samples = 10;
  DeviceArray<T> theta(numbers<T>(n * net.size(), 16)), other(numbers<T>(n * net.size(), 17)),
      x(numbers<T>(samples * net.inputs, 18)), y(numbers<T>(samples * net.outputs, 19)), gradient(n * net.size());
  DeviceArray<double> out(n);
  const RiskProblem<T> problem{net, LossKind::mse, theta.data(), n, x.data(), samples, y.data(), nullptr, 1};
  const auto stream = reinterpret_cast<cudaStream_t>(on.handle);
  std::string replayed, plain;
#if !defined(__CUDACC__)
  emulation::machine().options.graph_memory = true;
#endif
  {
    Graph graph;
    graph.capture(stream, [&] { risk_gradient(problem, out.data(), gradient.data(), on); });
    for (std::string* bytes : {&replayed, &plain}) {
      for (const DeviceArray<T>* from : {&theta, &other}) {
        cudaMemcpyAsync(theta.data(), from->data(), n * net.size() * sizeof(T), cudaMemcpyDeviceToDevice, stream);
        bytes == &plain ? risk_gradient(problem, out.data(), gradient.data(), on) : graph.launch(stream);
        cudaStreamSynchronize(stream);
        out.append(*bytes), gradient.append(*bytes);
      }
      const std::vector<T> first = numbers<T>(n * net.size(), 16);
      cudaMemcpy(theta.data(), first.data(), first.size() * sizeof(T), cudaMemcpyHostToDevice);
    }
  }
#if !defined(__CUDACC__)
  emulation::machine().options.graph_memory = false;
#endif
  if (replayed != plain) throw CudaError("a replayed call gives other bits than the call");
  return plain;
}

// Risks and drifts of noise of low rank: of free directions and in the span, of whole networks and single neurons.
template <class T>
std::string low_rank(CudaStream stream, const Network& net, int64_t samples, Loss loss) {
  constexpr int64_t n = 6;
  DeviceArray<T> center(numbers<T>(net.size(), 20)), x(numbers<T>(samples * net.inputs, 21)),
      y(numbers<T>(samples * net.outputs, 22));
  std::vector<int32_t> classes(static_cast<size_t>(samples));
  for (int64_t s = 0; s < samples; ++s) classes[size_t(s)] = int32_t(s % net.outputs);
  DeviceArray<int32_t> labels(classes);
  const Draw<T> draw{center.data(), T(0.1), true, n, {3, 0, 1, 0}};
  RiskProblem<T> problem{net, loss, nullptr, n, x.data(), samples, nullptr, nullptr, 1};
  problem.draw = &draw;
  if (takes_labels(loss.kind))
    problem.labels = labels.data();
  else
    problem.y = y.data();
  std::string whole, single;
  for (const bool atoms : {false, true}) {
    const int64_t columns = atoms ? net.width : 1;
    DeviceArray<double> out(n * columns), weights(numbers<double>(n / 2 * columns, 23)), drift(net.size());
    for (const bool batch : {false, true}) {
      for (std::string* bytes : {&whole, &single}) {  // all draws at once, and one at a time
        const int64_t before = std::exchange(drawn_numbers, bytes == &single ? 1 : drawn_numbers);
        low_rank_risks(problem, {2, batch}, atoms, out.data(), stream);
        low_rank_drift(problem, {2, batch}, atoms, weights.data(), drift.data(), stream);
        cudaStreamSynchronize(reinterpret_cast<cudaStream_t>(stream.handle));
        drawn_numbers = before;
        out.append(*bytes), drift.append(*bytes);
      }
    }
  }
  for (size_t i = 0; i < whole.size(); i += sizeof(double)) {
    double a, b;
    std::memcpy(&a, &whole[i], sizeof a), std::memcpy(&b, &single[i], sizeof b);
    if (!(std::abs(a - b) < 1e-5)) throw CudaError("draws that are made one at a time give other risks or drifts");
  }
  return whole;
}

// A run of four epochs: plain, replayed, and replayed with another law of noise; its steps in a chain where that is.
// shared: among ranks.
template <class T>
std::string training(Method method, int64_t tasks, bool solve, bool weighted = false, int64_t rank = 0,
                     bool shared = false) {
  const Network net{rank ? 5 : 2, 5, 1, Activation::tanh, 0.2, false};
  constexpr int64_t samples = 11, particles = 4;
  const std::vector<T> x = numbers<T>(samples * net.inputs, 13), y = numbers<T>(tasks * samples, 14),
                       theta = numbers<T>(particles * net.size(), 15);
  std::vector<T> weights = numbers<T>(samples, 16);
  for (T& w : weights) w = std::abs(w);
  const std::vector<int32_t> task{0, 1, 1, 0};
  const bool drawn = method == Method::hopping;
  RunShape shape{0,
                 method,
                 net,
                 LossKind::mse,
                 samples,
                 4,
                 tasks,
                 false,
                 drawn ? 1 : particles,
                 7,
                 Noise::anisotropic,
                 solve,
                 Precision::float32};
  shape.drawn = drawn ? 6 : 0, shape.mirrored = true;
  shape.rank = rank, shape.in_span = shape.atoms = shape.fit = rank > 0;
  shape.decays = method != Method::cbo || tasks > 1;
  if (method == Method::cbo && tasks > 1) shape.subset = 3, shape.subset_moves = shape.flies = true;
  const RunData data{reinterpret_cast<uintptr_t>(x.data()),
                     reinterpret_cast<uintptr_t>(y.data()),
                     reinterpret_cast<uintptr_t>(weighted ? weights.data() : nullptr),
                     true,
                     {0}};
  shape.iterations = 2, shape.exact = true;
  if (method == Method::transport) shape.noise = Noise::additive;
  const std::unique_ptr<Run> run = make_run(shape, data, theta.data(), tasks > 1 ? task.data() : nullptr);
  std::vector<int64_t> order(samples);
  std::vector<int64_t> subsets{0, 1, 3, 1, 2, 3, 0, 2, 3};
  if (shared) {
    run->share(9, shape.method == Method::adam ? Exchange() : alone(run, tasks));
    subsets = {0, 1, 3, 1, 2, -1, -1, -1, -1};
  }
  EpochNumbers numbers_now{solve ? 2.0 : 50.0, 1, 1.2, 0.1, 0, 0, 0.1, 0.9, 0.999, 1e-8, 0.2, 0.1, 0.1, 1e-9, 0.02};
  std::string bytes;
  for (uint32_t epoch = 0; epoch < 4; ++epoch) {
    for (int64_t i = 0; i < samples; ++i) order[size_t(i)] = (i * 3 + epoch) % samples;
    numbers_now.dt = 0.1 / (1 + epoch), numbers_now.floor = epoch == 3 ? 0.1 : 0;
    run->submit(order.data(), subsets.data(), 3 * epoch, numbers_now);
  }
  for (int64_t epoch = 0; epoch < 4; ++epoch)
    bytes.append(reinterpret_cast<const char*>(run->row(epoch)), size_t(run->columns()) * sizeof(double));
  if (method == Method::transport) {
    const double anew = run->row(3)[run->columns() - 2];
    if (!(anew > 0)) throw CudaError("the variance by distances solved anew is " + std::to_string(anew));
  }
  std::vector<T> moved(size_t(shape.particles * net.size()));
  run->read("theta", moved.data());
  return bytes.append(reinterpret_cast<const char*>(moved.data()), moved.size() * sizeof(T));
}

std::string runs(float) {
#if !defined(__CUDACC__)
  emulation::machine().options.capability = 9;
#endif
  return training<float>(Method::cbo, 2, true) + training<float>(Method::cbo, 1, false) +
         training<float>(Method::hopping, 1, false) + training<float>(Method::hopping, 1, false, false, 1) +
         training<float>(Method::transport, 2, true) + training<float>(Method::cbo, 2, true, false, 0, true) +
         training<float>(Method::adam, 1, false, false, 0, true);
}
std::string runs(double) {
#if !defined(__CUDACC__)
  emulation::machine().options.capability = 8;
#endif
  return training<double>(Method::hybrid, 1, false, true) + training<double>(Method::heavy_ball, 1, false) +
         training<double>(Method::cbo, 1, false, false, 0, true);
}

template <class T>
std::string everything(CudaStream stream) {
  const Network line{1, 9, 1, Activation::relu, 1.0 / 9, true}, plane{3, 70, 1, Activation::tanh, 1, false};
  const Network wide{21, 5, 3, Activation::gelu, 0.2, true}, one{2, 150, 2, Activation::softplus, 1.0 / 150, false};
  const Network told{3, 9, 1, Activation::sin, 1, true}, later{17, 20, 3, Activation::silu, 1, false};
  const Network many{9, 40, 11, Activation::tanh, 0.1, false};
  return runs(T()) + captured<T>(stream) + elementwise<T>(stream) + transport<T>(stream, 2, 11) +
         (sizeof(T) == 4 ? transport<T>(stream, 1, 65) : "") + weighing<T>(stream) +
         low_rank<T>(stream, {21, 3, 3, Activation::relu, 0.2, false}, 13, LossKind::cross_entropy) +
         low_rank<T>(stream, many, sizeof(T) == 4 ? 5 : 130, LossKind::mse) +
         fitted<T>(stream, {17, 3, 3, Activation::silu, 1, false}, 35) +
         (sizeof(T) == 8 ? fitted<T>(stream, {6, 2, 1, Activation::tanh, 1, false}, 240) : "") +
         risks<T>(stream, line, 2, 530, LossKind::mse) + risks<T>(stream, plane, 3, 12, LossKind::mse) +
         risks<T>(stream, wide, 12, 10, LossKind::cross_entropy) + risks<T>(stream, one, 1, 40, LossKind::mse) +
         risks<T>(stream, wide, 5, 10, LossKind::hinge, true) + risks<T>(stream, one, 3, 40, LossKind::huber) +
         risks<T>(stream, wide, 2, 10, LossKind::zero_one) + risks<T>(stream, line, 2, 40, LossKind::logistic, true) +
         risks<T>(stream, told, 2, 40, LossKind::mse) + risks<T>(stream, later, 3, 10, LossKind::cross_entropy);
}

#if defined(__CUDACC__)
struct Ordering {
  const char* name;
};
constexpr Ordering orders[] = {{"once"}, {"again"}, {"once more"}};
constexpr int tried = std::size(orders);
void set_order(const Ordering&) {}
#else
struct Ordering {
  const char* name;
  emulation::Order order;
  uint64_t seed;
  unsigned resident;
  bool lazy;
};
using emulation::Order;
constexpr Ordering orders[] = {{"forward", Order::forward, 0, 1, false}, {"reverse", Order::reverse, 0, 2, false},
                               {"random 1", Order::random, 1, 2, true},  {"random 2", Order::random, 2, 1, false},
                               {"random 3", Order::random, 3, 3, true},  {"random 4", Order::random, 4, 1, true},
                               {"random 5", Order::random, 5, 2, false}};
#if defined(__SANITIZE_THREAD__)
constexpr int tried = 1;  // it judges what orders the program, not the order that came about; and it is slow
#elif defined(__SANITIZE_ADDRESS__)
constexpr int tried = 2;
#else
constexpr int tried = std::size(orders);
#endif
void set_order(const Ordering& o) {
  emulation::Machine& m = emulation::machine();
  m.set_order(o.order, o.seed);
  m.options.resident = o.resident, m.options.lazy_streams = o.lazy;
}
#endif

}  // namespace

int main() {
  std::string expected;
  int failures = 0;
  for (int i = 0; i < tried; ++i) {
    set_order(orders[i]);
    cudaStream_t stream;
    cudaStreamCreate(&stream);
    const CudaStream on{reinterpret_cast<uintptr_t>(stream)};
    const std::string bytes = everything<float>(on) + everything<double>(on) + weights_of_many(on);
    cudaStreamDestroy(stream);
    if (expected.empty()) expected = bytes;
    if (bytes != expected) ++failures, std::printf("%s: other bits than at first\n", orders[i].name);
  }
  trim_memory(0);  // what is not given back then is a leak
  std::printf("%zu bytes of results %d times over, %d differ\n", expected.size(), tried, failures);
  return failures != 0;
}
