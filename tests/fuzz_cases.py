"""The calls that fuzz.py makes: how each kernel's is drawn, and how far from the reference it may be."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from fuzz_calls import LABELS, Call, close, numbers, one_of, random_options, sizes
from fuzz_networks import atom_risks, forward, langevin_step, risk, risk_gradient, task_risks

from cbokernels import reference
from cbokernels._kinds import NOISES
from cbokernels._reference_transport import squared_distances

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
    call = Call(
        "consensus", (), arrays, {"alpha": alpha, "num_threads": 1}, close, free=("risk",), tied=("risk",)
    )
    call.bounds = [call.eps * np.abs(theta).max(initial=1), 1e-11, 1e-10 * n]
    return call


def targets(rng, n, size, dtype):
    """point [D], or points [T, D] and the particles' tasks."""
    if rng.random() < 0.6:
        return {"point": numbers(rng, size, dtype)}
    tasks = int(rng.integers(1, 4))
    return {
        "point": numbers(rng, (tasks, size), dtype),
        "task": rng.integers(0, tasks, n).astype(one_of(rng, LABELS)),
    }


def noise_options(rng):
    noise = one_of(rng, NOISES)
    options = {
        "noise": noise,
        "drift": float(rng.random() * 2),
        "diffusion": float(one_of(rng, [0.0, 1.0, 1.3])),
        "dt": 0.1,
    }
    if noise == "truncated":
        options["radius"] = float(one_of(rng, [0.5, 3.0, np.inf]))
    return (
        options
        | random_options(rng)
        | {"first_particle": int(one_of(rng, [0, 5, 2**32 - 17])), "num_threads": 1}
    )


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
    call = Call(
        "cbo_update",
        (),
        arrays,
        options,
        close,
        out="theta",
        particles="theta",
        free=("point",),
        tied=("task",),
    )
    call.bounds = [step_bound(call, theta, arrays)]
    return call


def moments(rng, shape, dtype):
    return {
        "gradient": numbers(rng, shape, dtype),
        "first": numbers(rng, shape, dtype),
        "second": numbers(rng, shape, dtype) ** 2,
    }


def adam_options(rng):
    return {"step": int(one_of(rng, [1, 2, 50, 10**6])), "beta1": 0.9, "beta2": 0.99, "delta": 1e-8}


def adam_bounds(call, arrays, rate):
    k, first, gradient = call.options, np.abs(arrays["first"]), np.abs(arrays["gradient"])
    m = (first + gradient) / (1 - k["beta1"] ** k["step"])
    r = (k["beta2"] * arrays["second"] + (1 - k["beta2"]) * gradient.astype(float) ** 2) / (
        1 - k["beta2"] ** k["step"]
    )
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
    arrays = {
        "theta": numbers(rng, (n, size), dtype),
        **targets(rng, n, size, dtype),
        **moments(rng, (n, size), dtype),
    }
    options = noise_options(rng) | adam_options(rng) | {"mix": float(one_of(rng, [0.0, 0.7, 1.0]))}
    call = Call(
        "hybrid_update",
        (),
        arrays,
        options,
        close,
        ("first", "second"),
        "theta",
        "theta",
        ("point",),
        ("task",),
    )
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
            return (
                ""
                if np.allclose(*costs, rtol=0, atol=call.eps * size_of(atoms, start))
                else f"no optimum: {costs}"
            )
        call.bounds = [
            call.eps * (1 + np.abs(atoms).max()),
            0,
            *[call.eps * (costs.max() + size_of(atoms))] * 2,
        ]
        return close(call, found, expected)

    options = {"iterations": 1, "num_threads": 1}
    return Call("barycenter", (), arrays, options, compare, tied=("weights",))


def transport_update(rng):
    atoms = atoms_of(rng)
    n, m, _ = atoms.shape
    match = np.stack([rng.permutation(m) for _ in range(n)])
    arrays = {"atoms": atoms, "support": numbers(rng, atoms.shape[1:], atoms.dtype), "match": match}
    options = random_options(rng) | {"drift": 1.0, "diffusion": 1.1, "dt": 0.1, "num_threads": 1}
    call = Call("transport_update", (), arrays, options, close, out="atoms")  # refuses what is not finite
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
    inside = (found[1] >= low - call.eps * np.abs(low)).all() and (
        found[1] <= high + call.eps * np.abs(high)
    ).all()
    return "" if inside else "the projection leaves the support's box"


def sinkhorn(rng):
    atoms = atoms_of(rng)
    other = int(one_of(rng, [atoms.shape[1], 1, 4]))
    arrays = {"atoms": atoms, "support": numbers(rng, (other, atoms.shape[2]), atoms.dtype)}
    options = {
        "epsilon": float(one_of(rng, [0.1, 0.5])),
        "iterations": 300,
        "tolerance": 1e-3,
        "num_threads": 1,
    }
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
    options = random_options(rng) | {
        "stream": int(rng.integers(5)),
        "first_particle": 3,
        "dtype": dtype,
        "num_threads": 1,
    }
    call = Call("standard_normal", (n, size), {}, options, close)
    call.bounds = [{"float32": 5e-6, "float64": 1e-13}[dtype]]
    return call


def philox4x32(rng):
    lead = tuple(int(n) for n in rng.integers(1, 4, int(rng.integers(3))))
    draw = lambda last: rng.integers(0, 2**32, (*lead, last)).astype(np.uint32)  # noqa: E731
    call = Call(
        "philox4x32", (), {"counter": draw(4), "key": draw(2)}, {}, close, free=("counter", "key"), empty=True
    )
    call.bounds = [0]
    return call


_ALL = [
    forward,
    risk,
    task_risks,
    risk_gradient,
    atom_risks,
    langevin_step,
    consensus,
    cbo_update,
    adam_update,
]
_ALL += [hybrid_update, assign, barycenter, transport_update, wasserstein2, wasserstein_over_wasserstein]
_ALL += [sinkhorn, sinkhorn_barycenter, standard_normal, philox4x32]
CASES: dict[str, Callable[[Any], Call]] = {make.__name__: make for make in _ALL}
