// Threads and their scratch memory.
#pragma once

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <new>
#include <utility>

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

// f(i) for i in [0, count), `together` of them between two polls where they are short.
template <class F>
struct Tasks {
  int64_t count;
  F f;
  int64_t together = 1;
};
template <class F>
Tasks(int64_t, F) -> Tasks<F>;  // Clang 14 does not find it

// All tasks of some kinds, on so many threads.  Each thread has a share of every kind, tasks that follow one another,
// and helps the others when it has done it.  What a thread writes in one call it thus finds in its own cache in the
// next one, where tasks of the same number are about the same numbers.
template <class... F>
void parallel_for_all(int threads, const Tasks<F>&... kinds) {
  constexpr int most_shares = 64;
  struct alignas(64) Share {  // a cache line each
    std::atomic<int64_t> next;
    int64_t end;
  };
  Share shares[sizeof...(F)][most_shares];
  const int count = std::clamp(threads, 1, most_shares);
  const auto blocks_of = [=](const auto& kind) {
    const int64_t together = std::clamp(divide_up(kind.count, threads), int64_t(1), kind.together);
    return std::pair(divide_up(kind.count, together), together);
  };
  int made = 0;
  const auto divide = [&](const auto& kind) {
    const int64_t blocks = blocks_of(kind).first;
    for (int i = 0; i < count; ++i)
      shares[made][i].next = blocks * i / count, shares[made][i].end = blocks * (i + 1) / count;
    ++made;
  };
  (divide(kinds), ...);
  Failure failure;
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    const int own = omp_get_thread_num() % count;
    for (int i = 0; i < count; ++i) {
      int at = 0;
      const auto work = [&](const auto& kind) {
        Share& share = shares[at++][(own + i) % count];
        const int64_t together = blocks_of(kind).second;
        for (int64_t block; (block = share.next.fetch_add(1, std::memory_order_relaxed)) < share.end;)
          failure.guard([&] {
            const int64_t end = std::min((block + 1) * together, kind.count);
            for (int64_t task = block * together; task < end; ++task) kind.f(task);
          });
      };
      (work(kinds), ...);
    }
  }
  failure.rethrow();
}

// Tasks of one kind.
template <class F>
void parallel_for(int64_t tasks, int threads, F&& f, int64_t together = 1) {
  parallel_for_all(threads, Tasks<F&>{tasks, f, together});
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
