// Memory of the kernels' drivers: workspaces of a call, buffers of a run.  gpu.hpp includes it.
//
// A call's workspaces come from a pool of the device's, which lives as long as the process.  While calls are under way
// it holds what they need at once.  At a synchronisation of the host it keeps kept_bytes at most for the next ones, and
// trim_memory (device.hpp) gives that back too.  A run's buffers and workspaces are its own and go with it.
#pragma once

#include <utility>
#include <vector>

#include "gpu.hpp"

namespace cbk::device {

// A gradient in passes of 64 MiB (gradient_bytes) fits; a call that needs more asks the system each time.
constexpr uint64_t kept_bytes = uint64_t(1) << 30;

void* take_memory(size_t bytes, bool pinned);             // waits for the device
void* take_workspace(size_t bytes, cudaStream_t stream);  // from the pool of the current device

// Owned memory, on the device or (`pinned`) on the host where copies to and from the device need not wait.
template <class T, bool pinned = false>
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  explicit DeviceBuffer(int64_t count) {
    if (count > 0) data_ = take_memory(size_t(count) * sizeof(T), pinned);
  }
  DeviceBuffer(DeviceBuffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)) {}
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    return *this;
  }
  ~DeviceBuffer() {
    if (data_) pinned ? cudaFreeHost(data_) : cudaFree(data_);
  }
  T* data() const { return static_cast<T*>(data_); }

 private:
  void* data_ = nullptr;
};
template <class T>
using PinnedBuffer = DeviceBuffer<T, true>;

// Workspaces one on top of another, at the same addresses whenever the same calls are made: what a captured graph
// needs, and cheaper than the runtime's pool.  It serves one stream.
class Arena {
 public:
  struct Place {
    size_t chunk = 0, used = 0;
  };

  void* take(size_t bytes, Place& before) {
    before = top_;
    bytes = (bytes + 255) / 256 * 256;
    while (top_.chunk < sizes_.size() && top_.used + bytes > sizes_[top_.chunk]) top_ = {top_.chunk + 1, 0};
    if (top_.chunk == sizes_.size()) {
      const size_t size = std::max(bytes, size_t(4) << 20);
      chunks_.emplace_back(int64_t(size));
      sizes_.push_back(size);
    }
    return chunks_[top_.chunk].data() + std::exchange(top_.used, top_.used + bytes);
  }
  void give_back(Place before) { top_ = before; }

  static Arena*& current() {  // of the calling thread
    static thread_local Arena* arena = nullptr;
    return arena;
  }

 private:
  std::vector<DeviceBuffer<char>> chunks_;
  std::vector<size_t> sizes_;
  Place top_;
};

// The calling thread's workspaces come from the arena, for as long as this lives.
class UseArena {
 public:
  explicit UseArena(Arena& arena) : before_(std::exchange(Arena::current(), &arena)) {}
  ~UseArena() { Arena::current() = before_; }
  UseArena(const UseArena&) = delete;
  UseArena& operator=(const UseArena&) = delete;

 private:
  Arena* before_;
};

// Device memory that lives as long as the stream's work on it; those of a scope are nested.  Where the caller captures
// the stream, both ends become nodes of the graph: the memory is then the graph's, outside of the pool and its bound,
// for as long as the graph lives.  A run's own captures use its arena instead.
template <class T>
class Workspace {
 public:
  Workspace(int64_t count, cudaStream_t stream) : arena_(Arena::current()), stream_(stream) {
    if (count <= 0) return;
    const size_t bytes = size_t(count) * sizeof(T);
    data_ = static_cast<T*>(arena_ ? arena_->take(bytes, before_) : take_workspace(bytes, stream));
  }
  ~Workspace() {
    if (!data_) return;
    if (arena_)
      arena_->give_back(before_);
    else
      cudaFreeAsync(data_, stream_);
  }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  T* data() const { return data_; }

 private:
  T* data_ = nullptr;
  Arena* arena_;
  Arena::Place before_;
  cudaStream_t stream_;
};

}  // namespace cbk::device
