#include "machine.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <new>

namespace cbk::emulation {
namespace {

std::string place(const Site& site) {
  return std::string(site.operation) + " at " + site.file + ":" + std::to_string(site.line);
}

std::string place(uint3 i) {
  return "(" + std::to_string(i.x) + "," + std::to_string(i.y) + "," + std::to_string(i.z) + ")";
}

std::string hex(unsigned mask) {
  char text[16];
  std::snprintf(text, sizeof text, "%08x", mask);
  return text;
}

constexpr std::align_val_t shared_alignment{128};

constexpr char dynamic_key = 0;

}  // namespace

Machine& machine() {
  static Machine* const the = new Machine;  // never destroyed: suspended fibers may still lie on its stacks
  return *the;
}

Options::Options() {
  if (const char* value = std::getenv("CBK_EMULATION_ORDER")) {
    order = !std::strcmp(value, "forward")   ? Order::forward
            : !std::strcmp(value, "reverse") ? Order::reverse
                                             : Order::random;
    if (order == Order::random) seed = std::strtoull(value, nullptr, 10);
  }
  if (const char* value = std::getenv("CBK_EMULATION_LAZY")) lazy_streams = std::atoi(value) != 0;
  if (const char* value = std::getenv("CBK_EMULATION_RESIDENT")) resident = unsigned(std::max(std::atoi(value), 1));
}

bool Site::operator==(const Site& other) const {
  // mostly they are the same literals
  const auto same = [](const char* a, const char* b) { return a == b || !std::strcmp(a, b); };
  return line == other.line && same(operation, other.operation) && same(file, other.file);
}

Thread::Thread(size_t stack_bytes) : fiber(&Machine::thread_main, stack_bytes) {}

void Machine::set_order(Order order, uint64_t seed) {
  options.order = order, options.seed = seed;
  random.seed(seed);
}

void Machine::fail(const std::string& what) {
  message = what;
  failed_ = true;
  if (!current_) {
    std::fprintf(stderr, "CUDA emulation: %s\n", message.c_str());
    std::abort();
  }
  message += " [block " + place(current_->block->index) + " thread " + place(current_->index) + "]";
  current_->fiber.suspend();
  std::abort();  // a thread of a failed launch never runs again
}

void Machine::thread_main() {
  Machine& m = machine();
  for (;;) {
    {
      Quiet quiet;
      acquire(&m.started_);
    }
    m.body_();
    Quiet quiet;
    Thread* self = m.current_;
    m.finish(self);
    release(&m.ended_);
    self->fiber.suspend();
  }
}

Thread* Machine::take_thread() {
  if (idle_.empty()) {
    pool_.push_back(std::make_unique<Thread>(options.stack_bytes));
    return pool_.back().get();
  }
  Thread* thread = idle_.back();
  idle_.pop_back();
  return thread;
}

void Machine::drop_threads() {  // those of a failed launch are suspended in its middle
  pool_.clear(), idle_.clear(), ready_.clear();
}

void Machine::resume(Thread* thread) {
  current_ = thread;
  threadIdx = thread->index, blockIdx = thread->block->index;
  thread->fiber.resume();
  current_ = nullptr;
}

void Machine::wake(Thread* thread, void* wait_for) {
  thread->state = Thread::State::ready;
  thread->wait_for = wait_for;
  ready_.push_back(thread);
}

void Machine::park(Thread* thread) {
  thread->fiber.suspend();
  if (thread->wait_for) acquire(std::exchange(thread->wait_for, nullptr));
}

void Machine::yield() {
  Quiet quiet;
  Thread* self = current_;
  self->site = {"yield", "", 0};
  wake(self, nullptr);
  park(self);
}

bool Machine::coin() {
  Quiet quiet;
  return current_ && options.order == Order::random && random() % 4 == 0;
}

void Machine::complete_barrier(Block& block) {
  if (block.live != block.threads.size())
    fail(place(block.site) + " after " + std::to_string(block.threads.size() - block.live) +
         " threads of the block have exited");
  char* released = &block.released[block.generation++ % 2];
  block.arrived = 0;
  block.result = std::exchange(block.votes, 0);
  for (Thread* thread : block.threads)
    if (thread->state == Thread::State::at_barrier) wake(thread, released);
}

int Machine::barrier(Site site, bool vote) {
  Quiet quiet;
  Thread* self = current_;
  Block& block = *self->block;
  if (block.arrived && !(block.site == site))
    fail("divergent barrier: " + place(site) + " while others wait in " + place(block.site));
  release(&block.released[block.generation % 2]);
  self->site = block.site = site;
  self->state = Thread::State::at_barrier;
  block.votes += vote;
  if (++block.arrived == block.live) complete_barrier(block);
  park(self);
  return block.result;
}

void Machine::grid_barrier(Site site) {
  Quiet quiet;
  Thread* self = current_;
  if (!cooperative_) fail(place(site) + " in a launch that is not cooperative");
  if (grid_arrived_ && !(grid_site_ == site))
    fail("divergent grid barrier: " + place(site) + " while others wait in " + place(grid_site_));
  release(&grid_released_[grid_generation_ % 2]);
  grid_site_ = self->site = site;
  self->state = Thread::State::at_grid;
  if (++grid_arrived_ == grid_live_) {
    char* released = &grid_released_[grid_generation_++ % 2];
    grid_arrived_ = 0;
    for (Block* block : together_)
      for (Thread* thread : block->threads)
        if (thread->state == Thread::State::at_grid) wake(thread, released);
  }
  park(self);
}

void Machine::finish(Thread* self) {
  Block& block = *self->block;
  if (!self->open.empty() || !self->groups.empty()) fail("thread exits with cp.async copies that it never waited for");
  if (!self->products.empty()) fail("thread exits with wgmma products that it never waited for");
  self->state = Thread::State::done;
  self->site = {"exit", "", 0};
  --block.live, --grid_live_;
  if (block.arrived) fail("thread exits while others wait in " + place(block.site));
  if (grid_arrived_) fail("thread exits while others wait in " + place(grid_site_));
}

void Machine::collective(unsigned mask, Site site, void* payload, void (*together)(void** lanes, unsigned mask)) {
  Quiet quiet;
  Thread* self = current_;
  Block& block = *self->block;
  const unsigned first = self->rank - self->lane();
  if (!(mask >> self->lane() & 1)) fail(place(site) + ": mask " + hex(mask) + " does not name the caller's lane");
  self->state = Thread::State::in_warp;
  self->site = site, self->mask = mask, self->payload = payload;
  if (!together) release(&self->announced);
  // The next lanes first: threads mostly come in the order of their ranks, and one that has not come settles it.
  bool complete = true;
  for (unsigned i = 1; i < 32 && complete; ++i) {
    const unsigned lane = (self->lane() + i) % 32;
    if (!(mask >> lane & 1)) continue;
    const Thread* other = first + lane < block.threads.size() ? block.threads[first + lane] : nullptr;
    if (!other || other->state == Thread::State::done)
      fail(place(site) + ": mask " + hex(mask) + " names lane " + std::to_string(lane) +
           ", which has exited or does not exist");
    complete = other->state == Thread::State::in_warp && other->mask == mask && other->site == site;
  }
  if (complete) {
    void* lanes[32] = {};
    for (unsigned lane = 0; lane < 32; ++lane) {
      if (!(mask >> lane & 1)) continue;
      lanes[lane] = block.threads[first + lane]->payload;
      if (!together) acquire(&block.threads[first + lane]->announced);
    }
    char* released = nullptr;
    if (together)
      together(lanes, mask);
    else
      release(released = &block.warp_released[block.warp_generation++ % block.warp_released.size()]);
    for (unsigned lane = 0; lane < 32; ++lane)
      if (mask >> lane & 1) wake(block.threads[first + lane], released);
  }
  park(self);
}

void* Machine::shared(const void* key, size_t bytes) {
  Quiet quiet;
  std::vector<Block::Variable>& variables = current_->block->shared;
  for (const Block::Variable& variable : variables)
    if (variable.key == key) return variable.memory.get();
  // an object of its own on the heap, so that AddressSanitizer guards both its ends; NaN, so that what is read before
  // it is written shows
  char* memory = static_cast<char*>(::operator new(bytes, shared_alignment));
  std::memset(memory, 0xff, bytes);
  variables.push_back({key, {memory, [](void* p) { ::operator delete(p, shared_alignment); }}});
  return memory;
}

void* Machine::dynamic_shared() {
  const size_t bytes = current_->block->dynamic_bytes;
  if (!bytes) fail("the kernel uses dynamic shared memory, but the launch gave none");
  return shared(&dynamic_key, bytes);
}

std::string Machine::deadlock() const {
  std::map<std::string, int> waiting;
  for (const Block* block : together_)
    for (const Thread* thread : block->threads)
      if (thread->state != Thread::State::done)
        ++waiting[place(thread->site) + (thread->state == Thread::State::in_warp ? ", mask " + hex(thread->mask) : "")];
  std::string text = "deadlock:";
  for (const auto& [where, count] : waiting) text += " " + std::to_string(count) + " threads wait in " + where + ";";
  return text;
}

void Machine::schedule() {
  const auto before = [](const Thread* a, const Thread* b) {
    return a->block != b->block ? a->block < b->block : a->rank < b->rank;
  };
  std::vector<Thread*> round;
  while (!failed_ && !ready_.empty()) {
    if (options.order == Order::random) {
      std::swap(ready_[random() % ready_.size()], ready_.back());
      Thread* thread = ready_.back();
      ready_.pop_back();
      resume(thread);
      continue;
    }
    round.swap(ready_);
    std::sort(round.begin(), round.end(), before);
    if (options.order == Order::reverse) std::reverse(round.begin(), round.end());
    for (size_t i = 0; i < round.size() && !failed_; ++i) resume(round[i]);
    round.clear();
  }
}

bool Machine::run_together(const std::vector<uint3>& indices, dim3 shape, size_t dynamic_bytes) {
  const unsigned count = shape.x * shape.y * shape.z;
  std::vector<Block> blocks(indices.size());
  together_.clear(), ready_.clear();
  grid_live_ = count * unsigned(indices.size()), grid_arrived_ = 0;
  for (size_t k = 0; k < indices.size(); ++k) {
    Block& block = blocks[k];
    block.index = indices[k], block.live = count, block.dynamic_bytes = dynamic_bytes;
    together_.push_back(&block);
    for (unsigned i = 0; i < count; ++i) {
      Thread* thread = take_thread();
      thread->block = &block, thread->rank = i;
      thread->index = {i % shape.x, i / shape.x % shape.y, i / (shape.x * shape.y)};
      block.threads.push_back(thread);
      wake(thread, nullptr);
    }
  }
  schedule();
  for (const Block& block : blocks)
    for (const Thread* thread : block.threads)
      if (!failed_ && thread->state != Thread::State::done) message = deadlock(), failed_ = true;
  // the next blocks get other fibers, or ThreadSanitizer would take equal ranks for one thread
  for (const Block& block : blocks) idle_.insert(idle_.end(), block.threads.begin(), block.threads.end());
  together_.clear();
  if (failed_) drop_threads();
  return !failed_;
}

bool Machine::run(dim3 grid, dim3 block, size_t dynamic_bytes, bool cooperative, std::function<void()> body) {
  Quiet quiet;
  if (current_) fail("launch inside a kernel");
  body_ = std::move(body), cooperative_ = cooperative, failed_ = false;
  gridDim = grid, blockDim = block;
  const size_t count = size_t(grid.x) * grid.y * grid.z;
  std::vector<uint3> blocks(count);
  for (size_t i = 0; i < count; ++i)
    blocks[i] = {unsigned(i % grid.x), unsigned(i / grid.x % grid.y), unsigned(i / (size_t(grid.x) * grid.y))};
  if (options.order == Order::reverse) std::reverse(blocks.begin(), blocks.end());
  if (options.order == Order::random) std::shuffle(blocks.begin(), blocks.end(), random);
  release(&started_);
  const size_t at_once = cooperative ? count : options.resident;
  for (size_t i = 0; i < count; i += at_once)
    if (!run_together({blocks.begin() + long(i), blocks.begin() + long(std::min(count, i + at_once))}, block,
                      dynamic_bytes))
      return false;
  acquire(&ended_);
  return true;
}

}  // namespace cbk::emulation
