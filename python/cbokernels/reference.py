"""The kernels in plain NumPy float64: the specification in code.

Arrays of any float dtype are taken as float64. Names and arguments are the package's, without out, precision
and num_threads. Nothing is checked here, and nothing is fast.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from . import _cpu
from ._kinds import Loss, loss_of, takes_labels
from ._own_losses import Called
from ._reference_hopping import hopping_noise as hopping_noise
from ._reference_hopping import least_squares_weights as least_squares_weights
from ._reference_hopping import rank_weights as rank_weights
from ._reference_hopping import rounded as rounded
from ._reference_losses import LOSS_SLOPES as LOSS_SLOPES
from ._reference_losses import LOSSES as LOSSES
from ._reference_random import permutation as permutation
from ._reference_random import philox4x32 as philox4x32
from ._reference_random import standard_normal as standard_normal
from ._reference_random import words as words
from ._reference_transport import assign as assign
from ._reference_transport import barycenter as barycenter
from ._reference_transport import sinkhorn as sinkhorn
from ._reference_transport import sinkhorn_barycenter as sinkhorn_barycenter
from ._reference_transport import wasserstein2 as wasserstein2
from ._reference_transport import wasserstein_over_wasserstein as wasserstein_over_wasserstein
from .consensus import Consensus, non_finite
from .errors import CboWarning, ConsensusError
from .network import TwoLayer


def _of_each(function: Callable[[float], float]) -> Callable[[Any], Any]:
    def law(z: Any) -> Any:
        z = np.asarray(z, float)
        return np.fromiter(map(function, z.ravel().tolist()), float, z.size).reshape(z.shape)

    return law


_erf, _erfc = _of_each(math.erf), _of_each(math.erfc)


def _tilted_density(z: Any) -> Any:
    return z * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)


def _logistic(z: Any) -> Any:
    return np.exp(-np.logaddexp(0, -z))


ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "relu": lambda z: np.maximum(z, 0),
    "tanh": np.tanh,
    "sigmoid": _logistic,
    # erfc keeps the negative tail's digits, and is 0 from -40 down
    "gelu": lambda z: np.maximum(z, -40) * 0.5 * _erfc(-z / math.sqrt(2)),
    "softplus": lambda z: np.logaddexp(0, z),
    "identity": lambda z: z,
    "leaky_relu": lambda z: np.where(z > 0, z, 0.01 * z),
    "silu": lambda z: np.maximum(z, -745) * _logistic(z),  # 0 from there down
    "sin": np.sin,
    "erf": _erf,
    "sign": lambda z: np.where(np.isnan(z), z, np.where(z < 0, -1.0, 1.0)),
    "step": lambda z: np.where(np.isnan(z), z, np.where(z < 0, 0.0, 1.0)),
}
DERIVATIVES: dict[str, Callable[[Any], Any]] = {
    "relu": lambda z: np.where(z > 0, 1.0, 0.0),
    "tanh": lambda z: np.exp(2 * (math.log(2) - np.abs(z) - np.log1p(np.exp(-2 * np.abs(z))))),
    "sigmoid": lambda z: np.exp(-np.logaddexp(0, -z) - np.logaddexp(0, z)),
    "gelu": lambda z: 0.5 * _erfc(-z / math.sqrt(2)) + _tilted_density(np.clip(z, -40, 40)),
    "softplus": _logistic,
    "identity": np.ones_like,
    "leaky_relu": lambda z: np.where(z > 0, 1.0, 0.01),
    "silu": lambda z: _logistic(z) * (1 + np.clip(z, -745, 745) * _logistic(-z)),
    "sin": np.cos,
    "erf": lambda z: 2 / math.sqrt(math.pi) * np.exp(-(np.minimum(np.abs(z), 40) ** 2)),
}


def _law(losses: dict[str, Callable[[Any, Any, float], Any]], loss: Loss, outputs: int) -> Callable[..., Any]:
    """(outputs, targets) -> losses, or slopes."""
    told: Any = loss_of(loss, outputs)
    name, parameter = (told, _cpu.LOSSES[told][2]) if isinstance(told, str) else told[:2]
    return lambda g, y: losses[name](g, y if takes_labels(told) else _values(y, g), parameter)


def _values(y: Any, g: Any) -> Any:
    return np.asarray(y, float).reshape(g.shape[-2:])


def _weights(sample_weight: Any, samples: int) -> Any:
    """Weights [S] of sum 1, or all 0."""
    w = np.ones(samples) if sample_weight is None else np.asarray(sample_weight, float)
    return w / (w.sum() or 1.0)


def _layers(net: TwoLayer, theta: Any, x: Any) -> tuple[Any, Any, Any]:
    """What the neurons get [N, S, M], what they make of it, and outputs [N, S, C]."""
    w, b, c, a = net.unpack(np.asarray(theta, float))
    z = np.asarray(x, float) @ np.swapaxes(w, -1, -2) + b[:, None, :]
    hidden = ACTIVATIONS[net.activation](z)
    out = net._scale * (hidden @ np.swapaxes(c, -1, -2))
    return z, hidden, out if a is None else out + a[:, None, :]


def forward(net: TwoLayer, theta: Any, x: Any) -> Any:
    """Outputs [N, S, C] of networks theta [N, D] on inputs x [S, d]."""
    return _layers(net, theta, x)[-1]


def risk(net: TwoLayer, theta: Any, x: Any, y: Any, *, loss: Loss = "mse", sample_weight: Any = None) -> Any:
    """Risks [N]: the losses' mean, by weights [S] where there are any."""
    return task_risks(net, theta, x, np.asarray(y)[None], loss=loss, sample_weight=sample_weight)[:, 0]


def task_risks(
    net: TwoLayer, theta: Any, x: Any, ys: Any, *, loss: Loss = "mse", sample_weight: Any = None
) -> Any:
    """Risks [N, T] on targets ys [T, S], [T, S, C] or labels [T, S] at x [S, d], or each task's own x."""
    ys = np.asarray(ys)
    if np.ndim(x) == 3:
        pairs = zip(x, ys, strict=True)
        options: dict[str, Any] = {"loss": loss, "sample_weight": sample_weight}
        return np.stack([risk(net, theta, own, y, **options) for own, y in pairs], axis=-1)
    g = forward(net, theta, x)
    if isinstance(told := loss_of(loss, net.outputs, ys), Called):
        given = ys if told.labels else ys.reshape(len(ys), -1, net.outputs)
        return np.stack([told.function(g, y) for y in given], axis=-1)
    return np.stack([_mean_loss(g, y, loss, _weights(sample_weight, len(x))) for y in ys], axis=-1)


def _mean_loss(g: Any, y: Any, loss: Loss, weights: Any) -> Any:
    return np.where(weights > 0, _law(LOSSES, loss, g.shape[-1])(g, y), 0) @ weights


def risk_gradient(
    net: TwoLayer, theta: Any, x: Any, y: Any, *, loss: Loss = "mse", sample_weight: Any = None
) -> tuple[Any, Any]:
    """Risks [N] and their gradients [N, D]."""
    theta, x, y = np.asarray(theta, float), np.asarray(x, float), np.asarray(y)
    _, _, c, a = net.unpack(theta)
    z, hidden, g = _layers(net, theta, x)
    weights = _weights(sample_weight, len(x))
    slope = _law(LOSS_SLOPES, loss, net.outputs)(g, y) * weights[:, None]
    delta = net._scale * (slope @ c) * DERIVATIVES[net.activation](z)
    parts = np.swapaxes(delta, -1, -2) @ x, delta.sum(-2), net._scale * (np.swapaxes(slope, -1, -2) @ hidden)
    gradient = net.pack(*parts, None if a is None else slope.sum(-2))
    return _mean_loss(g, y, loss, weights), gradient


def atom_risks(
    net: TwoLayer, center: Any, theta: Any, x: Any, y: Any, *, loss: Loss = "mse", sample_weight: Any = None
) -> Any:
    """Risks [N, M] of center [D] with only neuron m taken from theta[n]."""
    theta, center = np.asarray(theta, float), np.asarray(center, float)
    index = np.append(net._atom_index, np.full(net.size - len(net._atom_index), -1))
    swapped = (np.where(index == m, theta, center) for m in range(net.width))
    options: dict[str, Any] = {"loss": loss, "sample_weight": sample_weight}
    return np.stack([risk(net, networks, x, y, **options) for networks in swapped], axis=1)


def hopping_gradient(
    net: TwoLayer,
    center: Any,
    x: Any,
    y: Any,
    *,
    loss: str = "mse",
    particles: int = 200,
    spread: float = 0.1,
    mirrored: bool = True,
    scope: str = "network",
    rank: int | None = None,
    directions: str = "free",
    drift: str = "mean",
    seed: int,
    step: int = 0,
) -> Any:
    """Minus the drift [D] of a step of `ConsensusHopping` around center [D]: with rank weights, or by least
    squares (of atoms, mirrored, up to 256 pairs)."""
    if drift not in ("mean", "least_squares"):
        raise ValueError(f"drift must be 'mean' or 'least_squares', got {drift!r:.80}")
    draws = particles // 2 if mirrored else particles
    batch = x if directions == "batch" else None
    xi = hopping_noise(net, draws, rank=rank, batch=batch, seed=seed, step=step)
    if drift == "least_squares":
        pairs = center + spread * np.stack([xi, -xi], axis=1).reshape(2 * draws, -1)
        risks = atom_risks(net, center, pairs, x, y, loss=loss)
        found = least_squares_weights(net, risks, rank=rank or 1, batch=batch, seed=seed, step=step)
        return -(found[:, net._atom_index] * xi).sum(axis=0)
    xi = np.concatenate([xi, -xi]) if mirrored else xi
    theta = np.asarray(center, float) + spread * xi
    if scope == "atom":
        weights = rank_weights(atom_risks(net, center, theta, x, y, loss=loss))[:, net._atom_index]
    else:
        weights = rank_weights(risk(net, theta, x, y, loss=loss)[:, None])
    return -((weights - 1 / particles) * xi).sum(axis=0)


def consensus(theta: Any, risk: Any, *, alpha: float = 1e5) -> Consensus:
    """Gibbs weights [N], their mean of theta [N, D] and the effective sample size; risk [N, T]: per task."""
    theta, risk = np.asarray(theta, float), np.asarray(risk, float)
    if risk.ndim == 2:
        parts = [_consensus(theta, column, alpha) for column in risk.T]
        point, weights, ess = (np.stack(part) for part in zip(*parts, strict=True))
        result = Consensus(point, weights.T, ess)
    else:
        result = Consensus(*_consensus(theta, risk, alpha))
    lost = int((~np.isfinite(risk.reshape(len(risk), -1))).any(axis=1).sum())
    if lost:
        warnings.warn(non_finite(lost, len(risk)), CboWarning, stacklevel=2)
    return result


def _consensus(theta: Any, risk: Any, alpha: float) -> tuple[Any, Any, float]:
    finite = np.isfinite(risk)
    if not finite.any():
        raise ConsensusError("no particle has a finite risk")
    with np.errstate(over="ignore"):
        excess = risk[finite] - risk[finite].min()
    weights = np.zeros(len(risk))
    # Neither 0 * inf can occur: alpha = inf leaves exact minima at 1, alpha = 0 every finite risk.
    weights[finite] = np.exp(-np.where(excess > 0, alpha, 0.0) * excess) if alpha > 0 else 1.0
    weights /= weights.sum()
    read = weights > 0  # 0 * NaN must not spread
    return weights[read] @ theta[read], weights, float(1 / (weights**2).sum())


# What normals are multiplied by, of the difference to the point [..., D], its length [..., 1], diffusion,
# floor and radius.
NOISES: dict[str, Callable[..., Any]] = {
    "anisotropic": lambda away, length, diffusion, floor, radius: (
        np.hypot(diffusion * away, floor) if floor else diffusion * away
    ),
    "isotropic": lambda away, length, diffusion, floor, radius: diffusion * length,
    "truncated": lambda away, length, diffusion, floor, radius: diffusion * np.minimum(length, radius),
    "additive": lambda away, length, diffusion, floor, radius: diffusion,
    "none": lambda away, length, diffusion, floor, radius: 0.0,
}


def cbo_update(
    theta: Any,
    point: Any,
    *,
    drift: float = 1.0,
    diffusion: float = 1.6**0.5,
    dt: float = 0.1,
    noise: str = "anisotropic",
    floor: float = 0.0,
    seed: int = 0,
    step: int = 0,
    task: Any = None,
    radius: float | None = None,
    first_particle: int = 0,
) -> Any:
    """Particles [N, D] after one step towards point [D], or point[task] of [T, D]."""
    theta, point = np.asarray(theta, float), np.asarray(point, float)
    difference = theta - (point if task is None else point[np.asarray(task)])
    xi = standard_normal(*theta.shape, seed=seed, step=step, first_particle=first_particle)
    length = np.sqrt((difference**2).sum(-1, keepdims=True))
    spread = NOISES[noise](difference, length, diffusion, floor, radius)
    return theta - drift * dt * difference + spread * math.sqrt(dt) * xi


def adam_update(
    theta: Any,
    gradient: Any,
    first: Any,
    second: Any,
    *,
    step: int = 1,
    lr: float = 0.1,
    beta1: float = 0.9,
    beta2: float = 0.999,
    delta: float = 1e-8,
) -> Any:
    """Particles [N, D] after one step of Adam; the moments [N, D] are updated in place."""
    gradient = np.asarray(gradient, float)
    s = beta1 * np.asarray(first, float) + (1 - beta1) * gradient
    r = beta2 * np.asarray(second, float) + (1 - beta2) * gradient**2
    first[...], second[...] = s, r
    s, r = s / (1 - beta1**step), r / (1 - beta2**step)
    return np.asarray(theta, float) - np.expand_dims(lr, -1) * s / (np.sqrt(r) + delta)


def hybrid_update(
    theta: Any,
    point: Any,
    gradient: Any,
    first: Any,
    second: Any,
    *,
    mix: float = 0.7,
    drift: float = 1.0,
    diffusion: float = 1.2**0.5,
    dt: float = 0.1,
    noise: str = "anisotropic",
    seed: int = 0,
    step: int = 1,
    beta1: float = 0.9,
    beta2: float = 0.999,
    delta: float = 1e-8,
    task: Any = None,
    radius: float | None = None,
    first_particle: int = 0,
) -> Any:
    """Particles [N, D] after Adam's step with lr = mix dt plus 1 - mix times `cbo_update`'s."""
    cbo = cbo_update(
        theta, point, drift=drift, diffusion=diffusion, dt=dt, noise=noise, seed=seed, step=step, task=task,
        radius=radius, first_particle=first_particle,
    )  # fmt: skip
    adam = adam_update(
        theta, gradient, first, second, step=step, lr=mix * dt, beta1=beta1, beta2=beta2, delta=delta
    )
    return adam + (1 - mix) * (cbo - np.asarray(theta, float))


def langevin_step(
    net: TwoLayer,
    theta: Any,
    velocity: Any,
    x: Any,
    y: Any,
    *,
    loss: Loss = "mse",
    friction: float = 1.0,
    temperature: float = 0.0,
    dt: float = 0.1,
    seed: int = 0,
    step: int = 0,
    gradient: Any = None,
) -> Any:
    """Risks [R] after one BAOAB step; theta, velocity and the gradient's buffer [R, D] change in place."""
    q, r = np.asarray(theta, float), np.asarray(velocity, float)
    g = np.asarray(risk_gradient(net, q, x, y, loss=loss)[1] if gradient is None else gradient, float)
    xi = standard_normal(*q.shape, seed=seed, step=step)
    r = r - dt / 2 * net.width * g
    q = q + dt / 2 * r
    r = math.exp(-friction * dt) * r + math.sqrt(temperature * -math.expm1(-2 * friction * dt)) * xi
    q = q + dt / 2 * r
    risks, g = risk_gradient(net, q, x, y, loss=loss)
    theta[...], velocity[...] = q, r - dt / 2 * net.width * g
    if gradient is not None:
        gradient[...] = g
    return risks


def transport_update(
    atoms: Any,
    support: Any,
    match: Any,
    *,
    drift: float = 1.0,
    diffusion: float = 1.2**0.5,
    dt: float = 0.1,
    seed: int = 0,
    step: int = 0,
    first_particle: int = 0,
) -> Any:
    """Atoms [N, M, K] after one step towards support[match]."""
    atoms, support = np.asarray(atoms, float), np.asarray(support, float)
    n, m, k = atoms.shape
    xi = standard_normal(n, m * k, seed=seed, step=step, first_particle=first_particle)
    noise = diffusion * math.sqrt(dt) * xi.reshape(atoms.shape)
    return atoms - drift * dt * (atoms - support[np.asarray(match)]) + noise
