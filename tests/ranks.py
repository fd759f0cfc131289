"""What test_distributed.py has ranks of MPI do: mpiexec -n RANKS python ranks.py NAME [ARGUMENT ...]."""

import hashlib
import json
import os
import signal
import sys
import warnings

import numpy as np
from mpi4py import MPI

import cbokernels as cbk
from cbokernels.distributed import Communicator, gather
from cbokernels.training.split import SplitProblem

WORLD = MPI.COMM_WORLD
# an mpiexec of another MPI starts so many jobs of one rank
assert WORLD.size == int(os.environ.get("CBK_RANKS", WORLD.size)), MPI.Get_library_version()
NET = cbk.TwoLayer(1, 12, 1)
WIDE = cbk.TwoLayer(200, 50, 2)  # in float64 risks by lists: particles are scored in groups
X = np.random.default_rng(1).random((300, 1), np.float32)
Y = np.sin(6 * X[:, 0])
TASKS = np.stack([Y, Y + 1, -Y])


def sparse():
    draw = np.random.default_rng(2)
    return draw.random((60, 200)) * (draw.random((60, 200)) < 0.1), draw.integers(0, 2, 60)


BROAD = cbk.TwoLayer(90, 7, 3)  # inputs of more dimensions than there are samples


def broad():
    draw = np.random.default_rng(3)
    return draw.normal(size=(40, 90)), draw.integers(0, 3, 40)


METHODS = {
    "cbo": (NET, X, Y, cbk.CBO(particles=50, alpha=30.0), 100),
    "hopping": (NET, X, Y, cbk.ConsensusHopping(particles=50), 100),
    "best": (NET, X, Y, cbk.CBO(particles=50, alpha=np.inf), 12),
    "ess": (NET, X, Y, cbk.CBO(particles=50, alpha=cbk.TargetEss(0.3), noise="isotropic"), 12),
    "flying": (NET, X, Y, cbk.CBO(particles=50, alpha=9.0, friction=4.0, particle_batch=17), 12),
    "batch moves": (
        NET,
        X,
        Y,
        cbk.CBO(particles=50, alpha=cbk.TargetEss(0.4), particle_batch=9, move="batch"),
        12,
    ),
    "pairs": (NET, X, Y, cbk.CBO(particles=50, alpha=30.0, particle_batch=2, move="batch"), 12),
    "hybrid": (NET, X, Y, cbk.Hybrid(particles=50, alpha=30.0), 12),
    "atoms": (NET, X, Y, cbk.ConsensusHopping(particles=50, scope="atom", weights=cbk.TargetEss(0.4)), 12),
    "unmirrored": (NET, X, Y, cbk.ConsensusHopping(particles=51, mirrored=False), 12),
    "low rank": (
        BROAD,
        *broad(),
        cbk.ConsensusHopping(particles=50, scope="atom", rank=2, directions="batch", drift="mean"),
        12,
    ),
    "fitted": (
        BROAD,
        *broad(),
        cbk.ConsensusHopping(particles=1200, scope="atom", rank=1, directions="batch"),  # three blocks
        12,
    ),
    "low rank, free": (BROAD, *broad(), cbk.ConsensusHopping(particles=50, rank=1), 12),
    "rounded": (NET, X, Y, cbk.ConsensusHopping(particles=50, weights="ternary", spread=0.3), 12),
    "rounded atoms": (
        BROAD,
        *broad(),
        cbk.ConsensusHopping(particles=50, scope="atom", weights="int8"),
        12,
    ),
    "blocks": (NET, X, Y, cbk.ConsensusHopping(particles=25_000, scope="atom"), 2),
    "tasks": (NET, X, TASKS, cbk.MultiTaskCBO(particles=50, alpha=30.0), 12),
    "transport": (NET, X, Y, cbk.TransportCBO(particles=50, alpha=cbk.TargetEss(0.3), iterations=3), 12),
    "transport of tasks": (NET, X, TASKS, cbk.TransportCBO(particles=50, exact_variance=True), 12),
    "adam": (NET, X, Y, cbk.Adam(particles=7), 12),
    "rates": (NET, X, Y, cbk.Adam(particles=7, lr=[0.01 * n for n in range(7)]), 12),
    "heavy ball": (NET, X, Y, cbk.HeavyBall(particles=7, temperature=1e-3), 12),
    "gradient flow": (NET, X, Y, cbk.GradientFlow(particles=7, temperature=1e-3), 12),
    "sparse": (WIDE, *sparse(), cbk.CBO(particles=300, alpha=30.0), 12),
}
SPLIT = ("cbo", "ess", "batch moves", "hybrid", "hopping", "atoms", "tasks", "transport", "adam", "rates")
WEIGHT = np.random.default_rng(4).random(300) * (np.arange(300) > 140)  # 0 on the first ranks


def one(name, comm=WORLD, **options):
    """A run of METHODS; its points after each epoch (which is a step), history and particles, by name."""
    net, x, y, method, epochs = METHODS[name]
    points = []
    dtype = "float32" if net is NET else "float64"
    options = {
        "epochs": epochs,
        "seed": 5,
        "dtype": dtype,
        "callback": lambda state: points.append(state.point),
        **options,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = cbk.train(net, x, y, method, comm=comm, **options)
    found = {f"history.{n}": column for n, column in result.history.items() if n != "seconds"}
    found.update(points=np.array(points), best=result.best, parameters=result.parameters)
    hopping = isinstance(method, cbk.ConsensusHopping)
    whole = comm is None or hopping or options.get("data") == "split"
    particles = result.particles if whole else gather(result.particles, comm)
    return {**found, "particles": particles}


def same_everywhere(found):
    """The arrays that every rank has must have the same bits on all."""
    for name, values in found.items():
        if name not in ("points", "particles"):
            assert len(set(WORLD.allgather(values.tobytes()))) == 1, name


def trajectories(out):
    for order in ("fixed", "any"):
        for name in METHODS:
            found = one(name, deterministic=order == "fixed")
            same_everywhere(found)
            if WORLD.rank == 0:
                np.savez(f"{out}.{order}.{name}.npz", **found)


def values(theta):
    return np.square(theta - 1).sum(axis=1)


def minimum(out):
    """Of a function, which the ranks call for their own particles only."""
    theta, calls = np.random.default_rng(3).uniform(-3, 3, (40, 6)), []

    def fun(particles):
        calls.append(len(particles))
        return values(particles)

    found = {}
    for name, start in (("CBO", theta), ("ConsensusHopping", theta[:1])):
        method = cbk.CBO(alpha=20.0) if name == "CBO" else cbk.ConsensusHopping(particles=40)
        result = cbk.minimize(fun, start, method, steps=60, comm=WORLD, deterministic=True)
        found.update({f"{name}.x": result.x, f"{name}.risk": result.history["risk"]})
        assert result.evaluations == sum(WORLD.allgather(sum(calls)))
        assert max(calls) <= 40 - 36 * (WORLD.size - 1) // WORLD.size
        calls.clear()
    same_everywhere(found)
    if WORLD.rank == 0:
        np.savez(out, **found)


def counts(out):
    """Collectives a step, from runs that differ by steps alone."""
    told = {"split": {}}
    for name, data in [*((name, "replicated") for name in METHODS), *((name, "split") for name in SPLIT)]:
        net, x, y, method, _ = METHODS[name]
        calls = []
        for batch_size in (len(x) // 2, len(x) // 5):  # 2 and 5 steps an epoch
            ranks = Communicator(WORLD)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                cbk.train(net, x, y, method, epochs=4, batch_size=batch_size, comm=ranks, data=data)
            calls.append(dict(ranks.calls))
        names = set(calls[0]) | set(calls[1])
        each = {n: (calls[1].get(n, 0) - calls[0].get(n, 0)) / 12 for n in names}
        of = told["split"] if data == "split" else told
        of[name] = {n: count for n, count in each.items() if count}
    if WORLD.rank == 0:
        with open(out, "w") as file:
            json.dump(told, file)


def apart(found, expected):
    """The largest difference of two runs' points and histories, relative to the size of each."""
    worst = 0.0
    for name, values in expected.items():
        if name != "history.moved" and np.isfinite(values).any():
            with np.errstate(invalid="ignore"):
                scale = max(np.nanmax(np.abs(values)), 1e-30)
                worst = max(worst, float(np.nanmax(np.abs(found[name] - values)) / scale))
    return worst


def split_data(out):
    """Samples shared out: how far runs are from those of one process, and the bits of ordered sums."""
    told = {}
    for name in SPLIT:
        for batch_size, weight in ((None, None), (37, None), (37, WEIGHT)):
            options = {"epochs": 2, "batch_size": batch_size, "sample_weight": weight, "dtype": "float64"}
            key = f"{name}, {batch_size}, {'weighted' if weight is not None else 'even'}"
            expected = one(name, None, **options) if WORLD.rank == 0 else None
            far = []
            for ordered in (False, True):
                found = one(name, data="split", deterministic=ordered, **options)
                same_everywhere(found)
                if expected is not None:
                    far.append(apart(found, expected))
            if WORLD.rank == 0:
                bits = b"".join(found[n].tobytes() for n in sorted(found))
                told[key] = [far, hashlib.sha256(bits).hexdigest()]
    if WORLD.rank == 0:
        with open(out, "w") as file:
            json.dump(told, file)


def mapped(x, y):
    """Memory-mapped data: each rank has its own rows, where they lie."""
    x, y = np.load(x, mmap_mode="r"), np.load(y, mmap_mode="r")
    seen = []

    class Seen(SplitProblem):
        def __init__(self, net, data, *rest):
            seen.append((data.x, data.y))
            super().__init__(net, data, *rest)

    sys.modules["cbokernels.training.places"].SplitProblem = Seen
    result = cbk.train(NET, x, y, cbk.CBO(particles=8), epochs=2, comm=WORLD, data="split")
    (own_x, own_y), first = seen[0], len(x) * WORLD.rank // WORLD.size
    last = len(x) * (WORLD.rank + 1) // WORLD.size
    assert own_x.shape == (last - first, 1)
    assert np.shares_memory(own_x, x[first:last])
    assert np.shares_memory(own_y, y[first:last])
    assert WORLD.allreduce(len(own_x)) == len(x)
    same_everywhere({"parameters": result.parameters})


def refused():
    """What split data cannot do, and data that are wrong on one rank."""
    far = np.full((8, NET.size), 3e38, np.float32)
    wrong = Y.copy()
    wrong[len(Y) - 1] = np.nan
    caught = []
    for x, y, options in (
        (X, Y, {"metrics": "r2"}),
        (X, Y, {"standardize": True}),
        (X[:2], Y[:2], {}),
        (X, Y[:9], {}),
        (X, wrong, {}),
        (X, Y, {"theta": far}),
        (X, Y, {"data": "split" if WORLD.rank else "replicated"}),
    ):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                cbk.train(
                    NET, x, y, cbk.CBO(particles=8), epochs=2, comm=WORLD, **{"data": "split", **options}
                )
        except (ValueError, cbk.CboError) as error:
            caught.append(f"{type(error).__name__}: {error}")
    told = WORLD.gather(caught)
    if WORLD.rank == 0:
        print(json.dumps(told))


def decays():
    """Weight decay, of runs on several ranks and of one."""
    told = {}
    for name in (
        "cbo",
        "batch moves",
        "hybrid",
        "hopping",
        "tasks",
        "transport",
        "adam",
        "rates",
        "heavy ball",
    ):
        options = {"epochs": 3, "weight_decay": 0.2, "dtype": "float64"}
        found = [one(name, **options, **more) for more in ({}, {"data": "split"})]
        if WORLD.rank == 0:
            expected, without = one(name, None, **options), one(name, None, epochs=3, dtype="float64")
            told[name] = [apart(f, expected) for f in (*found, without)]
    if WORLD.rank == 0:
        print(json.dumps(told))


def resumable(out, path, epochs, end, name, at, data="replicated"):
    """A run with a checkpoint; a rank ends as `end` says in epoch `at`."""

    def callback(state):
        if state.epoch == int(at) and end == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if state.epoch == int(at) and end == "terminate":
            os.kill(os.getpid(), signal.SIGTERM)
        if state.epoch == int(at) and end == "stop":
            return True
        if state.epoch == int(at) and end == "raise":
            raise RuntimeError("of a callback")

    found = one(
        name, deterministic=True, epochs=int(epochs), checkpoint=path, every=5, resume=True, data=data,
        callback=callback,
    )  # fmt: skip
    if WORLD.rank == 0:
        del found["points"]
        np.savez(out, **found)


def failing(path, how):
    """The function fails on the last rank."""
    calls = []

    def fun(theta):
        calls.append(1)
        if len(calls) == 8 and WORLD.rank == WORLD.size - 1:
            if how == "memory":
                np.empty(2**60, np.int8)
            raise RuntimeError("of a function")
        return values(theta)

    theta = np.random.default_rng(3).uniform(-3, 3, (40, 6))
    cbk.minimize(fun, theta, steps=1000, checkpoint=path, every=5, comm=WORLD)


def unequal():
    """Arguments that differ from rank to rank, and are wrong on one."""
    caught = []
    for options in ({"seed": WORLD.rank}, {"seed": -1 if WORLD.rank else 0}, {"epochs": 3 + WORLD.rank}):
        try:
            cbk.train(NET, X, Y, cbk.CBO(particles=8), comm=WORLD, **{"epochs": 2, **options})
        except (ValueError, cbk.CboError) as error:
            caught.append(f"{type(error).__name__}: {error}")
    told = WORLD.gather(caught)
    if WORLD.rank == 0:
        print(json.dumps(told))


def nowhere_finite():
    """All ranks raise the same error, which each can catch; the next run is not disturbed."""
    theta, caught = np.ones((8, 3)), []
    for fun in (lambda t: np.full(len(t), np.nan), values):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                cbk.minimize(fun, theta, steps=3, comm=WORLD)
        except cbk.ConsensusError as error:
            caught.append(str(error))
    told = WORLD.gather(caught)
    if WORLD.rank == 0:
        print(json.dumps(told))


def warned():
    """Half of the particles fail: one warning, with all ranks' count."""
    theta = np.linspace(-1, 1, 16)[:, None]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cbk.minimize(lambda t: np.where(t[:, 0] < 0, np.nan, t[:, 0]), theta, cbk.CBO(), steps=1, comm=WORLD)
    told = WORLD.gather([str(w.message) for w in caught])
    if WORLD.rank == 0:
        print(json.dumps(told))


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
