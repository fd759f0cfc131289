// Products of warp groups (sm_90a): four warps multiply tiles that lie in shared memory, while they do something else.
// In three branches as ptx.hpp.
//
// A descriptor names 8 lines after another, each of 64 or 32 bytes whose pieces of 16 are exchanged by the address:
// bits 4, 5 by bits 7, 8, or bit 4 by bit 7 [PTX ISA, wgmma].  So do the tiles of product_cuda.hpp stand, from
// multiples of 512 bytes on.
#pragma once

#include "ptx.hpp"

namespace cbk::device {

// What a lane of warp w holds of 64 rows by 128 columns: of rows 16w ... 16w + 15 what mma's sums are, column tile by
// tile.
using GroupSums = float[16][4];

#if defined(__CUDACC__)
__device__ __forceinline__ unsigned shared_address(const void* shared) {
  return unsigned(__cvta_generic_to_shared(shared));
}
#else
inline unsigned shared_address(const void* shared) { return emulation::shared_address(shared); }
#endif

template <int line_bytes>
__device__ __forceinline__ uint64_t tile_descriptor(const float* lines) {
  constexpr uint64_t swizzle = line_bytes == 64 ? 2 : 3, eight_lines = 8 * line_bytes;
  return swizzle << 62 | eight_lines / 16 << 32 | uint64_t(1) << 16 | (shared_address(lines) & 0x3ffff) >> 4;
}

#if !defined(__CUDACC__)

inline void begin_products() {}
inline void show_to_products() {}  // where a call of this is missing the emulation does not notice
inline void multiply_group_tf32(GroupSums& sums, uint64_t a, uint64_t b, bool fresh) {
  emulation::machine().current()->products.push_back({&sums[0][0], a, b, fresh, false});
}
inline void multiply_group_bf16(GroupSums& sums, uint64_t a, uint64_t b, bool fresh) {
  emulation::machine().current()->products.push_back({&sums[0][0], a, b, fresh, true});
}
inline void commit_products() {}
// The emulation does all products here, as late as the wait allows.
inline void wait_products(CBK_HERE) { emulation::multiply_groups({"wgmma", file, line}); }

#elif defined(__CUDA_ARCH_FEAT_SM90_ALL)

// Before products, where their sums or what they read was touched otherwise.
__device__ __forceinline__ void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
// What this thread has written into shared memory, to products behind a barrier.
__device__ __forceinline__ void show_to_products() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
__device__ __forceinline__ void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wait_products() { asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory"); }

#define CBK_FOUR(s, j) "+f"(s[j][0]), "+f"(s[j][1]), "+f"(s[j][2]), "+f"(s[j][3])
#define CBK_SIXTY_FOUR(s) \
  CBK_FOUR(s, 0), CBK_FOUR(s, 1), CBK_FOUR(s, 2), CBK_FOUR(s, 3), CBK_FOUR(s, 4), CBK_FOUR(s, 5), CBK_FOUR(s, 6), \
      CBK_FOUR(s, 7), CBK_FOUR(s, 8), CBK_FOUR(s, 9), CBK_FOUR(s, 10), CBK_FOUR(s, 11), CBK_FOUR(s, 12), \
      CBK_FOUR(s, 13), CBK_FOUR(s, 14), CBK_FOUR(s, 15)
// The instruction's form, and what follows the factors' signs (whether bf16's are turned).
#define CBK_PRODUCT(form, turned) \
  asm volatile( \
      "{.reg .pred adds; setp.eq.s32 adds, %66, 0;\n" \
      "wgmma.mma_async.sync.aligned." form \
      " {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%" \
      "29," \
      "%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%" \
      "57," \
      "%58,%59,%60,%61,%62,%63}, %64, %65, adds, 1, 1" turned ";}" \
      : CBK_SIXTY_FOUR(sums) \
      : "l"(a), "l"(b), "r"(int(fresh)))

// sums (from 0 where `fresh`) += rows of a times lines of b, 8 inner indices (tf32, cut from floats) or 16 (bf16).
__device__ __forceinline__ void multiply_group_tf32(GroupSums& sums, uint64_t a, uint64_t b, bool fresh) {
  CBK_PRODUCT("m64n128k8.f32.tf32.tf32", "");
}
__device__ __forceinline__ void multiply_group_bf16(GroupSums& sums, uint64_t a, uint64_t b, bool fresh) {
  CBK_PRODUCT("m64n128k16.f32.bf16.bf16", ", 0, 0");
}
#undef CBK_PRODUCT
#undef CBK_SIXTY_FOUR
#undef CBK_FOUR

#else

__device__ __forceinline__ void begin_products() {}
__device__ __forceinline__ void show_to_products() {}
__device__ __forceinline__ void multiply_group_tf32(GroupSums&, uint64_t, uint64_t, bool) { __trap(); }
__device__ __forceinline__ void multiply_group_bf16(GroupSums&, uint64_t, uint64_t, bool) { __trap(); }
__device__ __forceinline__ void commit_products() {}
__device__ __forceinline__ void wait_products() {}

#endif

}  // namespace cbk::device
