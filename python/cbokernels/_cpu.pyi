"""The compiled CPU kernels: C-contiguous arrays of exact dtypes in, results written into the given arrays.

T is float32 or float64, the dtype of theta; num_threads 0 is OpenMP's own setting.
"""

from typing import Any, TypeVar, overload

import numpy as np
import numpy.typing as npt

_T = TypeVar("_T", np.float32, np.float64)
_Words = npt.NDArray[np.uint32]
_Labels = npt.NDArray[np.int32]
_Index = npt.NDArray[np.int64]
_Double = npt.NDArray[np.float64]

ACTIVATIONS: tuple[str, ...]
LOSSES: tuple[str, ...]
LABEL_LOSSES: tuple[str, ...]  # of LOSSES those that compare with labels
NOISES: tuple[str, ...]

def isa() -> str: ...
def isas() -> list[str]: ...
def max_threads() -> int: ...

class Network:
    def __init__(
        self, inputs: int, width: int, outputs: int, activation: str, scaling: str, output_bias: bool
    ) -> None: ...
    @property
    def size(self) -> int: ...

def philox4x32(counter: _Words, key: _Words, out: _Words) -> None:
    """counter [n, 4], key [n, 2] -> out [n, 4]."""

def standard_normal(
    out: npt.NDArray[_T], seed: int, step: int, stream: int, first_particle: int, num_threads: int
) -> None:
    """out [P, size]."""

def uniform(
    out: npt.NDArray[_T],
    low: float,
    high: float,
    seed: int,
    step: int,
    stream: int,
    first_particle: int,
    num_threads: int,
) -> None:
    """out [P, size] = low + (high - low) u."""

def permutation(out: _Index, n: int, seed: int, step: int, stream: int) -> None:
    """out [k]: the first k entries of a random permutation of range(n)."""

def forward(
    net: Network, theta: npt.NDArray[_T], x: npt.NDArray[_T], out: npt.NDArray[_T], num_threads: int
) -> None:
    """theta [N, D], x [S, d] -> out [N, S, C]."""

def risk(
    net: Network,
    theta: npt.NDArray[_T],
    x: npt.NDArray[_T],
    y: npt.NDArray[_T] | _Labels,
    loss: str,
    out: _Double,
    num_threads: int,
) -> None:
    """y [T, S, C] values (mse) or [T, S] labels (cross entropy) -> out [N, T]."""

def own_risks(
    net: Network,
    theta: npt.NDArray[_T],
    x: npt.NDArray[_T],
    y: npt.NDArray[_T] | _Labels,
    loss: str,
    out: _Double,
    num_threads: int,
) -> None:
    """theta [T, D], x [S, d] or [T, S, d], y as in `risk`; row t's risk on task t alone -> out [T]."""

def plan(
    net: Network, particles: int, samples: int, tasks: int, loss: str, density: float, single: bool
) -> tuple[str, int, int]:
    """The way risks of these shapes go, particles in a task, samples in a chunk."""

def risk_gradient(
    net: Network,
    theta: npt.NDArray[_T],
    x: npt.NDArray[_T],
    y: npt.NDArray[_T] | _Labels,
    loss: str,
    out: _Double,
    gradient: npt.NDArray[_T],
    num_threads: int,
) -> None:
    """y [S, C] values (mse) or [S] labels (cross entropy) -> out [N], gradient [N, D]."""

def consensus(
    theta: npt.NDArray[_T],
    risk: _Double,
    alpha: float,
    point: npt.NDArray[_T],
    weights: _Double,
    ess: _Double,
    num_threads: int,
) -> int:
    """theta [N, D], risk [N, T] -> point [T, D], weights [N, T], ess [T], or all without T; the number of
    particles whose risk is not finite in some task. ConsensusError where a task has no finite risk."""

def consensus_at_ess(
    theta: npt.NDArray[_T],
    risk: _Double,
    target: float,
    alphas: _Double,
    point: npt.NDArray[_T],
    weights: _Double,
    ess: _Double,
    num_threads: int,
) -> int:
    """consensus at the alphas [T] at which each task's effective sample size is `target`."""

def weighted_mean(theta: npt.NDArray[_T], weights: _Double, point: npt.NDArray[_T], num_threads: int) -> None:
    """sum_n weights[n] theta[n] -> point [D]; particles of weight 0 are not read."""

def alpha_for_ess(risk: _Double, ess: float) -> float:
    """The alpha at which risks [N] have this effective sample size."""

def cbo_update(
    theta: npt.NDArray[_T],
    point: npt.NDArray[_T],
    task: _Labels | None,
    rows: _Index | None,
    drift: float,
    diffusion: float,
    dt: float,
    noise: str,
    floor: float,
    radius: float,
    seed: int,
    step: int,
    first_particle: int,
    out: npt.NDArray[_T],
    num_threads: int,
) -> None:
    """theta [N, D], point [T, D], task [N], rows [n] -> out [N, D], which may be theta."""

def adam_update(
    theta: npt.NDArray[_T],
    gradient: npt.NDArray[_T],
    first: npt.NDArray[_T],
    second: npt.NDArray[_T],
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    delta: float,
    out: npt.NDArray[_T],
    num_threads: int,
) -> None:
    """All [N, D]; the moments in place, out may be theta."""

def hybrid_update(
    theta: npt.NDArray[_T],
    point: npt.NDArray[_T],
    task: _Labels | None,
    gradient: npt.NDArray[_T],
    first: npt.NDArray[_T],
    second: npt.NDArray[_T],
    mix: float,
    drift: float,
    diffusion: float,
    dt: float,
    noise: str,
    radius: float,
    seed: int,
    step: int,
    beta1: float,
    beta2: float,
    delta: float,
    first_particle: int,
    out: npt.NDArray[_T],
    num_threads: int,
) -> None:
    """`adam_update` with lr = mix dt, and (1 - mix) of `cbo_update`'s step."""

def langevin_drift(
    theta: npt.NDArray[_T],
    velocity: npt.NDArray[_T],
    gradient: npt.NDArray[_T],
    factor: float,
    friction: float,
    temperature: float,
    dt: float,
    seed: int,
    step: int,
    num_threads: int,
) -> None:
    """B A O A on theta and velocity [R, D] in place, with the force -factor gradient."""

def langevin_kick(
    velocity: npt.NDArray[_T], gradient: npt.NDArray[_T], factor: float, dt: float, num_threads: int
) -> None:
    """B on velocity [R, D] in place."""

def atom_risks(
    net: Network,
    center: npt.NDArray[_T],
    theta: npt.NDArray[_T],
    x: npt.NDArray[_T],
    y: npt.NDArray[Any],
    loss: str,
    out: npt.NDArray[np.float64],
    num_threads: int,
) -> None:
    """center [D], theta [N, D], x [S, d], y [S, C] or [S] int32 labels -> out [N, M]."""

def hopping_risk(
    net: Network,
    center: npt.NDArray[_T],
    particles: int,
    spread: float,
    mirrored: bool,
    seed: int,
    step: int,
    x: npt.NDArray[_T],
    y: npt.NDArray[Any],
    loss: str,
    atoms: bool,
    out: npt.NDArray[np.float64],
    num_threads: int,
) -> None:
    """Risks of particles drawn around center [D], never stored -> out [N, 1], or [N, M] of its atoms.
    A mirrored pair stands in two rows that follow each other."""

@overload
def hopping_gradient(
    net: Network,
    center: npt.NDArray[_T],
    particles: int,
    spread: float,
    mirrored: bool,
    seed: int,
    step: int,
    x: npt.NDArray[_T],
    y: npt.NDArray[Any],
    loss: str,
    atom: _Labels | None,
    fraction: float,
    gradient: npt.NDArray[_T],
    num_threads: int,
) -> tuple[float, float, int]:
    """Less the consensus drift of such particles -> gradient [D]; (ess, alpha, non-finite rows), ess 0 where
    nothing is finite. atom [D]: the scope "atom"; fraction: as in `hopping_weights`."""

@overload
def hopping_gradient(
    center: npt.NDArray[_T],
    spread: float,
    mirrored: bool,
    seed: int,
    step: int,
    risk: _Double,
    fraction: float,
    gradient: npt.NDArray[_T],
    num_threads: int,
) -> tuple[float, float, int]:
    """The same from the risks [N] of `draw_ensemble`'s particles."""

def hopping_weights(
    risk: _Double, mirrored: bool, fraction: float, ess: _Double, num_threads: int
) -> tuple[float, int]:
    """risk [n, A] becomes its weights, by rank (fraction 0) or Gibbs with an ess of fraction n -> ess [A];
    (mean alpha, non-finite rows)."""

def draw_ensemble(
    center: npt.NDArray[_T],
    spread: float,
    mirrored: bool,
    seed: int,
    step: int,
    out: npt.NDArray[_T],
    num_threads: int,
) -> None:
    """c + s xi and, mirrored, in the second half c - s xi -> out [N, D]."""

def noise_drift(
    weights: npt.NDArray[np.float64],
    atom: npt.NDArray[np.int32] | None,
    seed: int,
    step: int,
    float32: bool,
    out: npt.NDArray[np.float64],
    num_threads: int,
) -> None:
    """weights [n, A], atom [D] in [0, A) or None -> out [D]: sum_n weights[n, atom] xi_n."""

def variance(theta: npt.NDArray[_T], num_threads: int) -> float:
    """1/(2N) sum_n |theta_n - mean|^2."""

def cbo_epoch(
    net: Network,
    x: npt.NDArray[_T],
    y: npt.NDArray[_T] | _Labels,
    loss: str,
    order: _Index | None,
    batch: int,
    theta: npt.NDArray[_T],
    task: _Labels | None,
    alpha: float,
    target: float | None,
    drift: float,
    diffusion: float,
    dt: float,
    noise: str,
    floor: float,
    radius: float,
    seed: int,
    step: int,
    risk: _Double,
    alphas: _Double,
    points: npt.NDArray[_T],
    weights: _Double,
    ess: _Double,
    num_threads: int,
) -> int:
    """A step on each batch x[order[i * batch : (i + 1) * batch]], y likewise, from number `step` on; order
    None: one step on all. theta [N, D] moves in place; the number of non-finite risks. With `target`, an
    effective sample size, alphas [T] are solved for. ConsensusError names the step."""

def hybrid_epoch(
    net: Network,
    x: npt.NDArray[_T],
    y: npt.NDArray[_T] | _Labels,
    loss: str,
    order: _Index | None,
    batch: int,
    theta: npt.NDArray[_T],
    gradient: npt.NDArray[_T],
    first: npt.NDArray[_T],
    second: npt.NDArray[_T],
    mix: float,
    alpha: float,
    target: float | None,
    drift: float,
    diffusion: float,
    dt: float,
    noise: str,
    radius: float,
    beta1: float,
    beta2: float,
    delta: float,
    seed: int,
    step: int,
    risk: _Double,
    alphas: _Double,
    points: npt.NDArray[_T],
    weights: _Double,
    ess: _Double,
    num_threads: int,
) -> int:
    """As cbo_epoch; gradient [N, D] is scratch, the moments are changed in place."""

def adam_epoch(
    net: Network,
    x: npt.NDArray[_T],
    y: npt.NDArray[_T] | _Labels,
    loss: str,
    order: _Index | None,
    batch: int,
    theta: npt.NDArray[_T],
    gradient: npt.NDArray[_T],
    first: npt.NDArray[_T],
    second: npt.NDArray[_T],
    lr: float,
    beta1: float,
    beta2: float,
    delta: float,
    step: int,
    risk: _Double,
    num_threads: int,
) -> int:
    """As hybrid_epoch without a consensus; risk [N]."""

def largest(a: npt.NDArray[_T]) -> float:
    """The largest magnitude; infinity where an entry is NaN or infinite."""

def assign(
    atoms: npt.NDArray[_T],
    support: npt.NDArray[_T],
    largest: float,
    duals: _Double | None,
    guess: bool,
    match: _Index,
    cost: _Double,
    gap: _Double | None,
    num_threads: int,
) -> None:
    """atoms [N, M, K], support [M, K] -> match [N, M], a guess before, cost [N], gap [N]; duals in place."""

def assign_rows(
    atoms: npt.NDArray[_T],
    support: npt.NDArray[_T],
    largest: float,
    duals: _Double,
    match: _Index,
    cost: _Double,
    rows: _Index,
    num_threads: int,
) -> None:
    """atoms [N, M, K], support [T, M, K], rows t N + n -> those of match and duals [T, N, M], cost [T, N]."""

def barycenter(
    atoms: npt.NDArray[_T],
    weights: _Double,
    largest: float,
    support: npt.NDArray[_T],
    match: _Index,
    history: _Double,
    num_threads: int,
) -> int:
    """atoms [N, M, K], weights [N] of sum 1, support [M, K] in place -> match [N, M], history [iterations];
    the iterations done."""

def wasserstein2(
    atoms_a: npt.NDArray[_T], atoms_b: npt.NDArray[_T], largest: float, out: _Double, num_threads: int
) -> None:
    """atoms_a [N, M, K], atoms_b [N', M, K] -> out [N, N']."""

def sinkhorn(
    atoms: npt.NDArray[_T],
    support: npt.NDArray[_T],
    largest: float,
    epsilon: float,
    tolerance: float,
    iterations: int,
    cost: _Double,
    error: _Double,
    projection: npt.NDArray[_T],
    num_threads: int,
) -> None:
    """atoms [N, M, K], support [M', K] -> cost [N], error [N], projection [N, M, K]."""

def wrong_permutation(match: _Labels) -> int:
    """The first row of match [N, M] that is no permutation of range(M), or -1."""

def assign_matrix(costs: _Double, match: _Labels) -> None:
    """costs [M, M], finite -> match [M]."""

def transport_update(
    atoms: npt.NDArray[_T],
    support: npt.NDArray[_T],
    task: _Labels | None,
    match: _Labels,
    drift: float,
    diffusion: float,
    dt: float,
    seed: int,
    step: int,
    first_particle: int,
    out: npt.NDArray[_T],
    num_threads: int,
) -> None:
    """atoms [N, M, K], support [M, K] (with task [N]: [T, M, K]), match [N, M] -> out [N, M, K], which may be
    atoms."""
