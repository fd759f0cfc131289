// How laws of noise come from Python, on the CPU and on a card.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "update.hpp"

namespace cbk {

inline Noise noise_named(const std::string& name) {
  if (name == "anisotropic") return Noise::anisotropic;
  if (name == "isotropic") return Noise::isotropic;
  if (name == "truncated") return Noise::truncated;
  if (name == "additive") return Noise::additive;
  if (name == "none") return Noise::none;
  throw pybind11::value_error("unknown noise '" + name + "'");
}

}  // namespace cbk
