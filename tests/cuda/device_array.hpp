// Arrays on the device with numbers to start from, for kernels.cpp and its parts.
#pragma once

#include <random>
#include <string>
#include <vector>

#include "../../csrc/cuda/gpu.hpp"

namespace cbk::device {

template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(const std::vector<T>& values) : size_(values.size()) {
    check(cudaMalloc(&data_, size_ * sizeof(T)), "malloc");
    check(cudaMemcpy(data_, values.data(), size_ * sizeof(T), cudaMemcpyHostToDevice), "copy");
  }
  explicit DeviceArray(int64_t count) : DeviceArray(std::vector<T>(size_t(count))) {}
  ~DeviceArray() { cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  T* data() const { return data_; }
  void append(std::string& bytes) const {
    std::vector<T> values(size_);
    check(cudaMemcpy(values.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost), "copy");
    bytes.append(reinterpret_cast<const char*>(values.data()), size_ * sizeof(T));
  }

 private:
  T* data_ = nullptr;
  size_t size_;
};

template <class T>
std::vector<T> numbers(int64_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<T> values(static_cast<size_t>(count));
  for (T& v : values) v = T(random() % 2001) / T(1000) - T(1);
  return values;
}

}  // namespace cbk::device
