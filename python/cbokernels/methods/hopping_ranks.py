"""A step of consensus hopping whose draws are shared out to several ranks.

Each rank scores its own draws. The risks are gathered, so that every rank weighs them as one process would,
and each sums the drift of its own draws, whose noise comes from the same counters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _cpu
from .._arrays import Array
from .._ranks import Ranks, add_up

if TYPE_CHECKING:
    from .._cpu import Key

_BLOCK, _FEWEST = 2**17, 256  # risks that are weighed together, and particles at least
_FITTED = 512  # particles at most whose differences are fitted together
_TOGETHER = 32  # draws whose risks may be computed together: their last bits depend on each other


class DrawnOnHost:
    """A batch whose draws' noise the host sums."""

    @staticmethod
    def noise_drift(
        weights: Array, atom: Array | None, key: Key, single: bool, out: Array, threads: int
    ) -> None:
        """sum_n weights[n, atom] xi_n of the draws [n] from the key's on -> out [D], float64."""
        _cpu.noise_drift(weights, atom, key, single, out, threads)


def shared_gradient(
    ranks: Ranks, batch: Any, center: Array, particles: int, spread: float, mirrored: bool, key: Key,
    atoms: bool, fraction: float, out: Array, threads: int, noise: tuple[int, bool] | None = None,
    fit: bool = False,
) -> tuple[float, float, int, bool]:  # fmt: skip
    """As a batch's `hopping_gradient`, of all ranks' particles; key is that of this rank's first draw.

    noise: its rank, and whether directions are to be in the batch's span; None for full noise. fit: the
    differences of pairs' risks are. Last comes whether directions were not in the span.
    """
    fold, size, index = 2 if mirrored else 1, len(center), batch.atoms_of(atoms)
    columns = 1 if index is None else int(index.max()) + 1
    mine = np.empty(((ranks.last - ranks.first) * fold, columns))
    free = spanned = False
    if noise is None:
        batch.hopping_risk(center, len(mine), spread, mirrored, key, atoms, mine)
    else:
        low, high = ranks.first, ranks.last
        if fit and ranks.ordered:  # whole groups of draws, so that the bits are those of one process
            low, high = low // _TOGETHER * _TOGETHER, min(-(-high // _TOGETHER) * _TOGETHER, ranks.total)
        risks = np.empty(((high - low) * fold, columns))
        own = (*key[:3], low)
        spanned = batch.low_rank_risk(center, len(risks), spread, mirrored, own, noise, atoms, risks)
        mine[:] = risks[(ranks.first - low) * fold :][: len(mine)]
        free = noise[1] and not spanned
    risks = ranks.gather(mine.reshape(-1, fold * columns)).reshape(-1, columns)
    blocks = []
    for first, last in _blocks(ranks.total, fold, columns, fit):
        if first >= ranks.last or last <= ranks.first:
            continue
        block = _Block(risks, first, last, fold)
        if fit and noise is not None:
            block.fit(batch, (*key[:3], first), noise[0], spanned)
        else:
            block.weigh(mirrored, fraction, threads)
        blocks.append(block)

    def leaf(a: int, b: int) -> Array:
        """Of the draws [a, b) of this rank: the drift, and each block's numbers where its first draw is."""
        state, drift = np.zeros(size + 2 * columns + 2), np.empty(size)
        a, b = a + ranks.first, b + ranks.first
        for block in blocks:
            low, high = max(a, block.first), min(b, block.last)
            if low >= high:
                continue
            weights = np.ascontiguousarray(block.weights[low - block.first : high - block.first])
            own = (*key[:3], low)
            if noise is None:
                batch.noise_drift(weights, index, own, center.dtype == np.float32, drift, threads)
            else:
                batch.low_rank_drift(weights, own, noise, atoms, drift)
            state[:size] += block.share * drift
            if low == block.first:
                state[size:] += block.told
        return state

    state = ranks.merge(leaf, add_up)
    np.negative(state[:size], out=out, casting="same_kind")
    share, squares, (alpha, nonfinite) = np.split(state[size:], (columns, 2 * columns))
    ess = float((share**2 / squares).mean()) if (share > 0).all() else 0.0
    return ess, float(alpha), int(nonfinite), free


def _blocks(draws: int, fold: int, columns: int, fit: bool) -> list[tuple[int, int]]:
    """The draws that are weighed together, as in csrc/hopping/blocks.hpp."""
    most = max(_BLOCK // columns, _FEWEST)
    blocks = -(-draws * fold // (min(most, _FITTED) if fit else most))
    return [(b * draws // blocks, (b + 1) * draws // blocks) for b in range(blocks)]


class _Block:
    """Draws [first, last) that are weighed together.

    weights: of their normals, [draws, columns]. told: of the ensemble, each column's share of the particles
    weighed and its squares / ess, then alpha and the number of rows that are not finite.
    """

    def __init__(self, risks: Array, first: int, last: int, fold: int) -> None:
        self._risks = risks[first * fold : last * fold].copy()
        self.first, self.last, self.share = first, last, len(self._risks) / len(risks)

    def weigh(self, mirrored: bool, fraction: float, threads: int) -> None:
        """By rank, or with Gibbs weights."""
        beta, ess = self._risks, np.empty(self._risks.shape[1])
        alpha, nonfinite = _cpu.hopping_weights(beta, mirrored, fraction, ess, threads)
        if mirrored:
            self.weights = beta[::2] - beta[1::2]
        else:
            self.weights = beta - np.where(ess > 0, 1 / len(beta), 0.0)
        self._tell(ess, alpha, nonfinite)

    def fit(self, batch: Any, key: Key, rank: int, spanned: bool) -> None:
        """By least squares of pairs' differences; key is that of the first draw."""
        ess = np.empty(self._risks.shape[1])
        nonfinite = batch.fit_weights(self._risks, key, rank, spanned, ess)
        self.weights = self._risks[: self.last - self.first]
        self._tell(ess, 0.0, nonfinite)

    def _tell(self, ess: Array, alpha: float, nonfinite: int) -> None:
        counts = ess > 0
        share = np.where(counts, self.share, 0.0)
        squares = np.divide(share**2, ess, out=np.zeros(len(ess)), where=counts)
        self.told = np.concatenate([share, squares, [self.share * alpha, nonfinite]])
