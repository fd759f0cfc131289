// A stream's work, captured once and replayed: kernels run again with the arguments they had, so what changes between
// replays must stand in device memory.
#pragma once

#include "gpu.hpp"

namespace cbk::device {

class Graph {
 public:
  Graph() = default;
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  ~Graph() { reset(); }

  explicit operator bool() const { return exec_ != nullptr; }
  void reset() {
    if (exec_) cudaGraphExecDestroy(exec_);
    exec_ = nullptr;
  }
  template <class F>
  void capture(cudaStream_t stream, F&& enqueue) {
    cudaGraph_t graph = nullptr;
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed), "capture");
    try {
      enqueue();
    } catch (...) {
      if (cudaStreamEndCapture(stream, &graph) == cudaSuccess) cudaGraphDestroy(graph);
      cudaGetLastError();
      throw;
    }
    check(cudaStreamEndCapture(stream, &graph), "capture");
    const cudaError_t made = cudaGraphInstantiateWithFlags(&exec_, graph, 0);
    cudaGraphDestroy(graph);
    check(made, "graph");
  }
  void launch(cudaStream_t stream) const { check(cudaGraphLaunch(exec_, stream), "graph"); }

 private:
  cudaGraphExec_t exec_ = nullptr;
};

// A second branch of a stream's work, in a capture too: what its stream is given between `begin` and `end` runs beside
// the first's.  Its workspaces must not be the first's.
class Branch {
 public:
  Branch() {
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "stream");
    for (cudaEvent_t& event : events_) check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "event");
  }
  Branch(const Branch&) = delete;
  Branch& operator=(const Branch&) = delete;
  ~Branch() {
    cudaStreamSynchronize(stream_);
    for (cudaEvent_t event : events_) cudaEventDestroy(event);
    cudaStreamDestroy(stream_);
  }

  cudaStream_t stream() const { return stream_; }
  void begin(cudaStream_t first) { follow(first, events_[0], stream_); }
  void end(cudaStream_t first) { follow(stream_, events_[1], first); }

 private:
  static void follow(cudaStream_t before, cudaEvent_t event, cudaStream_t after) {
    check(cudaEventRecord(event, before), "branch");
    check(cudaStreamWaitEvent(after, event, 0), "branch");
  }
  cudaStream_t stream_ = nullptr;
  cudaEvent_t events_[2] = {};
};

}  // namespace cbk::device
