"""The same call means the same on both devices: what is refused, and arrays that share memory."""

from __future__ import annotations

import numpy as np
import pytest
from fake_cuda import Array

import cbokernels as cbk

NET = cbk.TwoLayer(3, 4, 2, "tanh")
N, S, T, M, K = 6, 9, 2, 4, 3
FREE = object()  # an argument left out


def good(function):
    """Arguments that are right: arrays in the order of the signature, then numbers."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.normal(size=shape).astype("f4")

    theta, x, y = normal(N, NET.size), normal(S, 3), normal(S, 2)
    risk, task, weights = rng.uniform(size=N), np.arange(N) % T, np.full(N, 1 / N)
    first, second = np.zeros_like(theta), np.zeros_like(theta)
    atoms, support, match = normal(N, M, K), normal(M, K), np.tile(np.arange(M), (N, 1))
    common = {"num_threads": 1}
    loss = {"loss": "mse", "precision": "float32", **common}
    words = {"seed": 1, "step": 2}
    move = {"drift": 1.0, "diffusion": 0.5, "dt": 0.1, **words, **common}
    cbo = {**move, "noise": "truncated", "radius": 1.0, "first_particle": 3}
    adam = {"beta1": 0.9, "beta2": 0.99, "delta": 1e-8, "step": 2, **common}
    out = np.zeros_like(theta)
    return {
        "forward": {"theta": theta, "x": x, "precision": "float32", **common},
        "risk": {"theta": theta, "x": x, "y": y, **loss},
        "task_risks": {"theta": theta, "x": x, "ys": np.stack([y, y]), **loss},
        "risk_gradient": {"theta": theta, "x": x, "y": np.arange(S) % 2, **loss, "loss": "cross_entropy"},
        "atom_risks": {"center": theta[0].copy(), "theta": theta, "x": x, "y": y, **loss},
        "consensus": {"theta": theta, "risk": risk, "alpha": 3.0, **common},
        "cbo_update": {
            "theta": theta, "point": normal(T, NET.size), "task": task, "out": out, "floor": 0.0, **cbo,
        },
        "adam_update": {
            "theta": theta, "gradient": normal(N, NET.size), "first": first, "second": second, "out": out,
            "lr": 0.1, **adam,
        },
        "hybrid_update": {
            "theta": theta, "point": normal(NET.size), "gradient": normal(N, NET.size), "first": first,
            "second": second, "out": out, "mix": 0.5, "task": None, **cbo, **adam,
        },
        "langevin_step": {
            "theta": theta, "velocity": first, "x": x, "y": y, "gradient": second, "friction": 1.0,
            "temperature": 0.1, "dt": 0.1, **words, **loss,
        },
        "assign": {
            "atoms": atoms, "support": support, "match": match, "duals": np.zeros((N, M)),
            "certificate": True, **common,
        },
        "barycenter": {"atoms": atoms, "weights": weights, "support": support, "iterations": 2, **common},
        "transport_update": {
            "atoms": atoms, "support": support, "match": match, "out": np.zeros_like(atoms),
            "first_particle": 3, **move,
        },
        "wasserstein2": {"atoms_a": atoms, "atoms_b": atoms.copy(), **common},
        "wasserstein_over_wasserstein": {"atoms_a": atoms, "atoms_b": atoms.copy(), **common},
        "sinkhorn": {
            "atoms": atoms, "support": support, "epsilon": 0.1, "iterations": 500, "tolerance": 0.1, **common,
        },
    }[function]  # fmt: skip


FUNCTIONS = (
    "forward", "risk", "task_risks", "risk_gradient", "atom_risks", "consensus", "cbo_update", "adam_update",
    "hybrid_update", "langevin_step", "assign", "barycenter", "transport_update", "wasserstein2",
    "wasserstein_over_wasserstein", "sinkhorn",
)  # fmt: skip
OF_NETWORKS = (*FUNCTIONS[:5], "langevin_step")


def frozen(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def misaligned(a):
    raw = np.zeros(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    raw[...] = a
    return raw


CHANGES = {
    "float16": lambda a: a.astype("f2"),
    "the other float": lambda a: a.astype("f4" if a.dtype == np.float64 else "f8"),
    "integers": lambda a: a.astype("i4"),
    "unsigned": lambda a: np.abs(a).astype("u1"),
    "bool": lambda a: a.astype(bool),
    "complex": lambda a: a.astype("c8"),
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "dates": lambda a: a.astype("i8").view("M8[s]"),
    "0-d": lambda a: np.array(a.ravel()[0]),
    "flat": np.ravel,
    "another axis": lambda a: a[None],
    "no rows": lambda a: a[:0],
    "no columns": lambda a: a[..., :0],
    "fewer rows": lambda a: a[:-1].copy(),
    "fewer columns": lambda a: a[..., :-1].copy(),
    "strides": lambda a: np.repeat(a, 2, -1)[..., ::2],
    "backwards": lambda a: a[::-1],
    "fortran": np.asfortranarray,
    "misaligned": misaligned,
    "read-only": frozen,
    "NaN": lambda a: np.full_like(a, np.nan if a.dtype.kind == "f" else a.max()),
    "negative": lambda a: -1 - np.abs(a),
    "too large": lambda a: np.abs(a) + a.dtype.type(100),
}
SCALARS = (None, True, "bad", -1, -1.0, 0, 1.5, np.nan, np.inf, -np.inf, 2**32, 2**64, np.float32(0.5), [1.0])

# What the host would have to see of the arrays: a card is not waited for, and tells it by NaN (`card.py`).
UNSEEN = {
    ("risk_gradient", "y", "negative"), ("risk_gradient", "y", "too large"),
    ("cbo_update", "task", "negative"), ("cbo_update", "task", "too large"),
    ("cbo_update", "point", "fewer rows"),  # than its tasks
    ("consensus", "risk", "NaN"),
    *((f, "match", c) for f in ("assign", "transport_update") for c in ("NaN", "negative", "too large")),
    *((f, a, "NaN") for f in ("assign", "barycenter", "transport_update", "sinkhorn")
      for a in ("atoms", "support")),
    *((f, a, "NaN") for f in ("wasserstein2",) for a in ("atoms_a", "atoms_b")),
    ("assign", "duals", "NaN"), ("barycenter", "weights", "NaN"), ("barycenter", "weights", "negative"),
}  # fmt: skip


def outcome(function, arguments):
    """The error and the argument that it names, or None."""
    inputs = (NET,) if function in OF_NETWORKS else ()
    try:
        getattr(cbk, function)(*inputs, **arguments)
    except (TypeError, ValueError, cbk.CboError) as error:
        return type(error), str(error).split()[0]
    return None


def on_card(arguments):
    return {name: Array(a) if isinstance(a, np.ndarray) else a for name, a in arguments.items()}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_good_calls_are_good(emulated, function):
    assert outcome(function, good(function)) is None
    assert outcome(function, on_card(good(function))) is None
    assert emulated.on


@pytest.mark.filterwarnings("ignore:Casting complex", "ignore:invalid value")
@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_same_arrays_are_refused(emulated, function):
    differing, refused = {}, 0
    for name, a in good(function).items():
        if not isinstance(a, np.ndarray):
            continue
        for what, change in CHANGES.items():
            host = outcome(function, {**good(function), name: change(a)})
            card = outcome(function, on_card({**good(function), name: change(a)}))
            refused += host is not None
            if (function, name, what) in UNSEEN:
                assert host is not None, (name, what)
                assert card is None, (name, what)
            elif host != card:
                differing[name, what] = host, card
    assert not differing
    assert refused > 20


@pytest.mark.filterwarnings("ignore:the error of")  # of couplings, on the host, where the tolerance is 0
@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_same_numbers_are_refused(emulated, function):
    for name, a in good(function).items():
        if isinstance(a, np.ndarray):
            continue
        for value in SCALARS:
            host = outcome(function, {**good(function), name: value})
            card = outcome(function, on_card({**good(function), name: value}))
            assert host == card, (name, value)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_is_no_array_is_refused_on_both(emulated, function):
    """But the first, which decides on which device the others have to lie."""
    names = [name for name, a in good(function).items() if isinstance(a, np.ndarray)]
    for name in names:
        read = function in OF_NETWORKS and name in ("x", "y", "ys")  # lists on the host are
        for value in ("theta", 3.0) if read else ("theta", [[1.0]], 3.0):
            assert outcome(function, {**good(function), name: value}) == (TypeError, name)
            if name != ("theta" if "theta" in names else names[0]):
                assert outcome(function, on_card(good(function)) | {name: value}) == (TypeError, name)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_arrays_of_the_other_device_are_refused_on_both(emulated, function):
    names = [name for name, a in good(function).items() if isinstance(a, np.ndarray)]
    for name in set(names) - {"theta" if "theta" in names else names[0]}:
        plain, on = good(function), on_card(good(function))
        assert outcome(function, {**plain, name: on[name]}) == (TypeError, name)
        assert outcome(function, {**on, name: plain[name]}) == (TypeError, name)


TRAINED = {
    "values": (cbk.TwoLayer(3, 4, 2, "tanh"), "mse"),
    "labels": (cbk.TwoLayer(3, 4, 2, "tanh"), "cross_entropy"),
    "one output": (cbk.TwoLayer(3, 4, 1, "tanh"), None),
}


# of columns that are not scaled only data on the host are looked at
@pytest.mark.filterwarnings("ignore:Casting complex", "ignore:invalid value", "ignore::cbokernels.CboWarning")
@pytest.mark.parametrize("case", TRAINED)
def test_the_same_data_are_refused_by_train(emulated, case):
    net, loss = TRAINED[case]
    x = np.random.default_rng(0).normal(size=(S, 3)).astype("f4")
    y = np.arange(S) % 2 if case == "labels" else x[:, : net.outputs].copy()

    def trained(device, **changes):
        given = {"x": x, "y": y, **changes}
        given = {name: Array(a) for name, a in given.items()} if device == "cuda" else given
        method = cbk.CBO(N, alpha=1.0)
        try:
            cbk.train(net, given["x"], given["y"], method, loss=loss, epochs=1, device=device)
        except (TypeError, ValueError, cbk.CboError) as error:
            return type(error), str(error).split()[0]
        return None

    assert trained("cuda") is None
    assert trained("cpu") is None
    differing = {}
    for name, a in (("x", x), ("y", y)):
        for what, change in CHANGES.items():
            host, card = trained("cpu", **{name: change(a)}), trained("cuda", **{name: change(a)})
            if host != card:
                differing[name, what] = host, card
    assert not differing
