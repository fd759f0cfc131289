// CUDA's execution model on one CPU thread: every CUDA thread is a fiber that runs until a barrier, a warp collective
// or its end.  What the model leaves open (the order of threads and blocks, when a cp.async arrives, when a stream's
// work runs) is chosen against the program; what the model forbids ends the launch with a message that names the line.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "fiber.hpp"

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct uint3 {
  unsigned x, y, z;
};

namespace cbk::emulation {

enum class Order { forward, reverse, random };

// The environment: CBK_EMULATION_ORDER=forward|reverse|<seed>, CBK_EMULATION_LAZY=1 for streams that run at a
// synchronisation only, CBK_EMULATION_RESIDENT=<blocks> for blocks that run interleaved.
struct Options {
  Order order = Order::forward;
  uint64_t seed = 1;
  bool lazy_streams = false;
  unsigned resident = 1;
  unsigned cooperative_limit = 264;
  size_t stack_bytes = 256 << 10;
  int capability = 8;  // major: what the card can, and with 7 its shared memory
  int devices = 1;
  bool graph_memory = false;  // a capture may take memory from a pool, as the caller's may; a run's must not
  Options();
};

struct Site {  // where a thread waits
  const char* operation;
  const char* file;
  int line;
  bool operator==(const Site&) const;
};

struct Block;

struct Copy {  // of cp.async
  void* to;
  const void* from;
  unsigned bytes, valid;
};

struct Product {  // of wgmma
  float* sums;
  uint64_t a, b;  // descriptors
  bool fresh, bf16;
};

struct Thread {
  explicit Thread(size_t stack_bytes);
  Fiber fiber;
  Block* block = nullptr;
  uint3 index{};
  unsigned rank = 0;
  enum class State { ready, at_barrier, in_warp, at_grid, done } state = State::done;
  Site site{};
  unsigned mask = 0;        // of the warp collective
  void* payload = nullptr;  // what this lane brings to it
  void* wait_for = nullptr;
  char announced = 0;
  std::vector<Copy> open;                // cp.async not yet committed
  std::deque<std::vector<Copy>> groups;  // committed, not yet waited for
  std::vector<Product> products;         // under way
  bool waited = false;                   // for the kernel before, in a chained launch
  unsigned lane() const { return rank % 32; }
};

struct Block {
  uint3 index{};
  std::vector<Thread*> threads;
  unsigned live = 0, arrived = 0, generation = 0;
  Site site{};
  int votes = 0, result = 0;
  struct Variable {
    const void* key;
    std::unique_ptr<char, void (*)(void*)> memory;
  };
  std::vector<Variable> shared;
  size_t dynamic_bytes = 0;
  char released[2] = {};
  std::vector<char> warp_released = std::vector<char>(256);
  unsigned warp_generation = 0;
};

class Machine {
 public:
  Options options;
  std::mt19937_64 random{options.seed};
  std::string message;  // of the last failure

  void set_order(Order order, uint64_t seed);
  Thread* current() { return current_; }
  [[noreturn]] void fail(const std::string& what);

  // False where the launch failed.
  bool run(dim3 grid, dim3 block, size_t dynamic_bytes, bool cooperative, std::function<void()> body);

  int barrier(Site site, bool vote);
  void grid_barrier(Site site);
  // The last lane to arrive evaluates `together` for all lanes of the mask.  Without one it orders their memory: of the
  // warp's collectives __syncwarp does, shuffles, votes and products do not.
  void collective(unsigned mask, Site site, void* payload, void (*together)(void** lanes, unsigned mask));
  void yield();
  bool coin();  // now and then true in random order
  void* shared(const void* key, size_t bytes);
  void* dynamic_shared();

 private:
  friend struct Thread;
  static void thread_main();
  bool run_together(const std::vector<uint3>& blocks, dim3 shape, size_t dynamic_bytes);
  void schedule();
  Thread* take_thread();
  void drop_threads();
  void resume(Thread* thread);
  void wake(Thread* thread, void* wait_for);
  void park(Thread* thread);
  void finish(Thread* thread);
  void complete_barrier(Block& block);
  std::string deadlock() const;

  std::vector<std::unique_ptr<Thread>> pool_;
  std::vector<Thread*> idle_, ready_;
  std::vector<Block*> together_;
  Thread* current_ = nullptr;
  std::function<void()> body_;
  bool failed_ = false, cooperative_ = false;
  unsigned grid_arrived_ = 0, grid_live_ = 0, grid_generation_ = 0;
  Site grid_site_{};
  char grid_released_[2] = {}, started_ = 0, ended_ = 0;
};

Machine& machine();

}  // namespace cbk::emulation

inline uint3 threadIdx{}, blockIdx{};
inline dim3 blockDim, gridDim;
constexpr int warpSize = 32;
