"""Losses of one's own for the tests: built-in ones written anew in NumPy and in C, and some that are none."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sysconfig
from pathlib import Path

import numpy as np
import pytest

SOURCE = r"""
#include <math.h>
#include <stdint.h>

#define LOSSES(T, name) \
  double mse_##name(const T *g, const T *y, int64_t C) { \
    double sum = 0; \
    for (int64_t c = 0; c < C; ++c) sum += ((double)g[c] - (double)y[c]) * ((double)g[c] - (double)y[c]); \
    return sum; \
  } \
  double cross_entropy_##name(const T *g, const T *label, int64_t C) { \
    double top = g[0], sum = 0; \
    for (int64_t c = 1; c < C; ++c) top = fmax(top, g[c]); \
    for (int64_t c = 0; c < C; ++c) sum += exp(g[c] - top); \
    return log(sum) + top - g[(int64_t)*label]; \
  } \
  double log_cosh_##name(const T *g, const T *y, int64_t C) { \
    double sum = 0; \
    for (int64_t c = 0; c < C; ++c) sum += log(cosh((double)g[c] - (double)y[c])); \
    return sum; \
  } \
  double poisson_##name(const T *g, const T *count, int64_t C) { \
    return exp((double)*g) - (double)*count * (double)*g + 0 * (double)C; \
  } \
  double nan_above_##name(const T *g, const T *y, int64_t C) { \
    return g[0] > 0.1 ? NAN : mse_##name(g, y, C); \
  }
LOSSES(float, float)
LOSSES(double, double)
"""


def mse(outputs, y):
    return ((outputs - y) ** 2).sum(axis=2).mean(axis=1, dtype=np.float64)


def cross_entropy(outputs, labels):
    top = outputs.max(axis=2, keepdims=True)
    log = (outputs - top) - np.log(np.exp(outputs - top).sum(axis=2, keepdims=True))
    return -log[:, np.arange(len(labels)), labels].mean(axis=1, dtype=np.float64)


def log_cosh(outputs, y):
    return np.log(np.cosh((outputs - y).astype(float))).sum(axis=2).mean(axis=1)


def poisson(outputs, counts):
    return (np.exp(outputs[..., 0].astype(float)) - counts * outputs[..., 0]).mean(axis=1)


IN_PYTHON = {f.__name__: f for f in (mse, cross_entropy, log_cosh, poisson)}


class Library:
    """The C functions of SOURCE, as ctypes gives them: library["mse", "float32"]."""

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which((sysconfig.get_config_var("CC") or "cc").split()[0]) or shutil.which("cc")
        if compiler is None:
            pytest.skip("there is no C compiler")
        (folder / "losses.c").write_text(SOURCE)
        path = folder / "losses.so"
        subprocess.run(
            [compiler, "-O2", "-shared", "-fPIC", folder / "losses.c", "-o", path, "-lm"], check=True
        )
        self._library = ctypes.CDLL(str(path))

    def __getitem__(self, name: tuple[str, str]):
        loss, dtype = name
        number = {"float32": ctypes.c_float, "float64": ctypes.c_double}[dtype]
        function = self._library[f"{loss}_{number.__name__.removeprefix('c_')}"]
        function.restype = ctypes.c_double
        function.argtypes = (ctypes.POINTER(number), ctypes.POINTER(number), ctypes.c_int64)
        return function
