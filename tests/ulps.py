"""How far activations and their slopes are from the truth: in units in the last place, and relatively.

They are seen through `forward` and `risk_gradient`, in each of the ways in which these are computed.
"""

from __future__ import annotations

import math

import numpy as np

import cbokernels as cbk


def _logistic(z):
    e = np.exp(-np.abs(z))
    return np.where(z < 0, e, 1) / (1 + e)


_erfc = np.vectorize(math.erfc, otypes=[float])


def _normal_cdf(z):
    exact = -np.clip(z.astype(np.longdouble), -40, 40) / np.sqrt(np.longdouble(2))
    near = exact.astype(float)  # the rest by erfc's slope
    return (_erfc(near) - 2 / np.sqrt(np.pi) * np.exp(-(near**2)) * (exact - near)) / 2


def _density(z):
    return 2 / np.sqrt(np.longdouble(np.pi)) * np.exp(-(np.minimum(np.abs(z), 40) ** 2))


_erf = np.vectorize(math.erf, otypes=[float])

VALUES = {
    "relu": lambda z: np.maximum(z, 0),
    "tanh": np.tanh,
    "sigmoid": _logistic,
    "gelu": lambda z: np.maximum(z, -40) * _normal_cdf(z),
    "softplus": lambda z: np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z))),
    "identity": lambda z: z,
    "leaky_relu": lambda z: np.where(z > 0, z, z / 100),
    "silu": lambda z: z * _logistic(z),
    "sin": np.sin,
    "erf": lambda z: _erf(z.astype(float)).astype(np.longdouble),
    "sign": lambda z: np.where(z < 0, np.longdouble(-1), 1),
    "step": lambda z: np.where(z < 0, np.longdouble(0), 1),
}
SLOPES = {
    "relu": lambda z: np.where(z > 0, 1.0, 0.0),
    "tanh": lambda z: 4 * _logistic(2 * z) * _logistic(-2 * z),
    "sigmoid": lambda z: _logistic(z) * _logistic(-z),
    "gelu": lambda z: _normal_cdf(z) + np.clip(z, -40, 40) * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi),
    "softplus": _logistic,
    "identity": np.ones_like,
    "leaky_relu": lambda z: np.where(z > 0, 1.0, 0.01),
    "silu": lambda z: _logistic(z) * (1 + z * _logistic(-z)),
    "sin": np.cos,
    "erf": _density,
}
# inputs, width, outputs and the share of inputs that are not 0; of one input and output ReLU may take knots
PATHS = {"direct": (2, 1, 1, 1.0), "products": (1, 1, 2, 1.0), "lists": (300, 20, 3, 0.05)}

TARGET = 2.0**20  # so far from g that g - y keeps its digits


def grid(dtype, dense):
    """Numbers of both signs: from where slopes are above 1e-30, and tiny, subnormal and huge ones."""
    smallest, largest = np.finfo(dtype).smallest_subnormal, np.finfo(dtype).max / 4
    rng = np.random.default_rng(17)
    positive = np.concatenate(
        [
            np.linspace(0, 100, dense),
            rng.uniform(0, 1.5, dense),
            np.exp(rng.uniform(np.log(1e-30), np.log(100), dense)),
            [smallest, 7 * smallest, 1e3 * smallest, np.finfo(dtype).tiny, 1e4, 1e30, largest],
        ]
    ).astype(dtype)
    return np.concatenate([positive, -positive])


def _network(activation, path):
    inputs, width, outputs, _ = PATHS[path]
    return cbk.TwoLayer(inputs, width, outputs, activation=activation, scaling="none")


def _particles(net, z):
    """Networks whose pre-activations are z at every input; the first output is the sum of their neurons."""
    theta = np.zeros((-(-len(z) // net.width), net.size), z.dtype)
    biases = theta[:, net.inputs * net.width :][:, : net.width]
    biases[:] = np.resize(z, biases.shape)
    theta[:, (net.inputs + 1) * net.width :][:, : net.width] = 1
    return theta


def values(activation, z, path="direct", put=np.asarray, host=np.asarray):
    """sigma(z), one network a number."""
    net = cbk.TwoLayer(1, 1, PATHS[path][2], activation=activation, scaling="none")
    theta = np.zeros((1, net.size), z.dtype)
    theta[0, :3] = 1, 0, 1
    return host(cbk.forward(net, put(theta), put(np.ascontiguousarray(z[:, None]))))[0, :, 0]


def slopes(activation, z, path="direct", put=np.asarray, host=np.asarray):
    """sigma'(z), from the derivative of (g + TARGET)^2 by the bias, where g is finite."""
    net = _network(activation, path)
    theta = _particles(net, z)
    x = np.zeros((40, net.inputs), z.dtype)
    y = np.zeros((len(x), net.outputs), z.dtype)
    y[:, 0] = -TARGET
    x[0, : int(PATHS[path][3] * net.inputs)] = 1  # the weights are 0: seen only by what chooses the path
    gradient = host(cbk.risk_gradient(net, put(theta), put(x), put(y))[1])
    g = host(cbk.forward(net, put(theta), put(x[:1])))[:, 0, 0].astype(float)
    by_bias = gradient[:, net.inputs * net.width :][:, : net.width].astype(float)
    return (by_bias / (2 * (g[:, None] + TARGET))).reshape(-1)[: len(z)]


def ulps(found, truth, dtype):
    """|found - truth| in the spacing of numbers at the truth."""
    distance = np.abs(found.astype(np.longdouble) - truth)
    return (distance / np.spacing(np.abs(truth.astype(dtype)))).astype(float)


def worst_value(activation, dtype, dense=40_000, **how):
    """The largest error in units in the last place, where the truth is well above the underflow."""
    z = grid(dtype, dense)
    truth = VALUES[activation](z.astype(np.longdouble))
    found = values(activation, z, **how)
    floor = 100 * np.finfo(dtype).tiny
    seen = np.abs(truth) >= floor
    assert (np.abs(found[~seen]) < 1.1 * floor).all()
    return float(ulps(found[seen], truth[seen], dtype).max())


def worst_slope(activation, dtype, dense=4000, **how):
    """The largest relative error, where the truth is above 1e-30; what is below must be found below, too."""
    z = grid(dtype, dense)
    z = z[np.abs(z) <= 100]
    truth = SLOPES[activation](z.astype(np.longdouble)).astype(float)
    found = slopes(activation, z, **how)
    seen = np.abs(truth) >= 1e-30
    assert (np.abs(found[~seen]) <= 1.1e-30).all()
    # gelu's slope is 0 at -0.75, silu's at -1.28: their terms' roundings stay
    rounding = np.finfo(dtype).eps if activation in ("gelu", "silu") else 0.0
    error = np.abs(found - truth)[seen] - rounding
    return float(np.max(error / np.abs(truth[seen]), initial=0.0))


def everything():
    """Of both dtypes and all activations, from `forward` and `risk_gradient` in registers and by products."""
    return {
        f"{what.__name__} {activation} {dtype} {path}": what(activation, dtype, path=path)
        for what, known in ((worst_value, VALUES), (worst_slope, SLOPES))
        for activation in known
        for dtype in ("float32", "float64")
        for path in ("direct", "products")
    }
