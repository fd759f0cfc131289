// What the bindings need of the CUDA runtime, without its headers.
#pragma once

#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "stream.hpp"

namespace cbk::device {

// Every failure of CUDA; in Python cbokernels.CboError (module.cpp).
class CudaError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

bool has_tensor_cores();           // the current device: of tf32 and bf16, sm_80 and later
bool has_warp_groups();            // that multiply together: sm_90 alone
int64_t multiprocessors();         // of the current device
int device_count();                // 0 without a driver
int device_of(uintptr_t address);  // of CUDA memory; -1 for any other
void wait_for(CudaStream stream,
              CudaStream producer);   // what `stream` does next follows what `producer` has been given
void synchronize(CudaStream stream);  // waits for what it has been given
void read_memory(const void* from, int64_t bytes, void* host, CudaStream stream);  // after the stream's work; waits

// The device's pool of workspaces (memory.hpp): the bytes that it holds, used or not.  To trim it waits for the device
// and gives back those that no call uses.
int64_t held_memory(int device);
void trim_memory(int device);

// Whether the calling process was forked from one that had used CUDA here.  CUDA does not survive that.
bool is_forked();
void before_use();  // CudaError where it was; otherwise its forks are watched from now on

// The calling thread's device, for as long as this lives.  Its context is pushed and popped: cudaSetDevice, called to
// restore the device of before, would make a context there, hundreds of megabytes on a card that nobody asked for.
class OnDevice {
 public:
  explicit OnDevice(int device);
  OnDevice(int device, std::nothrow_t) noexcept;  // for destructors: where it fails nothing changes
  ~OnDevice();
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  void enter(int device);
  bool pushed_ = false;
};

// What can be known of driver and cards (probe.cu).
struct Card {
  std::string name;
  int major, minor;
  std::string trouble;  // why a kernel did not run; empty also where none was tried
};
struct Findings {
  int error;                // of asking for the devices, 0: none
  std::string name, words;  // the driver's
  int driver, runtime;      // CUDA versions, 12040 for 12.4; driver 0: there is none
  std::vector<Card> cards;
};
// Makes no context, unless a kernel is to be launched on each card.
Findings look(bool launch);

enum class Driver { absent, idle, in_use };  // idle: nothing in this process has initialised it
Driver driver_state();
const char* architectures();  // that the kernels were compiled for, as CMake names them

}  // namespace cbk::device
