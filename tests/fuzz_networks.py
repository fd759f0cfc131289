"""Calls of networks for fuzz.py, with bounds from sums of magnitudes."""

from __future__ import annotations

import math

import numpy as np
from fuzz_calls import LABELS, Call, close, numbers, one_of, random_options
from losses import ALL, corner_distance, fits, targets

import cbokernels as cbk
from cbokernels import reference
from cbokernels._kinds import ACTIVATIONS, loss_of, takes_labels


def problem(rng, *, tasks=0, mean=False, sloped=False):
    """A network, its particles, a batch and a loss."""
    dtype, activation = one_of(rng, ["float32", "float64"]), one_of(rng, ACTIVATIONS)
    if sloped and activation not in reference.DERIVATIVES:
        activation = "leaky_relu"
    shape = [int(one_of(rng, c)) for c in ([1, 1, 2, 3, 9, 17], [1, 2, 3, 5, 17], [1, 1, 2, 3, 5])]
    n, s = int(one_of(rng, [1, 2, 3, 5])), int(one_of(rng, [1, 2, 3, 7, 16, 17, 33]))
    rare = rng.random()
    if rare < 0.01:  # lists of inputs that are not 0
        shape, n, s = [90, 16, int(one_of(rng, [2, 3]))], 130, 9
    elif rare < 0.015:  # sums between knots
        shape, n, s, activation, dtype = [1, 60, 1], 6, 700, "relu", "float32"
    net = cbk.TwoLayer(
        *shape,
        activation=activation,
        scaling="mean" if mean else one_of(rng, ["mean", "none"]),
        output_bias=False if mean else bool(rng.integers(2)),
    )
    theta, x = numbers(rng, (n, net.size), dtype), numbers(rng, (s, net.inputs), dtype)
    if shape[0] == 90:
        x[rng.random(x.shape) < 0.95] = 0
    known = [loss for loss in ALL if fits(loss, net.outputs) and not (sloped and loss == "zero_one")]
    loss = one_of(rng, known) if rare >= 0.015 or shape[0] == 90 else "mse"
    lead = (tasks,) if tasks else ()
    if takes_labels(loss_of(loss, net.outputs)):
        y = targets(rng, loss, (*lead, s), net.outputs, dtype).astype(one_of(rng, LABELS))
    else:
        y = numbers(rng, (*lead, s, net.outputs), dtype)
        if net.outputs == 1 and rng.random() < 0.5:
            y = y[..., 0]
    return net, theta, x, y, loss


def magnitudes(net, theta, x):
    """Sums of absolute terms: of the outputs [N, S, C] and of the pre-activations [N, S, M]."""
    w, b, c, a = net.unpack(np.abs(theta.astype(float)))
    z = np.abs(x.astype(float)) @ np.swapaxes(w, -1, -2) + b[:, None, :]
    g = (z + 1) @ np.swapaxes(c, -1, -2)
    g = g / net.width if net.scaling == "mean" else g
    return (g if a is None else g + a[:, None, :]), z


def risk_bound(g, y, loss):
    """[N] of g [N, S, C]: how large a risk and its change with the outputs can be."""
    if takes_labels(loss_of(loss, g.shape[-1])):
        return 4 * (1 + g.max(-1)).mean(-1)
    size = g + np.abs(np.asarray(y, float)).reshape(g.shape[-2:])
    return 2 * (size * (size + 1)).sum(-1).mean(-1)


def gradient_bound(net, theta, x, y, loss):
    _, _, c, a = net.unpack(np.abs(theta.astype(float)))
    g, z = magnitudes(net, theta, x)
    e = 2 + 0 * g
    if not takes_labels(loss_of(loss, g.shape[-1])):
        e = 2 * (g + np.abs(np.asarray(y, float)).reshape(g.shape[-2:]))
    else:
        e = e * (1 + g.max(-1, keepdims=True))
    e = e / len(x)
    scale = 1 / net.width if net.scaling == "mean" else 1.0
    delta = 2 * scale * (e @ c) * (1 + z)
    by_w, by_c = (
        np.swapaxes(delta, -1, -2) @ np.abs(x.astype(float)),
        scale * (np.swapaxes(e, -1, -2) @ (z + 1)),
    )
    return net.pack(by_w, delta.sum(-2), by_c, None if a is None else e.sum(-2))


def loss_at_a_corner(net, theta, x, y, loss):
    """[N], whether an output is so close to a corner of the loss that rounding decides its slope, or to where
    "zero_one" jumps that it decides the loss."""
    g, size = reference.forward(net, theta, x), magnitudes(net, theta, x)[0].max(-1)
    if not takes_labels(loss_of(loss, net.outputs)):
        y = np.asarray(y, float).reshape(g.shape[1:])
    distance = np.stack([corner_distance(loss, own, np.asarray(y)) for own in g])
    return (distance < 1e-5 * (1 + size)).any(-1)


def near_zero(net, theta, x):
    """[N], whether a pre-activation is so close to 0 that rounding decides its sign."""
    w, b, _, _ = net.unpack(theta.astype(float))
    z = x.astype(float) @ np.swapaxes(w, -1, -2) + b[:, None, :]
    _, size = magnitudes(net, theta, x)
    return (np.abs(z) < 1e-5 * size).any((-1, -2))


def steps(net, theta, x):
    """[N], infinite where rounding may decide a value of the activation."""
    jumps = net.activation in ("sign", "step")
    return np.where(near_zero(net, theta, x), np.inf, 0) if jumps else np.zeros(len(theta))


def jumps(net, theta, x, y, loss):
    """[N], infinite where rounding may decide a loss."""
    own = steps(net, theta, x)
    return np.where(loss_at_a_corner(net, theta, x, y, loss), np.inf, own) if loss == "zero_one" else own


def at_a_corner(net, theta, x, y, loss):
    """Whether a ReLU's pre-activation, or an output, is so close to a corner that rounding decides its
    slope."""
    if loss_at_a_corner(net, theta, x, y, loss).any():
        return True
    return net.activation in ("relu", "leaky_relu") and bool(near_zero(net, theta, x).any())


def common(rng, loss=None):
    options = {"precision": "float32", "num_threads": 1}
    return options if loss is None else {"loss": loss, **options}


def weighted(rng, arrays):
    """Adds weights of samples to some calls; how much larger a weight is than their mean."""
    if rng.random() < 2 / 3:
        return 1.0
    samples, dtype = len(arrays["x"]), arrays["theta"].dtype
    w = (rng.exponential(size=samples) * (rng.random(samples) < 0.8)).astype(dtype)
    w[rng.integers(samples)] = 1
    arrays["sample_weight"] = w
    return float(w.max() / w.mean())


def forward(rng):
    net, theta, x, _, _ = problem(rng)
    call = Call("forward", (net,), {"theta": theta, "x": x}, common(rng), close, particles="theta")
    call.bounds = [call.eps * magnitudes(net, theta, x)[0] + steps(net, theta, x)[:, None, None]]
    return call


def risk(rng):
    net, theta, x, y, loss = problem(rng)
    arrays = {"theta": theta, "x": x, "y": y}
    larger = weighted(rng, arrays)
    call = Call(
        "risk",
        (net,),
        arrays,
        common(rng, loss),
        close,
        particles="theta",
        free=("y",),
        tied=("y", "sample_weight"),
    )
    bound = larger * call.eps * risk_bound(magnitudes(net, theta, x)[0], y, loss)
    call.bounds = [bound + jumps(net, theta, x, y, loss)]
    return call


def task_risks(rng):
    net, theta, x, ys, loss = problem(rng, tasks=int(rng.integers(1, 4)))
    arrays = {"theta": theta, "x": x, "ys": ys}
    larger = weighted(rng, arrays)
    call = Call(
        "task_risks",
        (net,),
        arrays,
        common(rng, loss),
        close,
        particles="theta",
        free=("x", "ys"),
        tied=("sample_weight",),
    )
    g, eps = magnitudes(net, theta, x)[0], larger * call.eps
    call.bounds = [
        np.stack([eps * risk_bound(g, y, loss) + jumps(net, theta, x, y, loss) for y in ys], axis=-1)
    ]
    return call


def risk_gradient(rng):
    net, theta, x, y, loss = problem(rng, sloped=True)
    arrays = {"theta": theta, "x": x, "y": y}
    larger = weighted(rng, arrays)
    call = Call(
        "risk_gradient",
        (net,),
        arrays,
        common(rng, loss),
        close,
        particles="theta",
        free=("y",),
        tied=("y", "sample_weight"),
    )
    eps = larger * call.eps
    corner = at_a_corner(net, theta, x, y, loss)
    bound = np.inf if corner else eps * gradient_bound(net, theta, x, y, loss)
    call.bounds = [eps * risk_bound(magnitudes(net, theta, x)[0], y, loss), bound]
    return call


def atom_risks(rng):
    net, theta, x, y, loss = problem(rng)
    theta = theta[:5]
    loss = (
        "cross_entropy" if loss == "zero_one" and net.outputs > 1 else "hinge" if loss == "zero_one" else loss
    )
    center = numbers(rng, net.size, theta.dtype)
    arrays = {"center": center, "theta": theta, "x": x, "y": y}
    larger = weighted(rng, arrays)
    call = Call(
        "atom_risks",
        (net,),
        arrays,
        common(rng, loss),
        close,
        particles="theta",
        free=("y",),
        tied=("center", "y", "sample_weight"),
    )
    g = magnitudes(net, np.abs(theta) + np.abs(center), x)[0]
    unsure = steps(net, center[None], x) + steps(net, theta, x)
    call.bounds = [(larger * call.eps * risk_bound(g, y, loss) + unsure)[:, None]]
    return call


def langevin_step(rng):
    net, theta, x, y, loss = problem(rng, mean=True, sloped=True)
    theta, velocity = theta[:5], numbers(rng, theta[:5].shape, theta.dtype)
    options = common(rng, loss) | random_options(rng)
    options |= {"friction": float(rng.random()), "temperature": float(rng.random()), "dt": 0.05}
    arrays = {"theta": theta, "velocity": velocity, "x": x, "y": y}
    call = Call("langevin_step", (net,), arrays, options, close, changed=("theta", "velocity"), free=("y",))
    force = net.width * gradient_bound(net, theta, x, y, loss).max()
    reach = np.abs(theta) + 5  # after a step
    after = net.width * gradient_bound(net, reach, x, y, loss).max() + force
    moved = call.eps * 10 * (10 + force)
    call.bounds = [math.inf, moved, moved + call.eps * 10 * after]
    if net.activation in ("relu", "leaky_relu"):  # where the step leads may be a corner, too
        call.bounds = [math.inf, math.inf if at_a_corner(net, theta, x, y, loss) else moved, math.inf]
    return call
