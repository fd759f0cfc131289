// What CUDA C++ gives a kernel: keywords, warp collectives, atomics, a few intrinsics.  Plain `__shared__` is missing
// on purpose: kernels write CBK_SHARED (cuda/gpu.hpp).
#pragma once

#include <bit>
#include <cmath>
#include <cstring>

#include "machine.hpp"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define CBK_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

inline void __syncthreads(CBK_HERE) { cbk::emulation::machine().barrier({"__syncthreads", file, line}, false); }
inline int __syncthreads_or(int vote, CBK_HERE) {
  return cbk::emulation::machine().barrier({"__syncthreads_or", file, line}, vote != 0) != 0;
}
inline int __syncthreads_count(int vote, CBK_HERE) {
  return cbk::emulation::machine().barrier({"__syncthreads_count", file, line}, vote != 0);
}
inline void __syncwarp(unsigned mask = ~0u, CBK_HERE) {
  cbk::emulation::machine().collective(mask, {"__syncwarp", file, line}, nullptr, nullptr);
}
inline void __threadfence() {}
inline void __nanosleep(unsigned) { cbk::emulation::machine().yield(); }

namespace cbk::emulation {

struct Shuffle {
  uint64_t value, result;
  int source;
};

inline void shuffle_together(void** lanes, unsigned mask) {
  for (int lane = 0; lane < 32; ++lane) {
    if (!(mask >> lane & 1)) continue;
    Shuffle& own = *static_cast<Shuffle*>(lanes[lane]);
    const int source = own.source & 31;
    if (!(mask >> source & 1))
      machine().fail("shuffle reads lane " + std::to_string(source) + ", which the mask does not name");
    own.result = static_cast<Shuffle*>(lanes[source])->value;
  }
}

template <class T>
T shuffle(unsigned mask, T value, int source, Site site) {
  static_assert(sizeof(T) <= 8);
  Shuffle own{0, 0, source};
  std::memcpy(&own.value, &value, sizeof value);
  machine().collective(mask, site, &own, shuffle_together);
  std::memcpy(&value, &own.result, sizeof value);
  return value;
}

struct Vote {
  bool value;
  unsigned result;
};

inline void vote_together(void** lanes, unsigned mask) {
  unsigned votes = 0;
  for (int lane = 0; lane < 32; ++lane)
    if (mask >> lane & 1) votes |= unsigned(static_cast<Vote*>(lanes[lane])->value) << lane;
  for (int lane = 0; lane < 32; ++lane)
    if (mask >> lane & 1) static_cast<Vote*>(lanes[lane])->result = votes;
}

template <class T, class F>
T modify(T* p, F&& f) {
  if (machine().coin()) machine().yield();
  T old, changed;
  __atomic_load(p, &old, __ATOMIC_RELAXED);
  do changed = f(old);
  while (!__atomic_compare_exchange(p, &old, &changed, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED));
  return old;
}

}  // namespace cbk::emulation

template <class T>
T __shfl_sync(unsigned mask, T value, int source, CBK_HERE) {
  return cbk::emulation::shuffle(mask, value, source, {"__shfl_sync", file, line});
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int flip, CBK_HERE) {
  return cbk::emulation::shuffle(mask, value,
                                 int(threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % 32 ^ flip,
                                 {"__shfl_xor_sync", file, line});
}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline unsigned __ballot_sync(unsigned mask, int vote, CBK_HERE) {
  cbk::emulation::Vote own{vote != 0, 0};
  cbk::emulation::machine().collective(mask, {"__ballot_sync", file, line}, &own, cbk::emulation::vote_together);
  return own.result;
}
template <class T>
T atomicAdd(T* p, std::type_identity_t<T> value) {
  return cbk::emulation::modify(p, [=](T old) { return T(old + value); });
}
template <class T>
T atomicMin(T* p, std::type_identity_t<T> value) {
  return cbk::emulation::modify(p, [=](T old) { return value < old ? value : old; });
}
