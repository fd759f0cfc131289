// How laws of noise come from Python.
#pragma once

#include <string>

#include "../cuda/bind.hpp"
#include "update.hpp"

namespace cbk::device {

inline Noise noise_named(const std::string& name) {
  if (name == "anisotropic") return Noise::anisotropic;
  if (name == "isotropic") return Noise::isotropic;
  if (name == "truncated") return Noise::truncated;
  if (name == "additive") return Noise::additive;
  if (name == "none") return Noise::none;
  throw py::value_error("unknown noise '" + name + "'");
}

}  // namespace cbk::device
