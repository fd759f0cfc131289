#include "fiber.hpp"

#include <sys/mman.h>

#include <new>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace cbk::emulation {
namespace {

constexpr size_t guard = 4096;
Fiber* starting = nullptr;

#if defined(__x86_64__)
// Saves the callee-saved registers on this stack, its pointer in *from, and goes on where `to` was saved.
__attribute__((naked, noinline)) void switch_stacks(void** /*from*/, void* /*to*/) {
  asm volatile(
      "push %rbp\n push %rbx\n push %r12\n push %r13\n push %r14\n push %r15\n"
      "mov %rsp, (%rdi)\n mov %rsi, %rsp\n"
      "pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbx\n pop %rbp\n ret\n");
}
void* first_frame(char* top, void (*entry)()) {
  void** frame = reinterpret_cast<void**>(top);
  *--frame = nullptr;  // the return address that the entry would see: keeps the stack aligned as after a call
  *--frame = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--frame = nullptr;
  return frame;
}
#else
void switch_stacks(void** from, void* to) {
  ucontext_t here;
  *from = &here;
  swapcontext(&here, static_cast<ucontext_t*>(to));
}
void* first_frame(char* top, void (*entry)()) {
  auto* context = new ucontext_t;
  getcontext(context);
  context->uc_stack.ss_sp = top - 65536;
  context->uc_stack.ss_size = 65536;
  context->uc_link = nullptr;
  makecontext(context, entry, 0);
  return context;
}
#endif

}  // namespace

Fiber::Fiber(void (*entry)(), size_t stack_bytes) : entry_(entry), bytes_(stack_bytes) {
  void* memory =
      mmap(nullptr, bytes_ + guard, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  mprotect(memory, guard, PROT_NONE);
  stack_ = static_cast<char*>(memory) + guard;
  own_ = first_frame(stack_ + bytes_, &Fiber::start);
#if defined(CBK_TSAN)
  own_tsan_ = __tsan_create_fiber(0);
#endif
}

Fiber::~Fiber() {
#if defined(CBK_ASAN)
  __asan_unpoison_memory_region(stack_, bytes_);
#endif
#if defined(CBK_TSAN)
  __tsan_destroy_fiber(own_tsan_);
#endif
  munmap(stack_ - guard, bytes_ + guard);
}

void Fiber::start() {
  Fiber* self = starting;
#if defined(CBK_ASAN)
  __sanitizer_finish_switch_fiber(nullptr, &self->other_bottom_, &self->other_bytes_);
#endif
  self->entry_();
}

void Fiber::resume() {
  starting = this;
#if defined(CBK_ASAN)
  __sanitizer_start_switch_fiber(&other_fake_, stack_, bytes_);
#endif
#if defined(CBK_TSAN)
  other_tsan_ = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(own_tsan_, __tsan_switch_to_fiber_no_sync);
#endif
  switch_stacks(&other_, own_);
#if defined(CBK_ASAN)
  __sanitizer_finish_switch_fiber(other_fake_, nullptr, nullptr);
#endif
}

void Fiber::suspend() {
#if defined(CBK_ASAN)
  __sanitizer_start_switch_fiber(&own_fake_, other_bottom_, other_bytes_);
#endif
#if defined(CBK_TSAN)
  __tsan_switch_to_fiber(other_tsan_, __tsan_switch_to_fiber_no_sync);
#endif
  switch_stacks(&own_, other_);
#if defined(CBK_ASAN)
  __sanitizer_finish_switch_fiber(own_fake_, &other_bottom_, &other_bytes_);
#endif
}

}  // namespace cbk::emulation
