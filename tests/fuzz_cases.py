"""The calls that fuzz.py makes: how one of each kernel is drawn, and how far its results may be from the reference."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import cbokernels as cbk
from cbokernels import reference
from cbokernels._kinds import ACTIVATIONS, LOSSES, NOISES, takes_labels
from cbokernels._reference_transport import squared_distances

EPS = {"float32": 1e-5, "float64": 1e-12}  # of a sum of magnitudes
LABELS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]


@dataclass
class Call:
    """A call of `cbokernels`' function of this name: first positional arguments, then arrays by name."""

    name: str
    first: tuple[Any, ...]
    arrays: dict[str, np.ndarray]
    options: dict[str, Any]
    compare: Callable[[Call, list[Any], list[Any]], str] | None = None
    changed: tuple[str, ...] = ()  # arrays that the call changes in place
    out: str = ""  # the array that out= may be
    particles: str = ""  # the array whose rows do not touch one another's results
    free: tuple[str, ...] = ()  # arrays that may have other numbers of axes
    tied: tuple[str, ...] = ()  # vectors whose length another array gives
    empty: bool = False  # whether axes may have no entries
    bounds: list[Any] = field(default_factory=list)

    @property
    def eps(self) -> float:
        return EPS[str(next(a.dtype for a in self.arrays.values() if a.dtype.kind == "f"))]


def one_of(rng, values):
    return values[rng.integers(len(values))]


def close(call, found, expected):
    """Each result within its bound of the reference; the message of the first that is not."""
    for i, (f, e, bound) in enumerate(zip(found, expected, call.bounds, strict=True)):
        if f.shape != np.shape(e):
            return f"result {i} has shape {f.shape}, the reference's {np.shape(e)}"
        with np.errstate(invalid="ignore"):
            wrong = ~(np.abs(f - e) <= bound) & ~(np.isnan(f) & np.isnan(e)) & (f != e)
        if wrong.any():
            at = np.unravel_index(np.argmax(wrong), wrong.shape)
            allowed = np.broadcast_to(bound, wrong.shape)[at]
            return f"result {i} at {at} is {f[at]!r}, the reference's {np.asarray(e)[at]!r}, allowed {allowed:.3g}"
    return ""


def numbers(rng, shape, dtype):
    """Normal numbers, sometimes scaled, with zeros, or all the same."""
    a = rng.normal(size=shape) * one_of(rng, [1, 1, 1, 0.1, 3])
    if rng.random() < 0.2:
        a *= rng.random(shape) < rng.random()
    if rng.random() < 0.05:
        a[...] = 0.5
    return a.astype(dtype)


def sizes(rng):
    """Few particles and coordinates, around the widths of vectors now and then."""
    return int(one_of(rng, [1, 1, 2, 3, 5, 8, 17])), int(one_of(rng, [1, 2, 3, 4, 5, 7, 15, 16, 17, 33, 70]))


def random_options(rng):
    return {
        "seed": int(one_of(rng, [0, 1, 2**63 + 5, 2**64 - 1])),
        "step": int(one_of(rng, [1, 2, 77, 2**32 - 1])),
    }


# ---- networks


def problem(rng, *, tasks=0, mean=False):
    """A network, its particles, a batch, and the sums of magnitudes that its outputs' rounding is measured by."""
    dtype, activation = one_of(rng, ["float32", "float64"]), one_of(rng, ACTIVATIONS)
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
    loss = one_of(rng, LOSSES) if rare >= 0.015 or shape[0] == 90 else "mse"
    lead = (tasks,) if tasks else ()
    if takes_labels(loss):
        y = rng.integers(0, net.outputs, (*lead, s)).astype(one_of(rng, LABELS))
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
    if takes_labels(loss):
        return 4 * (1 + g.max(-1)).mean(-1)
    size = g + np.abs(np.asarray(y, float)).reshape(g.shape[-2:])
    return 2 * (size * (size + 1)).sum(-1).mean(-1)


def gradient_bound(net, theta, x, y, loss):
    w, b, c, a = net.unpack(np.abs(theta.astype(float)))
    g, z = magnitudes(net, theta, x)
    e = 2 + 0 * g
    if not takes_labels(loss):
        e = 2 * (g + np.abs(np.asarray(y, float)).reshape(g.shape[-2:]))
    else:
        e = e * (1 + g.max(-1, keepdims=True))
    e = e / len(x)
    scale = 1 / net.width if net.scaling == "mean" else 1.0
    delta = 2 * scale * (e @ c) * (1 + z)
    parts = np.swapaxes(delta, -1, -2) @ np.abs(x.astype(float)), delta.sum(-2), scale * (np.swapaxes(e, -1, -2) @ (z + 1))
    return net.pack(*parts, None if a is None else e.sum(-2))


def at_a_corner(net, theta, x):
    """Whether a ReLU's pre-activation is so close to 0 that rounding decides its slope."""
    if net.activation != "relu":
        return False
    w, b, _, _ = net.unpack(theta.astype(float))
    z = x.astype(float) @ np.swapaxes(w, -1, -2) + b[:, None, :]
    _, size = magnitudes(net, theta, x)
    return bool((np.abs(z) < 1e-5 * size).any())


def common(rng, loss=None):
    options = {"precision": "float32", "num_threads": 1}
    return options if loss is None else {"loss": loss, **options}


def forward(rng):
    net, theta, x, _, _ = problem(rng)
    call = Call("forward", (net,), {"theta": theta, "x": x}, common(rng), close, particles="theta")
    call.bounds = [call.eps * magnitudes(net, theta, x)[0]]
    return call


def risk(rng):
    net, theta, x, y, loss = problem(rng)
    arrays = {"theta": theta, "x": x, "y": y}
    call = Call("risk", (net,), arrays, common(rng, loss), close, particles="theta", free=("y",), tied=("y",))
    call.bounds = [call.eps * risk_bound(magnitudes(net, theta, x)[0], y, loss)]
    return call


def task_risks(rng):
    net, theta, x, ys, loss = problem(rng, tasks=int(rng.integers(1, 4)))
    arrays = {"theta": theta, "x": x, "ys": ys}
    call = Call("task_risks", (net,), arrays, common(rng, loss), close, particles="theta", free=("x", "ys"))
    g = magnitudes(net, theta, x)[0]
    call.bounds = [call.eps * np.stack([risk_bound(g, y, loss) for y in ys], axis=-1)]
    return call


def risk_gradient(rng):
    net, theta, x, y, loss = problem(rng)
    arrays = {"theta": theta, "x": x, "y": y}
    call = Call("risk_gradient", (net,), arrays, common(rng, loss), close, particles="theta", free=("y",), tied=("y",))
    corner = at_a_corner(net, theta, x)
    bound = np.inf if corner else call.eps * gradient_bound(net, theta, x, y, loss)
    call.bounds = [call.eps * risk_bound(magnitudes(net, theta, x)[0], y, loss), bound]
    return call


def atom_risks(rng):
    net, theta, x, y, loss = problem(rng)
    theta = theta[:5]
    center = numbers(rng, net.size, theta.dtype)
    arrays = {"center": center, "theta": theta, "x": x, "y": y}
    call = Call("atom_risks", (net,), arrays, common(rng, loss), close, particles="theta", free=("y",), tied=("center", "y"))
    g = magnitudes(net, np.abs(theta) + np.abs(center), x)[0]
    call.bounds = [call.eps * risk_bound(g, y, loss)[:, None]]
    return call


def langevin_step(rng):
    net, theta, x, y, loss = problem(rng, mean=True)
    theta, velocity = theta[:5], numbers(rng, theta[:5].shape, theta.dtype)
    options = common(rng, loss) | random_options(rng)
    options |= {"friction": float(rng.random()), "temperature": float(rng.random()), "dt": 0.05}
    arrays = {"theta": theta, "velocity": velocity, "x": x, "y": y}
    call = Call("langevin_step", (net,), arrays, options, close, changed=("theta", "velocity"), free=("y",))
    force = net.width * gradient_bound(net, theta, x, y, loss).max()
    reach = np.abs(theta) + 5  # after a step
    after = net.width * gradient_bound(net, reach, x, y, loss).max() + force
    moved = call.eps * 10 * (10 + force)
    call.bounds = [math.inf, moved, math.inf if at_a_corner(net, theta, x) or net.activation == "relu" else moved + call.eps * 10 * after]
    if net.activation == "relu":
        call.bounds = [math.inf] * 3 if at_a_corner(net, theta, x) else [math.inf, moved, math.inf]
    return call


# ---- ensembles


def consensus(rng):
    n, size = sizes(rng)
    dtype = one_of(rng, ["float32", "float64"])
    tasks = () if rng.random() < 0.6 else (int(rng.integers(1, 4)),)
    theta, values = numbers(rng, (n, size), dtype), numbers(rng, (n, *tasks), "float64")
    if rng.random() < 0.2:
        values[0] = one_of(rng, [np.nan, np.inf, -np.inf])
        values[-1] = 0.25
    alpha = float(one_of(rng, [0.0, 0.5, 30.0, 1e5, 1e7, np.inf]))
    arrays = {"theta": theta, "risk": values}
    call = Call("consensus", (), arrays, {"alpha": alpha, "num_threads": 1}, close, free=("risk",), tied=("risk",))
    call.bounds = [call.eps * np.abs(theta).max(initial=1), 1e-11, 1e-10 * n]
    return call


def targets(rng, n, size, dtype):
    """point [D], or points [T, D] and the particles' tasks."""
    if rng.random() < 0.6:
        return {"point": numbers(rng, size, dtype)}
    tasks = int(rng.integers(1, 4))
    return {"point": numbers(rng, (tasks, size), dtype), "task": rng.integers(0, tasks, n).astype(one_of(rng, LABELS))}


def noise_options(rng):
    noise = one_of(rng, NOISES)
    options = {"noise": noise, "drift": float(rng.random() * 2), "diffusion": float(one_of(rng, [0.0, 1.0, 1.3])), "dt": 0.1}
    if noise == "truncated":
        options["radius"] = float(one_of(rng, [0.5, 3.0, np.inf]))
    return options | random_options(rng) | {"first_particle": int(one_of(rng, [0, 5, 2**32 - 17])), "num_threads": 1}


def step_bound(call, theta, arrays):
    size = np.abs(theta).max(initial=1) + np.abs(arrays["point"]).max(initial=1)
    return 20 * call.eps * size * math.sqrt(theta.shape[1])


def cbo_update(rng):
    n, size = sizes(rng)
    dtype = one_of(rng, ["float32", "float64"])
    theta = numbers(rng, (n, size), dtype)
    arrays = {"theta": theta, **targets(rng, n, size, dtype)}
    options = noise_options(rng)
    if options["noise"] == "anisotropic" and rng.random() < 0.5:
        options["floor"] = float(one_of(rng, [0.3, 1e-25, 1e-3]))
    call = Call("cbo_update", (), arrays, options, close, out="theta", particles="theta", free=("point",), tied=("task",))
    call.bounds = [step_bound(call, theta, arrays)]
    return call


def moments(rng, shape, dtype):
    return {"gradient": numbers(rng, shape, dtype), "first": numbers(rng, shape, dtype), "second": numbers(rng, shape, dtype) ** 2}


def adam_options(rng):
    return {"step": int(one_of(rng, [1, 2, 50, 10**6])), "beta1": 0.9, "beta2": 0.99, "delta": 1e-8}


def adam_bounds(call, arrays, rate):
    k, first, gradient = call.options, np.abs(arrays["first"]), np.abs(arrays["gradient"])
    m = (first + gradient) / (1 - k["beta1"] ** k["step"])
    r = (k["beta2"] * arrays["second"] + (1 - k["beta2"]) * gradient.astype(float) ** 2) / (1 - k["beta2"] ** k["step"])
    own = call.eps * (10 * rate * m / (np.sqrt(r) + k["delta"]) + np.abs(arrays["theta"]))
    return own, call.eps * (first + gradient), call.eps * (arrays["second"] + gradient**2)


def adam_update(rng):
    n, size = sizes(rng)
    dtype = one_of(rng, ["float32", "float64"])
    arrays = {"theta": numbers(rng, (n, size), dtype), **moments(rng, (n, size), dtype)}
    options = adam_options(rng) | {"lr": 0.1, "num_threads": 1}
    call = Call("adam_update", (), arrays, options, close, ("first", "second"), "theta", "theta")
    call.bounds = list(adam_bounds(call, arrays, 0.1))
    return call


def hybrid_update(rng):
    n, size = sizes(rng)
    dtype = one_of(rng, ["float32", "float64"])
    arrays = {"theta": numbers(rng, (n, size), dtype), **targets(rng, n, size, dtype), **moments(rng, (n, size), dtype)}
    options = noise_options(rng) | adam_options(rng) | {"mix": float(one_of(rng, [0.0, 0.7, 1.0]))}
    call = Call("hybrid_update", (), arrays, options, close, ("first", "second"), "theta", "theta", ("point",), ("task",))
    own, first, second = adam_bounds(call, arrays, options["mix"] * 0.1)
    call.bounds = [own + step_bound(call, arrays["theta"], arrays), first, second]
    return call


# ---- measures


def atoms_of(rng, n=None):
    """N measures of M atoms in K coordinates."""
    shape = [int(one_of(rng, c)) for c in ([1, 2, 3], [1, 2, 3, 4, 5, 9, 17], [1, 2, 3, 5, 17])]
    return numbers(rng, (n or shape[0], *shape[1:]), one_of(rng, ["float32", "float64"]))


def size_of(*arrays):
    return sum(float((a.astype(float) ** 2).sum(-1).max(initial=0)) for a in arrays)


def assigned(call, found, expected):
    """A permutation of the reference's cost."""
    match, cost = found[:2]
    atoms, support = (call.arrays[name].astype(float) for name in ("atoms", "support"))
    if not (np.sort(match, axis=1) == np.arange(len(support))).all():
        return f"no permutations: {match}"
    own = ((atoms - support[match]) ** 2).sum(-1).mean(-1)
    tolerance = call.eps * size_of(atoms, support)
    if not np.allclose(cost, own, rtol=0, atol=tolerance):
        return f"the cost is {cost}, that of the match {own}"
    if not np.allclose(cost, expected[1], rtol=0, atol=tolerance):
        return f"the cost is {cost}, the least {expected[1]}"
    return "" if len(found) < 3 or (found[2] >= 0).all() else f"gaps {found[2]}"


def assign(rng):
    atoms = atoms_of(rng)
    arrays = {"atoms": atoms, "support": numbers(rng, atoms.shape[1:], atoms.dtype)}
    options = {"num_threads": 1}
    if rng.random() < 0.3:
        options["certificate"] = True
    return Call("assign", (), arrays, options, assigned)


def barycenter(rng):
    atoms = atoms_of(rng)
    arrays = {"atoms": atoms, "weights": rng.random(len(atoms)) + 0.01}
    if rng.random() < 0.5:
        arrays["support"] = numbers(rng, atoms.shape[1:], atoms.dtype)

    def compare(call, found, expected):
        costs = squared_distances(expected[0], expected[0]) + np.eye(len(expected[0]))
        if not (found[1] == expected[1]).all():  # equal costs have several optima
            start = arrays.get("support", atoms[arrays["weights"].argmax()]).astype(float)
            costs = [((atoms - start[match]) ** 2).sum(-1).mean(-1) for match in (found[1], expected[1])]
            return "" if np.allclose(*costs, rtol=0, atol=call.eps * size_of(atoms, start)) else f"no optimum: {costs}"
        call.bounds = [call.eps * (1 + np.abs(atoms).max()), 0, *[call.eps * (costs.max() + size_of(atoms))] * 2]
        return close(call, found, expected)

    options = {"iterations": 1, "num_threads": 1}
    return Call("barycenter", (), arrays, options, compare, tied=("weights",))


def transport_update(rng):
    atoms = atoms_of(rng)
    n, m, _ = atoms.shape
    match = np.stack([rng.permutation(m) for _ in range(n)])
    arrays = {"atoms": atoms, "support": numbers(rng, atoms.shape[1:], atoms.dtype), "match": match}
    options = random_options(rng) | {"drift": 1.0, "diffusion": 1.1, "dt": 0.1, "num_threads": 1}
    call = Call("transport_update", (), arrays, options, close, out="atoms", particles="atoms")
    call.bounds = [20 * call.eps * (1 + np.abs(atoms).max() + np.abs(arrays["support"]).max())]
    return call


def wasserstein2(rng):
    a = atoms_of(rng)
    arrays = {"atoms_a": a, "atoms_b": numbers(rng, (int(rng.integers(1, 4)), *a.shape[1:]), a.dtype)}
    call = Call("wasserstein2", (), arrays, {"num_threads": 1}, close)
    call.bounds = [call.eps * size_of(*arrays.values())]
    return call


def wasserstein_over_wasserstein(rng):
    a = atoms_of(rng)
    arrays = {"atoms_a": a, "atoms_b": numbers(rng, a.shape, a.dtype)}
    call = Call("wasserstein_over_wasserstein", (), arrays, {"num_threads": 1}, close)
    call.bounds = [call.eps * size_of(*arrays.values())]
    return call


def entropic(call, found, expected):
    """Between the least cost and the blurred one; the reference solves at one epsilon only."""
    atoms, support = (call.arrays[name].astype(float) for name in ("atoms", "support"))
    if atoms.shape[1] == len(support):
        least = reference.assign(atoms, support).cost
        if not (found[0] >= least - call.eps * size_of(atoms, support)).all():
            return f"the cost {found[0]} is below the least {least}"
    low, high = support.min(0) - call.eps, support.max(0) + call.eps
    inside = (found[1] >= low - call.eps * np.abs(low)).all() and (found[1] <= high + call.eps * np.abs(high)).all()
    return "" if inside else "the projection leaves the support's box"


def sinkhorn(rng):
    atoms = atoms_of(rng)
    other = int(one_of(rng, [atoms.shape[1], 1, 4]))
    arrays = {"atoms": atoms, "support": numbers(rng, (other, atoms.shape[2]), atoms.dtype)}
    options = {"epsilon": float(one_of(rng, [0.1, 0.5])), "iterations": 300, "tolerance": 1e-3, "num_threads": 1}
    return Call("sinkhorn", (), arrays, options, entropic)


def sinkhorn_barycenter(rng):
    atoms = atoms_of(rng)
    arrays = {"atoms": atoms, "weights": rng.random(len(atoms)) + 0.01}
    options = {"epsilon": 0.3, "tolerance": 1e-3, "iterations": 1, "num_threads": 1}
    return Call("sinkhorn_barycenter", (), arrays, options, None, tied=("weights",))


# ---- random numbers


def standard_normal(rng):
    n, size = sizes(rng)
    dtype = one_of(rng, ["float32", "float64"])
    options = random_options(rng) | {"stream": int(rng.integers(5)), "first_particle": 3, "dtype": dtype, "num_threads": 1}
    call = Call("standard_normal", (n, size), {}, options, close)
    call.bounds = [{"float32": 5e-6, "float64": 1e-13}[dtype]]
    return call


def philox4x32(rng):
    lead = tuple(int(n) for n in rng.integers(1, 4, int(rng.integers(3))))
    draw = lambda last: rng.integers(0, 2**32, (*lead, last)).astype(np.uint32)  # noqa: E731
    call = Call("philox4x32", (), {"counter": draw(4), "key": draw(2)}, {}, close, free=("counter", "key"), empty=True)
    call.bounds = [0]
    return call


CASES: dict[str, Callable[[Any], Call]] = {
    make.__name__: make
    for make in (
        forward, risk, task_risks, risk_gradient, atom_risks, langevin_step, consensus, cbo_update, adam_update,
        hybrid_update, assign, barycenter, transport_update, wasserstein2, wasserstein_over_wasserstein, sinkhorn,
        sinkhorn_barycenter, standard_normal, philox4x32,
    )
}  # fmt: skip
