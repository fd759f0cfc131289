#include "interrupt.hpp"

#include <chrono>
#include <limits>
#include <utility>

namespace cbk {
namespace {

thread_local Interrupt* under_way = nullptr;

int64_t now() { return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1); }

constexpr int64_t never = std::numeric_limits<int64_t>::max();
constexpr int64_t pause = 50'000'000;  // ns: asking may take a while, where other threads run Python

}  // namespace

Interrupt::Work::Work(Interrupt* call) : before_(std::exchange(under_way, call)) {}
Interrupt::Work::~Work() { under_way = before_; }

Interrupt::Interrupt(bool (*wanted)())
    : wanted_(wanted), home_(&under_way), work_(this), next_(wanted ? now() + pause : never) {}
Interrupt::~Interrupt() = default;

Interrupt* Interrupt::current() { return under_way; }

void Interrupt::look() {
  if (next_ == never || now() < next_) return;
  const bool end = wanted_();
  next_ = end ? never : now() + pause;
  if (end) __atomic_store_n(&stopped_, true, __ATOMIC_RELAXED);
}

void poll() {
  Interrupt* const call = under_way;
  if (!call) return;
  if (call->home_ == &under_way) call->look();
  if (__atomic_load_n(&call->stopped_, __ATOMIC_RELAXED)) throw Interrupted{};
}

}  // namespace cbk
