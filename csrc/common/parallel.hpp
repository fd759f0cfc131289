// Threads and their scratch memory.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <new>

#include "interrupt.hpp"

namespace cbk {

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

// Threads for so many tasks.  num_threads 0: at most OpenMP's own setting, each with some microseconds of the work,
// which is a rough estimate in nanoseconds on one thread, and 1 while other processes want the cores too.
// 1 in a process forked after a parallel region: the OpenMP runtime would wait there for threads that were not forked.
// Never more than the system starts: OpenMP would end the process.
int thread_count(int num_threads, int64_t tasks, double work);

// So much each, for so many.
template <class... Counts>
double nanoseconds(double each, Counts... counts) {
  return (each * ... * double(counts));
}

// An exception that leaves a parallel region ends the process.  What a region's threads do runs in `guard`, which
// polls, keeps the first exception and does nothing more after it; `rethrow` is called behind the region.  Interrupted
// calls (interrupt.hpp) end in this way too.
class Failure {
 public:
  template <class F>
  void guard(F&& f) noexcept {
    if (failed_.load(std::memory_order_relaxed)) return;
    const Interrupt::Work work(call_);
    try {
      poll();
      f();
    } catch (...) {
      if (!failed_.exchange(true)) first_ = std::current_exception();
    }
  }
  void rethrow() const {
    if (first_) std::rethrow_exception(first_);
  }

 private:
  Interrupt* const call_ = Interrupt::current();
  std::atomic<bool> failed_{false};
  std::exception_ptr first_;
};

// f(i) for tasks i in [0, tasks), on so many threads, `together` of them between two polls where they are short.
template <class F>
void parallel_for(int64_t tasks, int threads, F&& f, int64_t together = 1) {
  together = std::clamp(divide_up(tasks, threads), int64_t(1), together);
  const int64_t blocks = divide_up(tasks, together);
  Failure failure;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1)
  for (int64_t block = 0; block < blocks; ++block)
    failure.guard([&] {
      const int64_t end = std::min((block + 1) * together, tasks);
      for (int64_t i = block * together; i < end; ++i) f(i);
    });
  failure.rethrow();
}

// So many tasks of `work` each as are worth a poll: some microseconds' operations.
inline int64_t short_tasks(int64_t work) { return std::max(int64_t(1), 4096 / std::max(work, int64_t(1))); }

// Uninitialised memory for `count` elements of so many bytes, cache-line aligned.  std::bad_alloc, with a text, where
// it cannot be had or there are no such numbers.  `release` gives it back.
void* allocate(int64_t count, size_t bytes);
void release(void* memory);

template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t count) : data_(static_cast<T*>(allocate(count, sizeof(T)))) {}
  ~Buffer() { release(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  T* data() { return data_; }

 private:
  T* data_;
};

}  // namespace cbk
