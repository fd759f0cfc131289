// Prints what this machine reaches on one and on several threads, as JSON: {"fma": [GFLOP/s, ...], "copy": [GB/s,
// ...]}, under "usual" the median of the threads' multiply-add rates, which load beside them lowers first, and under
// "turn" nanoseconds in which a cache line goes from one core to another and back.
//   c++ -std=c++20 -O3 -march=native -ffp-contract=fast -fopenmp bench/limits.cpp -o limits && ./limits 2 [copy]
#include "limits.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

int main(int count, char** words) {
  const int threads = count > 1 ? std::atoi(words[1]) : omp_get_max_threads();
  std::vector<double> rates(25);
  for (double& rate : rates) rate = bench::fma_rate(threads, 1);
  std::sort(rates.begin(), rates.end());
  std::printf("{\"fma\": [%.1f, %.1f], \"usual\": %.1f", bench::fma_rate(1), rates.back(), rates[rates.size() / 2]);
  if (count > 2 && !std::strcmp(words[2], "copy"))
    std::printf(", \"copy\": [%.1f, %.1f]", bench::copy_rate(1), bench::copy_rate(threads));
  if (threads > 1 && omp_get_num_procs() > 1) std::printf(", \"turn\": %.0f", bench::turn_time());
  std::printf("}\n");
}
