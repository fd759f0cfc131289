#include "parallel.hpp"

#include <omp.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
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
    case 'B': case 'b': return size;
    case 'M': case 'm': return size << 20;
    case 'G': case 'g': return size << 30;
    default: return size << 10;
  }
}

// Whether the system has so many more threads at the same time: they are started, and ended at once.
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

// OpenMP keeps the threads of this one's last team, and ends the process where it cannot start what a larger one lacks.
int startable(int threads) {
  thread_local int team = 1;
  while (threads > team && !starts(threads - team)) threads = std::max(threads / 2, 1);
  if (threads > 1) team = threads;
  return threads;
}

}  // namespace

int thread_count(int num_threads, int64_t tasks) {
  static const int watched =
      pthread_atfork(nullptr, nullptr, [] { forked_after_parallel = parallel_before.load(); });
  if (watched != 0 || forked_after_parallel) return 1;
  const int64_t most = std::max(64, omp_get_num_procs());
  const int64_t wanted = std::min<int64_t>(num_threads > 0 ? num_threads : omp_get_max_threads(), most);
  const int threads = startable(int(std::clamp<int64_t>(tasks, 1, wanted)));
  if (threads > 1) parallel_before = true;
  return threads;
}

}  // namespace cbk
