// Ends a call before its work is done, where its caller wants that: Python's users press Ctrl-C.
//
// A kernel calls `poll` between its tasks, which take 5 us or more, and inside of those that may take longer than
// some hundredths of a second.  `poll` throws `Interrupted`; what the kernel was to write is then undefined.  Only the
// thread that made the call can ask whether it is to end.  It does so about every 50 ms, and its team's other threads
// learn it from there.  A thread that waits for the others does not ask: tasks end soon, and are handed out one by one.
//
// Each instruction set's kernels include this.  What is inline here is always inlined: no copy serves another set.
#pragma once

#include <cstdint>

namespace cbk {

struct Interrupted {};

// A call under way on this thread, until this object's end.  `wanted` says whether it is to end; nullptr: it is not.
class Interrupt {
 public:
  explicit Interrupt(bool (*wanted)());
  ~Interrupt();
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

  static Interrupt* current();  // of the call that this thread works for, or nullptr: nobody interrupts it

  // This thread works for a call, until this object's end.
  class Work {
   public:
    explicit Work(Interrupt* call);
    ~Work();
    Work(const Work&) = delete;
    Work& operator=(const Work&) = delete;

   private:
    Interrupt* const before_;
  };

 private:
  friend void poll();
  void look();

  bool (*const wanted_)();
  const void* const home_;  // tells its thread from others
  Work work_;
  bool stopped_ = false;  // atomic by the compiler's builtins: <atomic> takes each kernel's file a third of a second
  int64_t next_;          // when to ask
};

// Throws Interrupted where the call that this thread works for is to end.
void poll();

// Polls once in about a millisecond of work that comes in small pieces.
class Paced {
 public:
  // So much was done: multiplications and additions of a vector's lane, or other numbers that take about as long.
  __attribute__((always_inline)) inline void operator()(int64_t work) {
    if ((done_ += work) < often) return;
    done_ = 0;
    poll();
  }

 private:
  static constexpr int64_t often = int64_t(1) << 22;
  int64_t done_ = 0;
};

}  // namespace cbk
