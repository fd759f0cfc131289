// Every instruction that is written as PTX, in three branches: real (sm_80 and later), older cards, emulated.
#pragma once

#include "gpu.hpp"

namespace cbk::device {

#if !defined(__CUDACC__)

// Done as late as the wait allows.
inline void copy_async(void* shared, const void* global, bool valid) {
  emulation::Quiet quiet;
  emulation::Machine& m = emulation::machine();
  if ((reinterpret_cast<uintptr_t>(shared) | reinterpret_cast<uintptr_t>(global)) % 16)
    m.fail("cp.async: address not a multiple of 16 bytes");
  m.current()->open.push_back({shared, global, 16, valid ? 16u : 0u});
}
inline void commit_copies() {
  emulation::Quiet quiet;
  emulation::Thread* self = emulation::machine().current();
  self->groups.push_back(std::exchange(self->open, {}));
}
template <int pending>
inline void wait_copies() {
  emulation::Thread* self = emulation::machine().current();
  for (;;) {
    std::vector<emulation::Copy> group;
    {
      emulation::Quiet quiet;
      if (self->groups.size() <= size_t(pending)) return;
      group = std::move(self->groups.front());
      self->groups.pop_front();
    }
    for (const emulation::Copy& copy : group) {
      if (copy.valid) std::memcpy(copy.to, copy.from, copy.valid);
      std::memset(static_cast<char*>(copy.to) + copy.valid, 0, copy.bytes - copy.valid);
    }
    emulation::Quiet quiet;
    group = {};
  }
}

#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800

// 16 bytes into shared memory, zeros where not valid; the address must be readable all the same.
__device__ __forceinline__ void copy_async(void* shared, const void* global, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(unsigned(__cvta_generic_to_shared(shared))),
               "l"(global), "r"(valid ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int pending>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

#else

__device__ __forceinline__ void copy_async(void* shared, const void* global, bool valid) {
  *static_cast<uint4*>(shared) = valid ? *static_cast<const uint4*>(global) : make_uint4(0, 0, 0, 0);
}
__device__ __forceinline__ void commit_copies() {}
template <int pending>
__device__ __forceinline__ void wait_copies() {}

#endif

}  // namespace cbk::device
