"""Optimal transport in plain NumPy float64, part of `reference`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .sinkhorn import Sinkhorn, SinkhornBarycenter
from .transport import Assignment, Barycenter, CertifiedAssignment


def hungarian(costs: Any) -> tuple[Any, float]:
    """Columns [M] of the rows' least total cost under costs [M, M], and its lower bound by the duals:
    shortest augmenting paths, row by row."""
    m = len(costs)
    u, v = np.zeros(m), np.zeros(m)
    row_of = np.full(m, -1)
    for start in range(m):
        distance, parent = np.full(m, np.inf), np.full(m, -1)
        scanned = np.zeros(m, bool)
        row, column, level = start, -1, 0.0
        while row >= 0:  # a column without a row ends the path
            reach = level + costs[row] - u[row] - v
            closer = ~scanned & (reach < distance)
            distance[closer], parent[closer] = reach[closer], column
            column = int(np.argmin(np.where(scanned, np.inf, distance)))
            level, row = distance[column], row_of[column]
            scanned[column] = True
        u[start] += level
        inner = scanned & (row_of >= 0)
        u[row_of[inner]] += level - distance[inner]
        v[inner] -= level - distance[inner]
        while column >= 0:
            row_of[column] = start if parent[column] < 0 else row_of[parent[column]]
            column = parent[column]
    return np.argsort(row_of), float(u.sum() + v.sum())


def squared_distances(x: Any, y: Any) -> Any:
    """|x_i - y_j|^2 for x [M, K] and y [M', K]."""
    return ((x[:, None, :] - y[None, :, :]) ** 2).sum(-1)


def assign(
    atoms: Any, support: Any, *, match: Any = None, duals: Any = None, certificate: bool = False
) -> Assignment | CertifiedAssignment:
    """Optimal partners [N, M] in support [M, K] of atoms [N, M, K], and W2 squared [N]; no start is used."""
    atoms, support = np.asarray(atoms, float), np.asarray(support, float)
    solved = [hungarian(squared_distances(x, support)) for x in atoms]
    found, bound = np.stack([s[0] for s in solved]), np.array([s[1] for s in solved]) / len(support)
    cost = ((atoms - support[found]) ** 2).sum(-1).mean(-1)
    if certificate:
        return CertifiedAssignment(found, cost, np.maximum(cost - bound, 0.0))
    return Assignment(found, cost)


def barycenter(atoms: Any, weights: Any, *, support: Any = None, iterations: int = 1) -> Barycenter:
    """Weighted barycenter of atoms [N, M, K]: assign, then average the partners, `iterations` times."""
    atoms, beta = np.asarray(atoms, float), np.asarray(weights, float)
    beta = beta / beta.sum()
    y = atoms[beta.argmax()] if support is None else np.asarray(support, float)
    history = []
    for _ in range(iterations):
        match = assign(atoms, y).match
        moved = np.take_along_axis(atoms, np.argsort(match, axis=1)[..., None], axis=1)
        y = np.tensordot(beta, moved, axes=1)
        history.append(float(beta @ ((atoms - y[match]) ** 2).sum(-1).mean(-1)))
    return Barycenter(y, match, history[-1], np.array(history))


def wasserstein2(atoms_a: Any, atoms_b: Any) -> Any:
    """Squared distances [N, N'] of atoms_a [N, M, K] and atoms_b [N', M, K]."""
    return np.stack([assign(atoms_a, b).cost for b in np.asarray(atoms_b, float)], axis=1)


def wasserstein_over_wasserstein(atoms_a: Any, atoms_b: Any) -> float:
    """Mean of W2 squared over the pairs of the best assignment of particles."""
    costs = wasserstein2(atoms_a, atoms_b)
    return float(costs[np.arange(len(costs)), hungarian(costs)[0]].mean())


def sinkhorn(
    atoms: Any, support: Any, *, epsilon: float = 0.01, iterations: int = 1000, tolerance: float = 1e-3
) -> Sinkhorn:
    """Entropic transport of atoms [N, M, K] to support [M', K], at one epsilon from the start."""
    atoms, support = np.asarray(atoms, float), np.asarray(support, float)
    parts = [_sinkhorn(x, support, epsilon, iterations, tolerance) for x in atoms]
    return Sinkhorn(*(np.stack(part) for part in zip(*parts, strict=True)))


def _sinkhorn(x: Any, y: Any, epsilon: float, iterations: int, tolerance: float) -> tuple[Any, Any, Any]:
    costs = squared_distances(x, y)
    f, g = np.zeros(len(x)), np.zeros(len(y))
    for _ in range(iterations):
        before, f = f, -epsilon * (np.logaddexp.reduce((g - costs) / epsilon, axis=1) - math.log(len(y)))
        if np.abs(np.expm1((before - f) / epsilon)).mean() <= tolerance:
            break
        g = -epsilon * (np.logaddexp.reduce((f[:, None] - costs) / epsilon, axis=0) - math.log(len(x)))
    plan = np.exp((g - costs) / epsilon)
    plan /= plan.sum(axis=1, keepdims=True) * len(x)
    columns = plan.sum(axis=0) * len(y)
    balanced = plan * np.minimum(1 / columns, 1)
    rest = np.outer(1 / len(x) - balanced.sum(axis=1), 1 / len(y) - balanced.sum(axis=0))
    if (mass := 1 - balanced.sum()) > 0:
        balanced += rest / mass
    return (balanced * costs).sum(), len(x) * balanced @ y, np.asarray(np.abs(columns - 1).mean())


def sinkhorn_barycenter(
    atoms: Any,
    weights: Any,
    *,
    epsilon: float = 0.01,
    tolerance: float = 1e-3,
    support: Any = None,
    iterations: int = 1,
) -> SinkhornBarycenter:
    """Support [M', K] of the entropic barycenter of atoms [N, M, K], and each coupling's error [N]."""
    atoms, beta = np.asarray(atoms, float), np.asarray(weights, float)
    y = atoms[beta.argmax()] if support is None else np.asarray(support, float)
    for _ in range(iterations):
        solved = [sinkhorn(y[None], x, epsilon=epsilon, tolerance=tolerance) for x in atoms]
        moved = np.stack([s.projection[0] for s in solved])
        y = np.tensordot(beta / beta.sum(), moved, axes=1)
    return SinkhornBarycenter(y, np.where(beta > 0, [s.error[0] for s in solved], 0.0))
