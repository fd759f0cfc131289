// What the parts of the emulated runtime share: who may call, which memory there is.
#pragma once

#include <chrono>
#include <map>
#include <mutex>
#include <set>
#include <thread>

#include "runtime.hpp"

namespace cbk::emulation {

struct Memory {
  size_t bytes;
  int device;
};

struct State {
  std::recursive_mutex mutex;  // one call at a time: the machine is one
  std::map<const char*, Memory> memory;
  std::set<const void*> of_graphs;  // of that, what a capture took
  std::map<std::pair<const void*, int>, size_t> dynamic_allowed;
  std::vector<Stream*> streams;
  cudaError_t failure = cudaSuccess;  // of work that ran later than it was asked for
  std::string failing;                // calls that tests let fail, "" for all, and their error
  cudaError_t injected = cudaSuccess;
  Ledger ledger;
  size_t bytes_to_device = 0, bytes_to_host = 0;  // that were copied
};
State& state();

// A call of the runtime, which fails where tests want it, and first makes a context on the device where it needs one.
class Call {
 public:
  explicit Call(const char* name, bool context = true);

 private:
  const std::lock_guard<std::recursive_mutex> lock_;

 public:
  const cudaError_t error;
};
#define CBK_CALL(...) \
  const Call call(__func__ __VA_OPT__(, ) __VA_ARGS__); \
  if (call.error) return call.error

// Before a call that the driver too takes its time for: other threads come in between.
inline void take_time() { std::this_thread::sleep_for(std::chrono::milliseconds(1)); }

int current_device();                                     // of the calling thread
void open_device_memory(bool open);                       // whether the host may read and write it
void drain(Stream* stream, const bool* until = nullptr);  // until that is true, or all of it
void drain_all();
void keep_thresholds();  // of the pools, after the host has waited
cudaError_t not_while_capturing(const char* what);

// Memory of the system, filled with NaN; counted.
cudaError_t take_system(void** p, size_t bytes);
void give_system(void* p);
void show(void* p, size_t bytes);  // to the device, anew: NaN
void hide(const void* p, size_t bytes);

}  // namespace cbk::emulation
