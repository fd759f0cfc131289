// A thread of control with its own stack, resumed and suspended by hand; the sanitizers are told of every switch.
#pragma once

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#define CBK_ASAN 1
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#define CBK_TSAN 1
#include <sanitizer/tsan_interface.h>
extern "C" {
void AnnotateIgnoreReadsBegin(const char*, int);
void AnnotateIgnoreReadsEnd(const char*, int);
void AnnotateIgnoreWritesBegin(const char*, int);
void AnnotateIgnoreWritesEnd(const char*, int);
}
#endif

namespace cbk::emulation {

// ThreadSanitizer judges the kernels, not the emulation: its own accesses stand inside a Quiet.
class Quiet {
 public:
  Quiet() {
#if defined(CBK_TSAN)
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__), AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
#endif
  }
  ~Quiet() {
#if defined(CBK_TSAN)
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__), AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
#endif
  }
  Quiet(const Quiet&) = delete;
  Quiet& operator=(const Quiet&) = delete;
};

// The order that a barrier or a launch creates, as ThreadSanitizer understands it.
inline void release([[maybe_unused]] void* at) {
#if defined(CBK_TSAN)
  __tsan_release(at);
#endif
}
inline void acquire([[maybe_unused]] void* at) {
#if defined(CBK_TSAN)
  __tsan_acquire(at);
#endif
}

class Fiber {
 public:
  // `entry` must never return: it suspends for good instead.
  Fiber(void (*entry)(), size_t stack_bytes);
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  void resume();   // runs it until it suspends
  void suspend();  // back to who resumed it

 private:
  static void start();

  void (*entry_)();
  char* stack_;  // above a page that may not be touched: an overflow is a fault
  size_t bytes_;
  void* own_ = nullptr;
  void* other_ = nullptr;
#if defined(CBK_ASAN)
  void *own_fake_ = nullptr, *other_fake_ = nullptr;
  const void* other_bottom_ = nullptr;
  size_t other_bytes_ = 0;
#endif
#if defined(CBK_TSAN)
  void *own_tsan_, *other_tsan_ = nullptr;
#endif
};

}  // namespace cbk::emulation
