// Threads and their scratch memory.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <new>

namespace cbk {

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

// An exception that leaves a parallel region ends the process.  What may throw there runs in `guard`, which keeps the first
// one and does nothing more after it; `rethrow` is called behind the region.
class Failure {
 public:
  template <class F>
  void guard(F&& f) noexcept {
    if (failed_.load(std::memory_order_relaxed)) return;
    try {
      f();
    } catch (...) {
      if (!failed_.exchange(true)) first_ = std::current_exception();
    }
  }
  void rethrow() const {
    if (first_) std::rethrow_exception(first_);
  }

 private:
  std::atomic<bool> failed_{false};
  std::exception_ptr first_;
};

// Uninitialised cache-line aligned memory.
template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t count)
      : data_(static_cast<T*>(::operator new(sizeof(T) * size_t(count), std::align_val_t(64)))) {}
  ~Buffer() { ::operator delete(data_, std::align_val_t(64)); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  T* data() { return data_; }

 private:
  T* data_;
};

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

}  // namespace cbk
