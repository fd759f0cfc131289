"""The runs of `mean-field`: ensembles of networks as measures, on the square's function."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import _cpu
from .._arrays import Array
from ..consensus import consensus
from ..methods import CBO, TransportCBO
from ..network import TwoLayer
from ..result import Result, State
from ..risk import risk
from ..schedules import Exponential, TargetEss
from ..training import train
from ..transport import barycenter, wasserstein2, wasserstein_over_wasserstein
from . import square

Callback = Callable[[State], None]

# Contraction: ensembles (N, M), steps and time step.
CONTRACTING, CONTRACTION_STEPS, DT = ((20, 10), (100, 10), (20, 100), (100, 100)), 40, 0.1
VARIANCES = "wasserstein_variance", "wasserstein_variance_exact"
# Distances between runs of a size and twice as large, after STEPS steps: t = 2.
STEPS = 20
NUMBERS, NEURONS_THERE = (16, 32, 64, 128, 256, 512, 1024), 20
NEURONS, NUMBER_THERE = (8, 16, 32, 64, 128, 256, 512), 12
COMPARED = 32  # particles of the ensembles whose numbers grow
GROWING = TransportCBO(alpha=5.0, diffusion=0.3, dt=DT)
# Training with a consensus of many.
WIDTH, PARTICLES = 50, 100
SHARES = (4, 2, 1)  # the effective sample size is N over this
COOLING = Exponential(1.0, 0.05)
WARM = 0.2  # diffusion after the neurons were shuffled
TRANSPORT, PLAIN = "transport", "plain average"


def method(name: str, diffusion: Any) -> TransportCBO | CBO:
    """CBO at an effective sample size of N/4 with additive noise, by its two kinds of consensus."""
    if name == TRANSPORT:
        return TransportCBO(particles=PARTICLES, alpha=TargetEss(0.25), diffusion=diffusion, dt=DT)
    return CBO(particles=PARTICLES, alpha=TargetEss(0.25), diffusion=diffusion, dt=DT, noise="additive")


def samples() -> tuple[Array, Array]:
    """1000 samples of the square's, all in every step."""
    return square.samples(1000)


def shuffled(net: TwoLayer, theta: Array, seed: int) -> Array:
    """The same networks, the neurons of each in another order."""
    draw = np.random.Generator(np.random.Philox(seed))
    return np.asarray(net.from_atoms(np.stack([draw.permutation(atoms) for atoms in net.atoms(theta)])))


def contraction(number: int, neurons: int, seed: int, callback: Callback) -> Result:
    """V of an ensemble without noise, of uniform weights, from U[-2, 2].

    Columns besides the method's own: "of_bound" and "exact_of_bound", both forms of V over what their first
    values allow by the theorem.
    """
    net = square.network(neurons)
    result = train(
        net,
        *samples(),
        TransportCBO(alpha=0.0, diffusion=0.0, dt=DT, exact_variance=True),
        theta=net.uniform(number, -square.RANGE, square.RANGE, seed=seed, dtype="float64"),
        epochs=CONTRACTION_STEPS,
        dtype="float64",
        seed=seed,
        callback=callback,
    )
    history = result.history
    decay = (1 - DT) ** (2.0 * (history["epoch"] - 1))
    for name, column in (("of_bound", VARIANCES[0]), ("exact_of_bound", VARIANCES[1])):
        history[name] = history[column] / (history[column][0] * decay)
    return result


def random_measures(number: int, neurons: int, seed: int) -> Array:
    """Atoms [N, M, 3], uniform on cubes with sides of 2 whose centres are uniform on [-1, 1]³.

    Fewer particles or neurons of the same seed are the first ones of more, but for the first particle, which
    is the best one: the first barycenter starts there, and a run that starts elsewhere has another limit.
    """
    draws = [np.random.Generator(np.random.Philox([seed, n])) for n in range(number)]
    atoms = np.stack([draw.uniform(-1, 1, 3) + draw.uniform(-1, 1, (neurons, 3)) for draw in draws])
    net = square.network(neurons)
    best = int(risk(net, net.from_atoms(atoms), *samples()).argmin())
    atoms[[0, best]] = atoms[[best, 0]]
    return atoms


def grow(kind: str, seed: int, callback: Callback) -> Result:
    """Distances between runs of n and 2n particles ("N") or neurons ("M") from the same random measures.

    The history has a row for each n: "size", n; "consensus_distance", W2 between the barycenters at t = 2;
    "ensemble_distance", the Wasserstein distance under W2 between the ensembles (of N and 2N particles: the
    first `COMPARED` that both have, or all). Where M differs each neuron of the fewer counts twice.
    """
    many = kind == "N"
    sizes = NUMBERS if many else NEURONS
    largest = (sizes[-1], NEURONS_THERE) if many else (NUMBER_THERE, sizes[-1])
    start = random_measures(*largest, seed)
    runs = []
    for size in sizes:
        atoms = start[:size] if many else start[:, :size]
        net = square.network(atoms.shape[1])
        theta = net.from_atoms(atoms)
        result = train(
            net, *samples(), GROWING, theta=theta, epochs=STEPS, seed=seed, dtype="float64", callback=callback
        )
        runs.append((net.atoms(result.parameters)[None], net.atoms(result.particles)))
    rows = []
    for (point, ensemble), (next_point, next_ensemble) in itertools.pairwise(runs):
        kept = min(len(ensemble), COMPARED)
        pairs = ((point, next_point), (ensemble[:kept], next_ensemble[:kept]))
        doubled = [(a if many else np.repeat(a, 2, axis=1), b) for a, b in pairs]
        rows.append((wasserstein2(*doubled[0]).item(), wasserstein_over_wasserstein(*doubled[1])))
    distances = np.sqrt(rows)
    history = {
        "epoch": np.full(len(rows), STEPS),
        "size": np.array(sizes[:-1]),
        "consensus_distance": distances[:, 0],
        "ensemble_distance": distances[:, 1],
    }
    return Result(result.parameters, result.particles, history, net)


def from_scratch(name: str, epochs: int, seed: int, callback: Callback) -> Result:
    """A training run from U[-2, 2], with the columns of `consensus_risks` where it is by transport."""
    net = square.network(WIDTH)
    x, y = (values.astype(np.float32) for values in samples())
    columns: dict[str, list[float]] = {}

    def look(state: State) -> None:
        theta = shuffled(net, state.particles, state.epoch)
        for column, value in consensus_risks(net, theta, x, y).items():
            columns.setdefault(column, []).append(value)
        callback(state)

    result = train(
        net,
        x,
        y,
        method(name, COOLING),
        theta=net.uniform(PARTICLES, -square.RANGE, square.RANGE, seed=seed),
        epochs=epochs,
        seed=seed,
        callback=look if name == TRANSPORT else callback,
    )
    result.history.update({column: np.array(values) for column, values in columns.items()})
    return result


def consensus_risks(net: TwoLayer, theta: Array, x: Array, y: Array) -> dict[str, float]:
    """Risks at the barycenter and at the plain average of an ensemble, for each effective sample size."""
    risks, columns = risk(net, theta, x, y), {}
    for share in SHARES:
        alpha = _cpu.alpha_for_ess(risks, len(theta) / share)
        found = consensus(theta, risks, alpha=alpha)
        support = barycenter(net.atoms(theta), found.weights).support
        points = np.stack([net.from_atoms(support), found.point])
        at = risk(net, points, x, y)
        columns[f"barycenter_{share}"], columns[f"average_{share}"] = float(at[0]), float(at[1])
    return columns


def shuffled_start(name: str, trained: Array, epochs: int, seed: int, callback: Callback) -> Result:
    """Training on from an ensemble that transport has trained, each network's neurons in random order."""
    net = square.network(WIDTH)
    return train(
        net,
        *samples(),
        method(name, WARM),
        theta=shuffled(net, trained, seed),
        epochs=epochs,
        seed=seed + 1000,
        callback=callback,
    )
