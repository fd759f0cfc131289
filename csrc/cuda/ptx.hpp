// Instructions that are written as PTX, in three branches: real (sm_80 and later), older cards, emulated.  Those of
// plain numbers stand beside what they replace (common/one_lane.hpp, philox.hpp).
#pragma once

#include "gpu.hpp"
#if !defined(__CUDACC__)
#include "emulation/mma.hpp"
#endif

namespace cbk::device {

#if !defined(__CUDACC__)

// The emulation copies as late as the wait allows.
template <int bytes>
inline void copy_async(void* shared, const void* global, bool valid) {
  emulation::Quiet quiet;
  emulation::Machine& m = emulation::machine();
  if ((reinterpret_cast<uintptr_t>(shared) | reinterpret_cast<uintptr_t>(global)) % bytes)
    m.fail("cp.async: address not a multiple of " + std::to_string(bytes) + " bytes");
  m.current()->open.push_back({shared, global, bytes, valid ? unsigned(bytes) : 0u});
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

inline float round_tf32(float v) {  // to nearest even
  const unsigned bits = std::bit_cast<unsigned>(v);
  return std::isfinite(v) ? std::bit_cast<float>((bits + 0xfffu + (bits >> 13 & 1)) & ~0x1fffu) : v;
}
inline unsigned pack_bf16(float low, float high) {  // to nearest even
  const auto round = [](float v) {
    const unsigned bits = std::bit_cast<unsigned>(v);
    return std::isnan(v) ? 0x7fffu : (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
  };
  return round(high) << 16 | round(low);
}
inline void multiply_tf32(float (&sums)[4], const unsigned (&a)[4], const unsigned (&b)[2], CBK_HERE) {
  emulation::multiply<emulation::Tf32>(sums, a, b, {"mma", file, line});
}
inline void multiply_bf16(float (&sums)[4], const unsigned (&a)[4], const unsigned (&b)[2], CBK_HERE) {
  emulation::multiply<emulation::Bf16>(sums, a, b, {"mma", file, line});
}
inline void load_matrices(unsigned (&words)[4], const void* row, CBK_HERE) {
  emulation::load_matrices(words, row, {"ldmatrix", file, line});
}

#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800

// 4, 8 or 16 bytes into shared memory, zeros where not valid; the address must be readable all the same.
template <int bytes>
__device__ __forceinline__ void copy_async(void* shared, const void* global, bool valid) {
  const unsigned to = unsigned(__cvta_generic_to_shared(shared));
  if constexpr (bytes == 16)  // past L1
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(valid ? 16 : 0)
                 : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(global), "n"(bytes),
                 "r"(valid ? bytes : 0)
                 : "memory");
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int pending>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// To nearest, ties to even or, before sm_90, which has one instruction for this, away from zero.
__device__ __forceinline__ float round_tf32(float v) {
  unsigned bits;
#if __CUDA_ARCH__ >= 900
  asm("cvt.rn.tf32.f32 %0, %1;" : "=r"(bits) : "f"(v));
#else
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(v));
#endif
  return __uint_as_float(bits);
}
// To nearest even; `low` in the lower half.
__device__ __forceinline__ unsigned pack_bf16(float low, float high) {
  unsigned pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
// A warp's sums [16][8] += a [16][depth] b [depth][8], of depth 8 (tf32) or 16 (bf16).  With g = lane / 4, t = lane % 4
// a lane holds sums (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1); tf32: a (g, t), (g + 8, t), (g, t + 4), (g + 8,
// t + 4) and b (t, g), (t + 4, g); bf16: the same of pairs, numbers 2t and 2t + 1 in place of t [PTX ISA, mma].
__device__ __forceinline__ void multiply_tf32(float (&sums)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ void multiply_bf16(float (&sums)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// Four matrices of 8 rows of 16 bytes in shared memory, their rows' addresses from lanes 0 ... 31 in turn: a lane gets
// word lane % 4 of row lane / 4 of each.
__device__ __forceinline__ void load_matrices(unsigned (&words)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(unsigned(__cvta_generic_to_shared(row))));
}

#else

template <int bytes>
__device__ __forceinline__ void copy_async(void* shared, const void* global, bool valid) {
  for (int i = 0; i < bytes / 4; ++i)
    static_cast<unsigned*>(shared)[i] = valid ? static_cast<const unsigned*>(global)[i] : 0;
}
__device__ __forceinline__ void commit_copies() {}
template <int pending>
__device__ __forceinline__ void wait_copies() {}
// Kernels with products of fragments are not launched on these cards (device.hpp: has_tensor_cores).
__device__ __forceinline__ float round_tf32(float v) { return v; }
__device__ __forceinline__ unsigned pack_bf16(float, float) { return 0; }
__device__ __forceinline__ void multiply_tf32(float (&)[4], const unsigned (&)[4], const unsigned (&)[2]) { __trap(); }
__device__ __forceinline__ void multiply_bf16(float (&)[4], const unsigned (&)[4], const unsigned (&)[2]) { __trap(); }
__device__ __forceinline__ void load_matrices(unsigned (&)[4], const void*) { __trap(); }

#endif

// For kernels of chained launches (chain.hpp).  await_previous: the kernel before has ended and its memory is seen.
// allow_next, after that: the kernel behind may start, up to its own await_previous.
#if !defined(__CUDACC__)
inline void await_previous() { emulation::machine().current()->waited = true; }
inline void allow_next() {
  if (!emulation::machine().current()->waited) emulation::machine().fail("allow_next before await_previous");
}
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
__device__ __forceinline__ void await_previous() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
__device__ __forceinline__ void allow_next() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }
#else
__device__ __forceinline__ void await_previous() {}
__device__ __forceinline__ void allow_next() {}
#endif

// Numbers side by side in global memory by one access: assignments of vectors the compiler takes apart.
#if !defined(__CUDACC__)
template <class T, class... V>
inline void store_vector(T* p, V... v) {
  if (reinterpret_cast<uintptr_t>(p) % (sizeof(T) * sizeof...(v)))
    emulation::machine().fail("st.v: address not aligned");
  ((*p++ = v), ...);
}
#else
__device__ __forceinline__ void store_vector(float* p, float a, float b, float c, float d) {
  asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(p)), "f"(a), "f"(b), "f"(c),
               "f"(d)
               : "memory");
}
__device__ __forceinline__ void store_vector(float* p, float a, float b) {
  asm volatile("st.global.v2.f32 [%0], {%1, %2};" ::"l"(__cvta_generic_to_global(p)), "f"(a), "f"(b) : "memory");
}
__device__ __forceinline__ void store_vector(double* p, double a, double b) {
  asm volatile("st.global.v2.f64 [%0], {%1, %2};" ::"l"(__cvta_generic_to_global(p)), "d"(a), "d"(b) : "memory");
}
__device__ __forceinline__ void store_vector(double* p, double a, double b, double c, double d) {  // 16 bytes at most
  store_vector(p, a, b), store_vector(p + 2, c, d);
}
#endif

}  // namespace cbk::device
