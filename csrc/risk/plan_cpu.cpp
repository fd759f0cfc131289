// How a risk problem is evaluated: by knots (knots.hpp), in registers (direct), by products, or from lists of non-zero
// inputs (lists.hpp), and in which pieces.  Only shapes and the batch's density decide, never the number of threads.
#include "plan.hpp"

#include <algorithm>

#include "../common/isa.hpp"
#include "../common/parallel.hpp"
#include "packing.hpp"

namespace cbk {
namespace {

constexpr int64_t enough_tasks = 32;
constexpr int64_t packed_bytes = 3 << 20;

int64_t target_rows(const RiskShape& shape) { return target_columns(shape.net, shape.loss) * shape.tasks; }

// Squared errors of ReLU networks with one input, in vector instructions: a pass takes `pass` a neuron and sample (and
// three a task); by knots a neuron costs `knot` (and a task's products), and a sample's share of sort and sums about 80.
bool knots_pay(const RiskShape& shape, double pass, double knot) {
  const Network& net = shape.net;
  if (shape.loss != Loss::mse || net.activation != Activation::relu || net.inputs != 1 || net.outputs != 1 ||
      shape.element != sizeof(float) || shape.samples >= int64_t(1) << 24)
    return false;
  const double neurons = double(shape.particles) * double(net.width), samples = double(shape.samples);
  const double tasks = double(shape.tasks), particles = double(shape.particles), lanes = double(shape.lanes);
  return neurons * (knot + 8 * tasks / lanes) + samples * (80 + 6 * tasks) <
         samples / lanes * (pass * neurons + 3 * tasks * particles);
}

// Particles whose neurons fill blocks of lists.hpp best, up to 8 of them.
int64_t fill_blocks(int64_t width, int64_t block) {
  int64_t best = 1;
  const auto waste = [&](int64_t group) { return double(round_up(group * width, block)) / double(group * width); };
  for (int64_t group = 2; group <= 8; ++group)
    if (waste(group) < waste(best)) best = group;
  return best;
}

// Particles in a task where lists pay, else 0.  In cycles a sample: a product takes two vectors of multiply-adds a cycle,
// a list one, and its ends.
int64_t list_group(const RiskShape& shape) {
  const int64_t group = fill_blocks(shape.net.width, shape.sparse_block), neurons = group * shape.net.width;
  const double inputs = double(shape.net.inputs), lanes = double(shape.lanes);
  const double product = double(neurons) / lanes * inputs / 2;
  const double lists = double(round_up(neurons, shape.sparse_block)) / lanes * (inputs * shape.density + 40);
  return shape.particles >= enough_tasks * group && lists < product ? group : 0;
}

bool fits_registers(const RiskShape& shape) { return shape.net.outputs == 1 && shape.net.inputs <= direct_inputs; }

}  // namespace

template <class T>
double density(const RiskProblem<T>& problem) {
  constexpr int64_t often = 1 << 20;
  const int64_t inputs = problem.net.inputs, count = problem.samples * inputs;
  if (problem.particles < enough_tasks || inputs < 64) return 1;
  int64_t filled = 0;
  for (int64_t first = 0; first < count; first += often) {
    for (int64_t i = first; i < std::min(first + often, count); ++i) filled += problem.x[i] != 0;
    poll();
  }
  return double(filled) / double(count);
}

template <class T>
RiskShape shape_of(const RiskProblem<T>& problem) {
  const RiskKernels<T>& kernels = isa_table().risk<T>();
  return {problem.net, problem.loss, problem.particles, problem.samples, problem.tasks, sizeof(T), kernels.lanes,
          kernels.sparse_block, density(problem)};
}

Path choose_path(const RiskShape& shape) {
  if (knots_pay(shape, 3, 30)) return Path::knots;
  if (fits_registers(shape)) return Path::direct;
  return list_group(shape) > 0 ? Path::lists : Path::products;
}

RiskPlan plan_risk(const RiskShape& shape) {
  constexpr int64_t outputs_bytes = 1 << 20, weights_bytes = 256 << 10;
  const Network& net = shape.net;
  RiskPlan plan;
  plan.direct = fits_registers(shape);
  plan.panel = (plan.direct ? 4 : 2) * shape.lanes;

  // A particle's weights are read once per panel: as many particles or neurons at a time as L2 holds.
  const int64_t neuron = net.inputs * shape.element;
  plan.range = std::clamp(weights_bytes / neuron / 256 * 256, int64_t(256), round_up(net.width, 256));
  plan.group = std::clamp(weights_bytes / (net.size() * shape.element), int64_t(1), int64_t(4));
  const int64_t group = plan.direct ? 0 : list_group(shape);
  plan.sparse = group > 0;
  if (plan.sparse) plan.group = group;

  // Chunks as long as packed inputs and outputs stay within a few MB; shorter where few particles would leave
  // threads idle.
  const int64_t row = (net.inputs + target_rows(shape)) * shape.element;
  int64_t chunk =
      std::min({packed_bytes / row, outputs_bytes / (plan.group * net.outputs * shape.element), int64_t(8192)});
  const int64_t groups = divide_up(shape.particles, plan.group);
  if (groups < enough_tasks)
    chunk = std::min(chunk, std::max(divide_up(shape.samples * groups, enough_tasks), int64_t(256)));
  plan.chunk = round_up(std::clamp(chunk, int64_t(1), shape.samples), plan.panel);
  const int64_t all = divide_up(shape.samples, plan.chunk);
  plan.chunks = groups < enough_tasks ? std::min(all, std::max(packed_bytes / (row * plan.chunk), int64_t(1))) : 1;
  return plan;
}

bool gradient_by_knots(const RiskShape& shape) { return knots_pay(shape, 10, 50); }

GradientPlan plan_gradient(const RiskShape& shape) {
  constexpr int64_t held_bytes = 256 << 10, streamed_bytes = 4 << 20, partial_bytes = 8 << 20, few = 16;
  constexpr int64_t least_tile = 64, most_tile = 256, wide_inputs = 8;
  constexpr int64_t block_bytes = 32 << 10;  // of a tile's deltas, which stay in L1
  const Network& net = shape.net;
  const int64_t neurons_bytes = net.width * shape.element;
  const int64_t held = held_bytes / (2 * neurons_bytes);  // samples of which activations stay in L2
  GradientPlan plan;
  plan.wide = held < least_tile;
  plan.direct = fits_registers(shape) && (!plan.wide || net.inputs <= wide_inputs);
  const int64_t group = plan.direct ? 0 : list_group(shape);
  plan.sparse = group > 0;
  plan.group = plan.sparse ? group : 1;
  plan.few = fits_registers(shape) && !plan.direct;
  plan.panel = (fits_registers(shape) ? 4 : 2) * shape.lanes;
  // Sums over a chunk's samples run in the particles' type: chunks of at most 1024.
  const int64_t row = (2 * net.inputs + target_rows(shape)) * shape.element;
  int64_t chunk = std::min(packed_bytes / row, int64_t(1024));
  if (!plan.direct && !plan.sparse)  // what is kept of a chunk streams through L2 and stays in L3
    chunk = std::min(chunk, streamed_bytes / neurons_bytes);
  if (shape.particles < few)
    chunk = std::min(chunk, std::max(divide_up(shape.samples * shape.particles, few), int64_t(64)));
  if (plan.direct) {
    const int64_t most = std::min(most_tile, round_up(chunk, plan.panel));
    plan.tile = plan.wide ? most : std::min(held / plan.panel * plan.panel, most);
  } else {
    const int64_t block = std::min(net.width, neuron_block) * shape.element;
    plan.tile = plan.sparse ? sparse_tile : std::clamp(block_bytes / block / least_tile * least_tile, least_tile, most_tile);
  }
  plan.chunk = round_up(std::clamp(chunk, int64_t(1), shape.samples), plan.tile);
  const int64_t all = divide_up(shape.samples, plan.chunk), partial = shape.particles * net.size() * shape.element;
  const int64_t fit = std::max(std::min(packed_bytes / (row * plan.chunk), partial_bytes / partial), int64_t(1));
  plan.chunks = shape.particles < few ? std::min(all, fit) : 1;
  return plan;
}

#define CBK_INSTANTIATE(T)                            \
  template double density(const RiskProblem<T>&);     \
  template RiskShape shape_of(const RiskProblem<T>&);
CBK_INSTANTIATE(float)
CBK_INSTANTIATE(double)
#undef CBK_INSTANTIATE

}  // namespace cbk
