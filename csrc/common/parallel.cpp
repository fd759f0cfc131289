#include "parallel.hpp"

#include <omp.h>
#include <pthread.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <utility>
#include <vector>

namespace cbk {
namespace {

std::atomic<bool> parallel_before{false}, forked_after_parallel{false};

// The size in OMP_STACKSIZE, in bytes; 0: the system's.
size_t stack_size() {
  const char* text = std::getenv("OMP_STACKSIZE");
  if (!text) return 0;
  char* unit;
  const size_t size = std::strtoull(text, &unit, 10);
  while (*unit == ' ') ++unit;
  switch (*unit) {
    case 'B':
    case 'b': return size;
    case 'M':
    case 'm': return size << 20;
    case 'G':
    case 'g': return size << 30;
    default: return size << 10;
  }
}

// Whether the system can run so many more threads at once: they are started, and ended again.
bool starts(int count) {
  std::vector<pthread_t> threads(static_cast<size_t>(count));
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  if (const size_t size = stack_size()) pthread_attr_setstacksize(&attributes, size);
  pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
  const auto wait = [](void* at) -> void* {
    pthread_mutex_lock(static_cast<pthread_mutex_t*>(at));
    pthread_mutex_unlock(static_cast<pthread_mutex_t*>(at));
    return nullptr;
  };
  pthread_mutex_lock(&gate);
  size_t started = 0;
  while (started < threads.size() && pthread_create(&threads[started], &attributes, wait, &gate) == 0) ++started;
  pthread_mutex_unlock(&gate);
  for (size_t i = 0; i < started; ++i) pthread_join(threads[i], nullptr);
  pthread_attr_destroy(&attributes);
  return started == threads.size();
}

// OpenMP keeps this thread's last team, and ends the process where it cannot start the threads that a larger one lacks.
// After this check, and before that start, a kernel allocates memory: so a quarter more threads must fit, one at least.
int startable(int threads) {
  thread_local int team = 1;
  const auto fit = [](int more) { return starts(more + (more + 3) / 4); };
  while (threads > team && !fit(threads - team)) threads = std::max(threads / 2, 1);
  if (threads > 1) team = threads;
  return threads;
}

// Whether other processes want the cores too.  The system then takes them from running threads hundreds of times a
// second of the processor's time, and a team waits at each barrier for one of its threads that does not run.
class Crowd {
 public:
  bool here() {
    const int64_t now = milliseconds(std::chrono::steady_clock::now().time_since_epoch());
    if (now >= next_look_.load(std::memory_order_relaxed)) {
      const std::unique_lock lock(looking_, std::try_to_lock);
      if (lock) look(now);
    }
    return here_.load(std::memory_order_relaxed);
  }

 private:
  static constexpr int64_t interval = 20, shortest_stay = 100, longest_stay = 1600;  // milliseconds
  // Milliseconds that threads run for each core that they lose, on a quiet machine, and how far they may fall behind:
  // now and then the system's own work takes a few cores within one interval.
  static constexpr int64_t quiet = 20, most_behind = 80;

  static int64_t milliseconds(std::chrono::nanoseconds time) {
    return std::chrono::duration_cast<std::chrono::milliseconds>(time).count();
  }
  static int64_t milliseconds(const timeval& time) { return int64_t(time.tv_sec) * 1000 + time.tv_usec / 1000; }

  void look(int64_t now) {
    next_look_.store(now + interval, std::memory_order_relaxed);
    rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) != 0) return;
    const int64_t ran = milliseconds(usage.ru_utime) + milliseconds(usage.ru_stime) - ran_;
    const int64_t lost = int64_t(usage.ru_nivcsw) - lost_;
    ran_ += ran, lost_ += lost;
    behind_ = std::max(behind_ + lost * quiet - ran, int64_t(0));
    if (behind_ > most_behind) {
      behind_ = 0;
      // threads are tried again after a while, which is twice as long each time that it was too short
      if (!here_.load(std::memory_order_relaxed)) stay_ = std::min(2 * stay_, longest_stay);
      until_ = now + stay_;
    } else if (!here_.load(std::memory_order_relaxed)) {
      stay_ = std::max(stay_ / 2, shortest_stay / 2);
    }
    here_.store(now < until_, std::memory_order_relaxed);
  }

  std::mutex looking_;
  std::atomic<bool> here_{false};
  std::atomic<int64_t> next_look_{0};
  int64_t ran_ = 0, lost_ = 0, behind_ = 0, until_ = 0, stay_ = shortest_stay / 2;
};

class NoMemory : public std::bad_alloc {
 public:
  NoMemory(int64_t count, size_t bytes) {
    std::snprintf(text_, sizeof text_, "no memory for %lld elements of %zu bytes in a kernel",
                  static_cast<long long>(count), bytes);
  }
  const char* what() const noexcept override { return text_; }

 private:
  char text_[96];
};

constexpr std::align_val_t line{64};

// What precedes a Buffer's memory.
struct alignas(64) Header {
  size_t size;  // of the memory
};

void free_block(Header* block) { ::operator delete(block, line); }

// Large blocks that this thread's last Buffers had, for its next ones.  The C library may give such memory back to the
// system at each call, and pages that are new at each call take up to a quarter of its time.  Where the environment has
// CBOKERNELS_SPARE_MEMORY=0 nothing is kept.
class Spare {
 public:
  ~Spare() {
    clear();
    closed = true;
  }
  void clear() {
    for (Header*& block : blocks_) free_block(std::exchange(block, nullptr));
  }
  Header* take(size_t size) {
    Header** best = nullptr;
    for (Header*& block : blocks_)
      if (block && block->size >= size && block->size / 2 <= size && (!best || block->size < (*best)->size))
        best = &block;
    return best ? std::exchange(*best, nullptr) : nullptr;
  }
  void put(Header* block) { free_block(std::exchange(blocks_[next_++ % blocks], block)); }

  static bool serves(size_t size) {
    static const char* const told = std::getenv("CBOKERNELS_SPARE_MEMORY");
    static const bool wanted = !told || std::strcmp(told, "0") != 0;
    return wanted && size >= least && size <= most && !closed;
  }

 private:
  static constexpr size_t least = 64 << 10, most = 8 << 20;
  static constexpr int blocks = 4;
  static thread_local bool closed;  // after the thread's end has begun
  Header* blocks_[blocks] = {};
  unsigned next_ = 0;
};
thread_local bool Spare::closed = false;
thread_local Spare spare;

}  // namespace

void* allocate(int64_t count, size_t bytes) {
  size_t size, all;
  if (count < 0 || __builtin_mul_overflow(size_t(count), bytes, &size) ||
      __builtin_add_overflow(size, sizeof(Header), &all))
    throw NoMemory(count, bytes);
  Header* block = Spare::serves(size) ? spare.take(size) : nullptr;
  if (!block) {
    void* memory = ::operator new(all, line, std::nothrow);
    if (!memory) {
      spare.clear();
      memory = ::operator new(all, line, std::nothrow);
    }
    if (!memory) throw NoMemory(count, bytes);
    block = new (memory) Header{size};
  }
  return block + 1;
}

void release(void* memory) {
  Header* const block = static_cast<Header*>(memory) - 1;
  Spare::serves(block->size) ? spare.put(block) : free_block(block);
}

int thread_count(int num_threads, int64_t tasks, double work) {
  static const int watched = pthread_atfork(nullptr, nullptr, [] { forked_after_parallel = parallel_before.load(); });
  if (watched != 0 || forked_after_parallel) return 1;
  int64_t wanted = std::min(num_threads, std::max(64, omp_get_num_procs()));
  if (num_threads == 0) {
    constexpr double piece = 15000;  // nanoseconds: a few times what a parallel region costs
    static Crowd crowd;
    wanted = int64_t(std::clamp(work / piece, 1.0, double(omp_get_max_threads())));
    if (wanted > 1 && crowd.here()) wanted = 1;
  }
  const int threads = startable(int(std::clamp<int64_t>(tasks, 1, wanted)));
  if (threads > 1) parallel_before = true;
  return threads;
}

}  // namespace cbk
