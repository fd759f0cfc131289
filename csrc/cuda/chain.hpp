// Kernels that start before the one before them on the stream has ended: programmatic dependent launch, sm_90 and
// later. A capture makes it an edge of its graph.
//
// Such a kernel calls await_previous, then allow_next (ptx.hpp).  Before that it reads only what no kernel of the graph
// writes, and writes nothing.  Every kernel waits, and none lets the next one start before it has.  So at most two are
// under way, and what a kernel waits for has itself waited for all before it.
#pragma once

#include "gpu.hpp"

namespace cbk::device {

// While this lives, launch_chained of the calling thread chains kernels, if `wanted`.  Each must follow another kernel.
class Chain {
 public:
  explicit Chain(bool wanted) : before_(std::exchange(on(), wanted)) {}
  ~Chain() { on() = before_; }
  Chain(const Chain&) = delete;
  Chain& operator=(const Chain&) = delete;

  static bool& on() {
    static thread_local bool chained = false;
    return chained;
  }
  // On the current device, by this build's runtime: earlier ones do not capture it.
  static bool possible() {
#if defined(__CUDACC__) && CUDART_VERSION < 12030
    return false;
#else
    int device = 0, major = 0;
    check(cudaGetDevice(&device), "device");
    check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "device");
    return major >= 9;
#endif
  }

 private:
  bool before_;
};

// As `launch`.  A kernel that needs more than 48 KB of shared memory is not chained.
template <class... P, class... A>
void launch_chained(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
                    A&&... arguments) {
  if (!Chain::on() || shared_bytes > (48 << 10))
    return launch(kernel, grid, block, shared_bytes, stream, static_cast<A&&>(arguments)...);
#if defined(__CUDACC__)
  cudaLaunchConfig_t config{};
  config.gridDim = grid, config.blockDim = block, config.dynamicSmemBytes = shared_bytes, config.stream = stream;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &attribute, config.numAttrs = 1;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<P>(arguments)...), "launch");
#else
  const std::tuple<std::decay_t<P>...> copies(static_cast<P>(arguments)...);
  const auto body = [=] {
    emulation::Machine& m = emulation::machine();
    m.current()->waited = false;
    std::apply(kernel, copies);
    if (!m.current()->waited) m.fail("a chained kernel ends without await_previous");
  };
  check(emulation::launch(reinterpret_cast<const void*>(kernel), grid, block, shared_bytes, stream, false, body),
        "launch");
  ++emulation::counts.chained;
#endif
}

}  // namespace cbk::device
