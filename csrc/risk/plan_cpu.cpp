// On which path a risk problem is evaluated, and in which pieces.  Only shapes and the batch's density decide, never
// the number of threads.
#include "plan.hpp"

#include <algorithm>
#include <cstdio>

#include "../common/isa.hpp"
#include "../common/parallel.hpp"
#include "packing.hpp"

namespace cbk {
namespace {

constexpr int64_t enough_tasks = 32;
constexpr int64_t packed_bytes = 3 << 20;

// Capped, so that the numbers of bytes below cannot overflow.  A panel of so many is never packed with another.
int64_t target_rows(const RiskShape& shape) {
  return std::min(target_columns(shape.net, shape.loss) * shape.tasks, int64_t(1) << 40);
}

bool has_knots(const RiskShape& shape) {
  const Network& net = shape.net;
  return shape.loss.kind == LossKind::mse && net.activation == Activation::relu && net.inputs == 1 &&
         net.outputs == 1 && shape.element == sizeof(float) && shape.samples < int64_t(1) << 24;
}

// In vector instructions: what knots cost once, and what each sample saves against a pass over the samples.  The pass
// takes `pass` instructions for a neuron and sample, three for a task, and `last` for a neuron's lanes at the end.  A
// knot takes `knot`, and its products for each task.  Sorting and prefix sums take about 80 for a sample.
struct KnotsBalance {
  double cost, saved;

  KnotsBalance(const RiskShape& shape, bool gradients) {
    const double pass = gradients ? 10 : 3, last = gradients ? 45 : 0, knot = gradients ? 50 : 30;
    const double particles = double(shape.particles), neurons = particles * double(shape.net.width);
    const double tasks = double(shape.tasks), lanes = double(shape.lanes);
    cost = neurons * (knot - last + 8 * tasks / lanes);
    saved = (pass * neurons + 3 * tasks * particles) / lanes - (80 + 6 * tasks);
  }
};

bool knots_pay(const RiskShape& shape, bool gradients) {
  if (!has_knots(shape)) return false;
  const KnotsBalance balance(shape, gradients);
  return balance.cost < double(shape.samples) * balance.saved;
}

// How many particles (1 to 8) a task on lists takes: as many as leave the least of a list_block unused.
int64_t list_group(const RiskShape& shape) {
  int64_t best = 1;
  const auto waste = [&](int64_t group) {
    const int64_t neurons = group * shape.net.width;
    return double(round_up(neurons, shape.list_block)) / double(neurons);
  };
  for (int64_t group = 2; group <= 8; ++group)
    if (waste(group) < waste(best)) best = group;
  return best;
}

// Cycles per sample and lane.  A matrix product does two vectors of multiply-adds in a cycle, a list one.  Starting and
// ending a list costs 40 for a neuron.
struct ListsBalance {
  double product, rows, inputs;

  explicit ListsBalance(const RiskShape& shape) : inputs(double(shape.net.inputs)) {
    const int64_t neurons = list_group(shape) * shape.net.width;
    product = double(neurons) * inputs / 2, rows = double(round_up(neurons, shape.list_block));
  }
  bool pays(double density) const { return rows * (inputs * density + 40) < product; }
  double density() const { return (product / rows - 40) / inputs; }  // below this one lists pay
};

constexpr int64_t fewest_on_lists = 32;  // particles that share what it takes to make them

// And with fewer tasks than these many threads would stand idle, which products by chunks of samples keep busy.
int64_t least_on_lists(const RiskShape& shape) { return std::max(fewest_on_lists, 8 * list_group(shape)); }

bool lists_pay(const RiskShape& shape) {
  return shape.particles >= least_on_lists(shape) && ListsBalance(shape).pays(shape.density);
}

bool fits_registers(const RiskShape& shape) { return shape.net.outputs == 1 && shape.net.inputs <= direct_inputs; }

// Of a gradient: samples of which a neuron's activations stay in L2, and whether they are too few to keep any.
int64_t held_samples(const RiskShape& shape) {
  constexpr int64_t held_bytes = 256 << 10;
  return held_bytes / (2 * shape.net.width * shape.element);
}
constexpr int64_t least_tile = 64;
bool is_wide(const RiskShape& shape) { return held_samples(shape) < least_tile; }

}  // namespace

template <class T>
double density(const RiskProblem<T>& problem) {
  constexpr int64_t often = 1 << 20;
  const int64_t inputs = problem.net.inputs, count = problem.samples * inputs;
  if (planned_particles(problem) < fewest_on_lists || inputs < 64) return 1;
  int64_t filled = 0;
  for (int64_t first = 0; first < count; first += often) {
    for (int64_t i = first; i < std::min(first + often, count); ++i) filled += problem.x[i] != 0;
    poll();
  }
  return double(filled) / double(count);
}

template <class T>
RiskShape shape_of(const Network& net, Loss loss, int64_t particles, int64_t samples, int64_t tasks, double density) {
  const RiskKernels<T>& kernels = isa_table().risk<T>();
  return {net, loss, particles, samples, tasks, sizeof(T), kernels.lanes, kernels.list_block, density};
}

Path choose_path(const RiskShape& shape, Purpose purpose) {
  constexpr int64_t wide_inputs = 8;
  const bool gradients = purpose == Purpose::gradients;
  if (purpose != Purpose::outputs && knots_pay(shape, gradients)) return Path::knots;
  if (fits_registers(shape) && !(gradients && is_wide(shape) && shape.net.inputs > wide_inputs)) return Path::direct;
  return lists_pay(shape) ? Path::lists : Path::products;
}

RiskPlan plan_risk(const RiskShape& shape, Path path) {
  constexpr int64_t outputs_bytes = 1 << 20, weights_bytes = 256 << 10;
  constexpr int64_t least_products = 1 << 20;  // of a task that is one chunk of several: some ten microseconds
  const Network& net = shape.net;
  RiskPlan plan;
  plan.path = path;
  plan.panel = (path == Path::direct ? 4 : 2) * shape.lanes;

  // A particle's weights are read once per panel, so a task takes no more particles or neurons than L2 holds.
  const int64_t neuron = net.inputs * shape.element;
  plan.range = std::clamp(weights_bytes / neuron / 256 * 256, int64_t(256), round_up(net.width, 256));
  plan.group = path == Path::lists ? list_group(shape)
                                   : std::clamp(weights_bytes / (net.size() * shape.element), int64_t(1), int64_t(4));

  // Chunks are as long as packed inputs and outputs stay within a few MB.  They are shorter where few particles would
  // leave threads idle.
  const int64_t row = (net.inputs + target_rows(shape)) * shape.element;
  int64_t chunk =
      std::min({packed_bytes / row, outputs_bytes / (plan.group * net.outputs * shape.element), int64_t(8192)});
  const int64_t groups = divide_up(shape.particles, plan.group);
  const bool split = groups < enough_tasks && path != Path::lists;  // lists are those of one chunk
  const int64_t sample = plan.group * net.width * (net.inputs + net.outputs);
  const int64_t least = std::clamp(least_products / sample, int64_t(64), int64_t(256));
  if (split) chunk = std::min(chunk, std::max(divide_up(shape.samples * groups, enough_tasks), least));
  plan.chunk = round_up(std::clamp(chunk, int64_t(1), shape.samples), plan.panel);
  const int64_t all = divide_up(shape.samples, plan.chunk);
  const int64_t fit = groups == 1 ? all : std::max(packed_bytes / (row * plan.chunk), int64_t(1));
  plan.chunks = split ? std::min(all, fit) : 1;  // of one group all at once: each thread packs its own
  return plan;
}

GradientPlan plan_gradient(const RiskShape& shape, Path path) {
  constexpr int64_t streamed_bytes = 4 << 20, partial_bytes = 8 << 20, enough_particles = 16, most_tile = 256;
  constexpr int64_t block_bytes = 32 << 10;  // for a tile's deltas, so that they stay in L1
  constexpr int64_t chunks_at_once = 8;      // of few particles, for as many threads
  const Network& net = shape.net;
  GradientPlan plan;
  plan.path = path;
  plan.wide = is_wide(shape);
  plan.group = path == Path::lists ? list_group(shape) : 1;
  plan.forward_direct = path == Path::products && fits_registers(shape);
  plan.panel = (fits_registers(shape) ? 4 : 2) * shape.lanes;
  // Sums over a chunk's samples are in the particles' type: at most 1024 samples bound their rounding.
  const int64_t row = (2 * net.inputs + target_rows(shape)) * shape.element;
  int64_t chunk = std::min(packed_bytes / row, int64_t(1024));
  if (path == Path::products)  // what is kept of a chunk streams through L2 and stays in L3
    chunk = std::min(chunk, streamed_bytes / (net.width * shape.element));
  if (shape.particles < enough_particles)
    chunk = std::min(chunk, std::max(divide_up(shape.samples * shape.particles, enough_particles), int64_t(64)));
  if (path == Path::direct) {
    const int64_t most = std::min(most_tile, round_up(chunk, plan.panel));
    plan.tile = plan.wide ? most : std::min(held_samples(shape) / plan.panel * plan.panel, most);
  } else {
    const int64_t block = std::min(net.width, neuron_block) * shape.element;
    plan.tile = path == Path::lists ? list_tile
                                    : std::clamp(block_bytes / block / least_tile * least_tile, least_tile, most_tile);
  }
  if (shape.particles < enough_particles && shape.samples > plan.tile && path == Path::products) {
    chunk = std::min(chunk, std::max(packed_bytes / row / chunks_at_once, least_tile));
    plan.tile = std::min(plan.tile, std::max(chunk / least_tile * least_tile, least_tile));
  }
  plan.chunk = round_up(std::clamp(chunk, int64_t(1), shape.samples), plan.tile);
  const int64_t all = divide_up(shape.samples, plan.chunk), partial = shape.particles * net.size() * shape.element;
  const int64_t fit = std::max(std::min(packed_bytes / (row * plan.chunk), partial_bytes / partial), int64_t(1));
  plan.chunks = shape.particles < enough_particles ? std::min(all, fit) : 1;
  return plan;
}

namespace {

// Each text names the quantity that would select another path if it changed.
std::string reason_of(const RiskShape& shape, Path path) {
  const KnotsBalance knots(shape, false);
  if (has_knots(shape) && knots.saved > 0) {
    const std::string from = std::to_string(int64_t(std::min(knots.cost / knots.saved, 1e18)) + 1);
    return "sums between knots cost less than a pass over the samples from " + from + " samples on";
  }
  if (has_knots(shape)) return "for so few neurons sums between knots cost more than a pass over the samples";
  if (path == Path::direct)
    return "with one output and at most " + std::to_string(direct_inputs) + " inputs, samples stay in registers";
  const double density = ListsBalance(shape).density();
  if (density <= 0) return "for so few inputs or neurons skipping zeros costs more than products";
  if (shape.particles < least_on_lists(shape))
    return "skipping zeros costs less than products from " + std::to_string(least_on_lists(shape)) + " particles on";
  char share[32];
  std::snprintf(share, sizeof share, "%.3f", density);
  return std::string("skipping zeros costs less than products below a density of ") + share;
}

}  // namespace

Explanation explain(const RiskShape& shape) {
  const Path path = choose_path(shape, Purpose::risks);
  if (path == Path::knots) return {path, 1, shape.samples, reason_of(shape, path)};
  const RiskPlan plan = plan_risk(shape, path);
  return {path, plan.group, std::min(plan.chunk, shape.samples), reason_of(shape, path)};
}

#define CBK_INSTANTIATE(T) \
  template double density(const RiskProblem<T>&); \
  template RiskShape shape_of<T>(const Network&, Loss, int64_t, int64_t, int64_t, double);
CBK_INSTANTIATE(float)
CBK_INSTANTIATE(double)
#undef CBK_INSTANTIATE

}  // namespace cbk
