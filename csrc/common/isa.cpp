#include "isa.hpp"

#include <cstdlib>
#include <cstring>
#include <stdexcept>

namespace cbk {

#define CBK_DECLARE(set) \
  namespace set { \
  void fill_table(IsaTable& table); \
  }
CBK_DECLARE(baseline)
#if defined(CBK_SET_avx2)
CBK_DECLARE(avx2)
#endif
#if defined(CBK_SET_avx512)
CBK_DECLARE(avx512)
#endif
#if defined(CBK_SET_emulated)
CBK_DECLARE(emulated)
#endif

namespace {

struct Choice {
  const char* name;
  void (*fill)(IsaTable&);
  bool usable;
};

// From the plainest to the best.
std::vector<Choice> choices() {
  std::vector<Choice> sets;
#if defined(__x86_64__)
  __builtin_cpu_init();
  [[maybe_unused]] const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"), emulates = avx2;
#else
  [[maybe_unused]] const bool emulates = true;
#endif
#if defined(CBK_SET_emulated)
  sets.push_back({"emulated", emulated::fill_table, emulates});
#endif
  sets.push_back({"baseline", baseline::fill_table, true});
#if defined(CBK_SET_avx2)
  sets.push_back({"avx2", avx2::fill_table, avx2});
#endif
#if defined(CBK_SET_avx512)
  sets.push_back({"avx512", avx512::fill_table,
                  __builtin_cpu_supports("fma") && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl")});
#endif
  return sets;
}

IsaTable choose() {
  const char* wanted = std::getenv("CBOKERNELS_ISA");
  IsaTable table{};
  std::string names;
  for (const Choice& c : choices()) {
    if (!c.usable) continue;
    if (!names.empty()) names += ", ";
    names += c.name;
    if (!wanted || !*wanted || std::strcmp(c.name, wanted) == 0) c.fill(table);
  }
  if (!table.name)
    throw std::invalid_argument("CBOKERNELS_ISA is '" + std::string(wanted) + "'; this processor can run " + names);
  return table;
}

}  // namespace

const IsaTable& isa_table() {
  static const IsaTable table = choose();
  return table;
}

std::vector<std::string> isa_names() {
  std::vector<std::string> names;
  for (const Choice& c : choices())
    if (c.usable) names.push_back(c.name);
  return names;
}

}  // namespace cbk
