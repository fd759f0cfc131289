#include "parallel.hpp"

#include <omp.h>
#include <pthread.h>

#include <atomic>

namespace cbk {
namespace {

std::atomic<bool> parallel_before{false}, forked_after_parallel{false};

}  // namespace

int thread_count(int num_threads, int64_t tasks) {
  static const int watched =
      pthread_atfork(nullptr, nullptr, [] { forked_after_parallel = parallel_before.load(); });
  if (watched != 0 || forked_after_parallel) return 1;
  const int64_t wanted = num_threads > 0 ? num_threads : omp_get_max_threads();
  const int threads = int(wanted < tasks ? wanted : tasks > 0 ? tasks : 1);
  if (threads > 1) parallel_before = true;
  return threads;
}

}  // namespace cbk
