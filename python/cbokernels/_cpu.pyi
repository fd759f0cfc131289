"""The compiled kernels: C-contiguous arrays of exact dtypes in, results written into the given arrays.

`Kernels` are those of both modules: of `_cpu` on NumPy's arrays, of `_cuda` on `DeviceArray`s. T is float32
or float64, the dtype of theta.
"""

from typing import Any, Protocol, TypeAlias, TypeVar, overload

import numpy as np
import numpy.typing as npt

from ._own_losses import Called, Compiled

_T = TypeVar("_T", np.float32, np.float64)
_A = TypeVar("_A", contravariant=True)
_Words = npt.NDArray[np.uint32]
_Labels = npt.NDArray[np.int32]
_Index = npt.NDArray[np.int64]
_Double = npt.NDArray[np.float64]

# On the CPU the number of threads, 0 for as many as the work is worth, at most OpenMP's setting; on a card
# device, stream and precision.
Execution: TypeAlias = int | tuple[int, int, str]
# seed, stream, step, first particle: of the random numbers
Key: TypeAlias = tuple[int, int, int, int]
# drift, diffusion, dt, noise, floor, radius
Law: TypeAlias = tuple[float, float, float, str, float, float]
# lr, beta1, beta2, delta, and the step, from 1: of Adam
Descent: TypeAlias = tuple[float, float, float, float, int]
# alpha, the effective sample size to solve it for; alphas [T], points [T, D], weights [N, T], ess [T]
Found: TypeAlias = tuple[float, float | None, _Double, npt.NDArray[_T], _Double, _Double]

# what outputs are compared with, and the samples' weights
_Pair: TypeAlias = tuple[_A, _A]
# a loss's name, or that and its parameter, or a function
KernelLoss: TypeAlias = str | tuple[str, float] | Compiled | Called
# what outputs are compared with: values or int32 labels; or a pair of these and the samples' weights [S]
_Targets: TypeAlias = (
    npt.NDArray[_T] | _Labels | tuple[npt.NDArray[_T], npt.NDArray[_T]] | tuple[_Labels, npt.NDArray[_T]]
)

ACTIVATIONS: dict[str, bool]  # name -> whether there is a gradient
# name -> "values", "labels", "sides" or "side" (csrc/common/kinds.hpp), whether there is a gradient, and the
# parameter where none is given
LOSSES: dict[str, tuple[str, bool, float]]
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
    def part_of(self, particles: int, /) -> Network:
        """The same for calls with a part of so many particles: the bits are those of one call with all."""

class Kernels(Protocol[_A]):
    def standard_normal(self, out: _A, key: Key, run: Execution, /) -> None:
        """out [P, size]."""

    def forward(self, net: Network, theta: _A, x: _A, out: _A, run: Execution, /) -> None:
        """theta [N, D], x [S, d] -> out [N, S, C]."""

    def risk(
        self, net: Network, theta: _A, x: _A, y: _A | _Pair[_A], loss: KernelLoss, out: _A, run: Execution, /
    ) -> None:
        """x [S, d] or the tasks' own, [T, S, d]; y [T, S, C] values (of one output [T, S] too) or [T, S]
        int32 labels, or a pair of these and weights [S] -> out [N, T]. All of one task without T: out [N]."""

    def risk_gradient(
        self,
        net: Network,
        theta: _A,
        x: _A,
        y: _A | _Pair[_A],
        loss: KernelLoss,
        out: _A,
        gradient: _A,
        run: Execution,
        /,
    ) -> None:
        """y as one task's in `risk` -> out [N], gradient [N, D]."""

    def atom_risks(
        self,
        net: Network,
        center: _A,
        theta: _A,
        x: _A,
        y: _A | _Pair[_A],
        loss: KernelLoss,
        out: _A,
        run: Execution,
        /,
    ) -> None:
        """center [D], theta [N, D], y as one task's in `risk` -> out [N, M]."""

    def hopping_risk(
        self, net: Network, center: _A, particles: int, spread: float, mirrored: bool, key: Key, x: _A,
        y: _A | _Pair[_A], loss: KernelLoss, atoms: bool, out: _A, run: Execution, /,
    ) -> None:  # fmt: skip
        """Risks of particles drawn around center [D], never stored -> out [N, 1], or [N, M] of its atoms.
        A mirrored pair stands in two rows that follow each other; on a card in the two halves."""

    def low_rank_risks(
        self, net: Network, center: _A, particles: int, spread: float, mirrored: bool, key: Key, x: _A,
        y: _A | _Pair[_A], loss: KernelLoss, rank: int, batch: bool, atoms: bool, out: _A, run: Execution, /,
    ) -> bool:  # fmt: skip
        """`hopping_risk` with a first layer's noise of such a rank, and directions in the batch's span where
        there is one, and whether there was. On the CPU pairs stand in two rows that follow each other, on a
        card opposites come last."""

    def low_rank_drift(
        self, net: Network, x: _A, weights: _A, key: Key, rank: int, batch: bool, atoms: bool, out: _A,
        run: Execution, /,
    ) -> None:  # fmt: skip
        """weights [n, M] of each atom's noise, or [n, 1] -> out [D]: sum_n weights[n] xi_n."""

    def noise_drift(
        self, weights: _A, atom: _A | None, key: Key, float32: bool, out: _A, run: Execution, /
    ) -> None:
        """weights [n, A], atom [D] in [0, A) or None -> out [D]: sum_n weights[n, atom] xi_n."""

    def consensus(
        self, theta: _A, risk: _A, alpha: float, point: _A, weights: _A, ess: _A, run: Execution, /
    ) -> int:
        """theta [N, D], risk [N, T] -> point [T, D], weights [N, T], ess [T], or all without T; the number of
        particles whose risk is not finite in some task. ConsensusError where a task has no finite risk. On a
        card 0, and no error."""

    def cbo_update(
        self, theta: _A, point: _A, task: _A | None, rows: _A | None, law: Law, key: Key, out: _A,
        run: Execution, /,
    ) -> None:  # fmt: skip
        """theta [N, D], point [T, D] and task [N], or point [D]; rows [n] -> out [N, D]; may be theta."""

    def adam_update(
        self, theta: _A, gradient: _A, first: _A, second: _A, by: Descent, rates: _A | None, out: _A,
        run: Execution, /,
    ) -> None:  # fmt: skip
        """All [N, D], but rates [N] in place of by's; the moments in place, out may be theta."""

    def hybrid_update(
        self, theta: _A, point: _A, task: _A | None, gradient: _A, first: _A, second: _A, law: Law,
        by: Descent, key: Key, out: _A, run: Execution, /,
    ) -> None:  # fmt: skip
        """`adam_update` and `cbo_update` at once; law and lr are weighted already."""

    def langevin_drift(
        self, theta: _A, velocity: _A, gradient: _A, factor: float, friction: float, temperature: float,
        dt: float, key: Key, run: Execution, /,
    ) -> None:  # fmt: skip
        """B A O A on theta and velocity [R, D] in place, with the force -factor gradient."""

    def langevin_kick(self, velocity: _A, gradient: _A, factor: float, dt: float, run: Execution, /) -> None:
        """B on velocity [R, D] in place."""

    def assign(
        self, atoms: _A, support: _A, largest: float, duals: _A | None, guess: bool, match: _A, cost: _A,
        gap: _A | None, run: Execution, /,
    ) -> None:  # fmt: skip
        """atoms [N, M, K], support [M, K] -> match [N, M], a guess before, cost [N], gap [N]; duals too."""

    def barycenter(
        self, atoms: _A, weights: _A, largest: float, start: bool, support: _A, match: _A, history: _A,
        objective: _A, run: Execution, /,
    ) -> int:  # fmt: skip
        """atoms [N, M, K], weights [N] of sum 1 -> support [M, K], the start before or without one the
        heaviest particle, match [N, M], history [iterations], objective []; the iterations done."""

    def wasserstein2(self, atoms_a: _A, atoms_b: _A, largest: float, out: _A, run: Execution, /) -> None:
        """atoms_a [N, M, K], atoms_b [N', M, K] -> out [N, N']."""

    def sinkhorn(
        self, atoms: _A, support: _A, epsilon: float, tolerance: float, iterations: int, cost: _A, error: _A,
        projection: _A, run: Execution, /,
    ) -> None:  # fmt: skip
        """atoms [N, M, K], support [M', K] -> cost [N], error [N], projection [N, M, K]."""

    def transport_update(
        self, atoms: _A, support: _A, task: _A | None, match: _A, law: Law, key: Key, out: _A,
        run: Execution, /,
    ) -> None:  # fmt: skip
        """atoms [N, M, K], support [M, K] (on the CPU with task [N]: [T, M, K]), match [N, M] ->
        out [N, M, K], which may be atoms. Of the law drift, diffusion and dt."""

_both: Kernels[npt.NDArray[Any]]
standard_normal = _both.standard_normal
forward = _both.forward
risk = _both.risk
risk_gradient = _both.risk_gradient
atom_risks = _both.atom_risks
hopping_risk = _both.hopping_risk
low_rank_risks = _both.low_rank_risks
low_rank_drift = _both.low_rank_drift
noise_drift = _both.noise_drift
consensus = _both.consensus
cbo_update = _both.cbo_update
adam_update = _both.adam_update
hybrid_update = _both.hybrid_update
langevin_drift = _both.langevin_drift
langevin_kick = _both.langevin_kick
assign = _both.assign
barycenter = _both.barycenter
wasserstein2 = _both.wasserstein2
sinkhorn = _both.sinkhorn
transport_update = _both.transport_update

def uniform(out: npt.NDArray[_T], low: float, high: float, key: Key, run: Execution, /) -> None:
    """out [P, size] = low + (high - low) u."""

def philox4x32(counter: _Words, key: _Words, out: _Words, /) -> None:
    """counter [n, 4], key [n, 2] -> out [n, 4]."""

def permutation(out: _Index, n: int, seed: int, step: int, stream: int, /) -> None:
    """out [k]: the first k entries of a random permutation of range(n)."""

def own_risks(
    net: Network, theta: npt.NDArray[_T], x: npt.NDArray[_T], y: _Targets[_T], loss: KernelLoss,
    out: _Double, run: Execution, /,
) -> None:  # fmt: skip
    """theta [T, D], x and y as in `risk`; row t's risk on task t alone -> out [T]."""

def plan(
    net: Network, particles: int, samples: int, tasks: int, loss: KernelLoss, density: float, single: bool, /
) -> tuple[str, int, int, str]:
    """The way risks of these shapes go, particles in a task, samples in a chunk, and why."""

def consensus_at_ess(
    theta: npt.NDArray[_T], risk: _Double, target: float, alphas: _Double, point: npt.NDArray[_T],
    weights: _Double, ess: _Double, run: Execution, /,
) -> int:  # fmt: skip
    """consensus at the alphas [T] at which each task's effective sample size is `target`."""

def weighted_mean(
    theta: npt.NDArray[_T], weights: _Double, point: npt.NDArray[_T], run: Execution, /
) -> None:
    """sum_n weights[n] theta[n] -> point [D]; particles of weight 0 are not read."""

def weighted_sums(theta: npt.NDArray[_T], weights: _Double, sums: _Double, run: Execution, /) -> None:
    """weights [N, T] -> sums [T, D], as `weighted_mean` and not rounded to theta's type."""

def alpha_for_ess(risk: _Double, ess: float, /) -> float:
    """The alpha at which risks [N] have this effective sample size."""

def variance(theta: npt.NDArray[_T], run: Execution, /) -> float:
    """1/(2N) sum_n |theta_n - mean|^2."""

@overload
def hopping_gradient(
    net: Network, center: npt.NDArray[_T], particles: int, spread: float, mirrored: bool, key: Key,
    x: npt.NDArray[_T], y: _Targets[Any], loss: KernelLoss, atom: _Labels | None, fraction: float,
    gradient: npt.NDArray[_T], run: Execution, /,
) -> tuple[float, float, int]:  # fmt: skip
    """Less the consensus drift of such particles -> gradient [D]; (ess, alpha, non-finite rows), ess 0 where
    nothing is finite. atom [D]: the scope "atom"; fraction: as in `hopping_weights`."""

@overload
def hopping_gradient(
    center: npt.NDArray[_T], spread: float, mirrored: bool, key: Key, risk: _Double, fraction: float,
    gradient: npt.NDArray[_T], run: Execution, /,
) -> tuple[float, float, int]:  # fmt: skip
    """The same from the risks [N] of `draw_ensemble`'s particles."""

def low_rank_gradient(
    net: Network, center: npt.NDArray[_T], particles: int, spread: float, mirrored: bool, key: Key,
    x: npt.NDArray[_T], y: _Targets[Any], loss: KernelLoss, rank: int, batch: bool, atoms: bool,
    fraction: float, fit: bool, gradient: npt.NDArray[_T], run: Execution, /,
) -> tuple[float, float, int, bool]:  # fmt: skip
    """`hopping_gradient` with a first layer's noise of such a rank, and directions in the batch's span where
    there is one; last whether there was. fit: the drift fits the differences of pairs' risks, of atoms."""

def fit_weights(
    net: Network, rank: int, length: int, key: Key, float32: bool, risk: _Double, ess: _Double,
    run: Execution, /,
) -> int:  # fmt: skip
    """Risks [2n, M] of pairs, which follow each other, become in the first n rows the weights of their noise
    that fit their differences -> ess [M]; non-finite rows. length: of a direction, d or the samples that span
    them. float32: as in `noise_drift`."""

def hopping_weights(
    risk: _Double, mirrored: bool, fraction: float, ess: _Double, run: Execution, /
) -> tuple[float, int]:
    """risk [n, A] becomes its weights, by rank (fraction 0) or Gibbs with an ess of fraction n -> ess [A];
    (mean alpha, non-finite rows)."""

def draw_ensemble(
    center: npt.NDArray[_T], spread: float, mirrored: bool, key: Key, out: npt.NDArray[_T], run: Execution, /
) -> None:
    """c + s xi and, mirrored, in the second half c - s xi -> out [N, D]."""

def round_rows(theta: npt.NDArray[_T], scale: npt.NDArray[_T], most: int, run: Execution, /) -> None:
    """theta [n, D] in place: scale [D] times the nearest of the integers -most .. most, halves to even; what
    it is where scale is below 0, 0 where that is 0."""

def cbo_epoch(
    net: Network, x: npt.NDArray[_T], y: _Targets[_T], loss: KernelLoss, order: _Index | None,
    batch: int, theta: npt.NDArray[_T], task: _Labels | None, law: Law, key: Key, risk: _Double,
    found: Found[_T], decay: float, run: Execution, /,
) -> int:  # fmt: skip
    """A step on each batch x[order[i * batch : (i + 1) * batch]], y likewise, the key's step first; order
    None: one step on all. theta [N, D] moves in place, and loses its part `decay` before; the number of
    non-finite risks. ConsensusError names the step."""

def hybrid_epoch(
    net: Network, x: npt.NDArray[_T], y: _Targets[_T], loss: KernelLoss, order: _Index | None,
    batch: int, theta: npt.NDArray[_T], gradient: npt.NDArray[_T], first: npt.NDArray[_T],
    second: npt.NDArray[_T], law: Law, by: Descent, key: Key, risk: _Double, found: Found[_T],
    decay: float, run: Execution, /,
) -> int:  # fmt: skip
    """As cbo_epoch, with steps of `hybrid_update`; gradient [N, D] is scratch."""

def adam_epoch(
    net: Network, x: npt.NDArray[_T], y: _Targets[_T], loss: KernelLoss, order: _Index | None,
    batch: int, theta: npt.NDArray[_T], gradient: npt.NDArray[_T], first: npt.NDArray[_T],
    second: npt.NDArray[_T], by: Descent, rates: _Double | None, risk: _Double, decay: float,
    run: Execution, /,
) -> int:  # fmt: skip
    """As hybrid_epoch without a consensus; risk [N]. rates [N] in place of by's; decay is times these."""

def hopping_epoch(
    net: Network, x: npt.NDArray[_T], y: _Targets[_T], loss: KernelLoss, order: _Index | None,
    batch: int, theta: npt.NDArray[_T], gradient: npt.NDArray[_T], first: npt.NDArray[_T],
    second: npt.NDArray[_T], by: Descent, key: Key, how: tuple[int, float, bool, int, bool, float, bool],
    atom: _Labels | None, decay: float, run: Execution, /,
) -> tuple[float, float, int, bool]:  # fmt: skip
    """As adam_epoch by the drift of an ensemble around theta [1, D]: how is particles, spread, mirrored, rank
    (0: full), directions in the batch's span, fraction. The last step's ess and alpha, the number of
    non-finite rows, and whether all directions were as asked for."""

def largest(a: npt.NDArray[_T], /) -> float:
    """The largest magnitude; infinity where an entry is NaN or infinite."""

def assign_rows(
    atoms: npt.NDArray[_T], support: npt.NDArray[_T], largest: float, duals: _Double, match: _Index,
    cost: _Double, rows: _Index, run: Execution, /,
) -> None:  # fmt: skip
    """atoms [N, M, K], support [T, M, K], rows t N + n -> those of match and duals [T, N, M], cost [T, N]."""

def wrong_permutation(match: _Labels, /) -> int:
    """The first row of match [N, M] that is no permutation of range(M), or -1."""

def assign_matrix(costs: _Double, match: _Labels, /) -> None:
    """costs [M, M], finite -> match [M]."""
