// CUDA graphs: captures of streams, and their replay in any order that the recorded waits allow.
#include <algorithm>

#include "state.hpp"

using namespace cbk::emulation;

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode*) { return cudaSuccess; }
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  CBK_CALL();
  if (!stream || stream->capture) {
    machine().message = "capture of the legacy default stream, or of one that is captured already";
    return stream ? cudaErrorIllegalState : cudaErrorStreamCaptureUnsupported;
  }
  stream->capture = std::make_shared<Capture>();
  stream->last.clear();
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  CBK_CALL();
  *graph = nullptr;
  const std::shared_ptr<Capture> recorded = stream->capture;
  if (!recorded) return cudaErrorIllegalState;
  for (Stream* other : state().streams)
    if (other->capture == recorded) other->capture = nullptr;
  if (recorded->invalidated) return cudaErrorStreamCaptureInvalidated;
  const Work& nodes = recorded->nodes;
  std::vector<bool> before(nodes.size());  // what the stream's next node would follow
  for (const size_t node : stream->last) before[node] = true;
  for (size_t i = nodes.size(); i-- > 0;)
    for (const size_t node : nodes[i].after) before[node] = before[node] || before[i];
  if (std::find(before.begin(), before.end(), false) != before.end()) {
    machine().message = "a stream that joined the capture has not been joined to its first again";
    return cudaErrorStreamCaptureUnjoined;
  }
  *graph = new Work(nodes);
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  CBK_CALL();
  ++counts.instantiations;
  *exec = new Work(*graph);
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  CBK_CALL();
  const Work& nodes = *exec;
  ++counts.graph_launches, counts.graph_nodes += nodes.size();
  const Order order = machine().options.order;
  std::vector<size_t> left(nodes.size());
  for (size_t i = 0; i < left.size(); ++i) left[i] = i;
  std::vector<bool> done(nodes.size());
  while (!left.empty()) {
    std::vector<size_t> ready;  // places in `left`
    for (size_t k = 0; k < left.size(); ++k) {
      const std::vector<size_t>& after = nodes[left[k]].after;
      if (std::all_of(after.begin(), after.end(), [&](size_t node) { return done[node]; })) ready.push_back(k);
    }
    const size_t k = order == Order::forward   ? ready.front()
                     : order == Order::reverse ? ready.back()
                                               : ready[machine().random() % ready.size()];
    const size_t node = left[k];
    left.erase(left.begin() + long(k));
    done[node] = true;
    if (const cudaError_t error = enqueue(stream, nodes[node].work)) return error;
  }
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  CBK_CALL();
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  CBK_CALL();
  delete exec;
  return cudaSuccess;
}
