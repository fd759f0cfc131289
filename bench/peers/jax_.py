"""JAX: one jit of the whole ensemble, batched or by lax.map over the particles; gradients by value_and_grad,
mapped either way, and of the summed risks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax import numpy as jnp
from workloads import ALPHA, DT, FLOOR, LAMBDA, SIGMA, SMALL, Contestant, Item, Workload, workload

Function = Callable[..., Any]


def mean_loss(work: Workload, out: Any, y: Any) -> Any:
    """out [..., S, C] -> [...]."""
    if work.outputs == 1:
        return jnp.square(out[..., 0] - y).mean(-1)
    chosen = jnp.take_along_axis(out, jnp.broadcast_to(y, out.shape[:-1])[..., None], -1)[..., 0]
    return (jax.nn.logsumexp(out, axis=-1) - chosen).mean(-1)


def ensemble_risks(work: Workload) -> Function:
    """(theta [N, D], x, y) -> [N]."""
    act = jax.nn.relu if work.activation == "relu" else jnp.tanh
    m = work.width

    def risks(theta: Any, x: Any, y: Any) -> Any:
        n = len(theta)
        w, b, c = work.unpack(theta)
        if work.inputs == work.outputs == 1:
            hidden = act(w * x[:, 0] + b[..., None])
            out = (hidden * c.reshape(n, m, 1)).sum(1)[..., None]
        else:
            hidden = act(x @ w.reshape(n * m, -1).T + b.reshape(-1)).reshape(len(x), n, m)
            out = jnp.einsum("snm,ncm->nsc", hidden, c)
        return mean_loss(work, out / m, y)

    return risks


def single_risk(work: Workload) -> Function:
    """(theta [D], x, y) -> risk of one network; samples last, so that they vectorise."""
    act = jax.nn.relu if work.activation == "relu" else jnp.tanh

    def risk(theta: Any, x: Any, y: Any) -> Any:
        w, b, c = work.unpack(theta)
        hidden = act((w * x[:, 0] if work.inputs == 1 else w @ x.T) + b[:, None])
        return mean_loss(work, (c @ hidden).T / work.width, y)

    return risk


def mapped(function: Function) -> Function:
    """Over the particles, one by one."""
    return lambda theta, x, y: lax.map(lambda t: function(t, x, y), theta)


def forms(work: Workload, kind: str) -> dict[str, Function]:
    batched, single = ensemble_risks(work), single_risk(work)
    if kind == "risk":
        return {"JAX": jax.jit(batched), "JAX map": jax.jit(mapped(single))}
    each = jax.value_and_grad(single)

    def summed(theta: Any, x: Any, y: Any) -> Any:
        def total(t: Any) -> Any:
            risk = batched(t, x, y)
            return risk.sum(), risk

        (_, risk), gradient = jax.value_and_grad(total, has_aux=True)(theta)
        return risk, gradient

    return {
        "JAX grad of the sum": jax.jit(summed),
        "JAX vmap(grad)": jax.jit(jax.vmap(each, (0, None, None))),
        "JAX map of grad": jax.jit(mapped(each)),
    }


def training_epoch(work: Workload) -> Function:
    """(theta, x, y, key) -> theta after an epoch, all in one jit."""
    risks = ensemble_risks(work) if work.inputs > 1 else mapped(single_risk(work))
    batches = len(work.x) // work.samples

    def step(carry: Any, rows: Any) -> Any:
        theta, x, y, key = carry
        key, own = jax.random.split(key)
        weights = jax.nn.softmax(-ALPHA * risks(theta, x[rows], y[rows]))
        away = theta - weights @ theta
        noise = jax.random.normal(own, theta.shape) * jnp.sqrt(SIGMA**2 * DT * away * away + FLOOR**2 * DT)
        return (theta - LAMBDA * DT * away + noise, x, y, key), None

    def epoch(theta: Any, x: Any, y: Any, key: Any) -> Any:
        key, own = jax.random.split(key)
        order = jax.random.permutation(own, len(x)).reshape(batches, -1)
        return lax.scan(step, (theta, x, y, key), order)[0][0]

    return jax.jit(epoch)


def update(work: Workload) -> Contestant:
    def move(theta: Any, point: Any, key: Any, strength: Any) -> Any:
        key, own = jax.random.split(key)
        return theta + (theta - point) * (jax.random.normal(own, theta.shape) * strength - SMALL[0]), key

    compiled = jax.jit(move, donate_argnums=0)
    point = jnp.asarray(work.thetas[0].mean(axis=0))
    state = [jnp.array(work.thetas[0]), jax.random.key(1)]

    def call(_: int) -> Any:
        state[:] = compiled(state[0], point, state[1], SMALL[1])
        return state[0].block_until_ready()

    def check() -> Any:
        return compiled(jnp.array(work.thetas[0]), point, jax.random.key(1), 0.0)[0]

    return Contestant(call, check, in_place=True)


def contestants(item: Item, threads: int) -> dict[str, Contestant]:
    if item.kind == "assign":
        return {}
    work = workload(item.workload, whole_epoch=item.kind == "step")
    if item.kind == "update":
        return {"JAX": update(work)}
    thetas = [jnp.asarray(theta) for theta in work.thetas]
    if item.kind == "step":
        x, y, epoch = jnp.asarray(work.x), jnp.asarray(work.y), training_epoch(work)

        def run(turn: int) -> Any:
            return epoch(thetas[turn % len(thetas)], x, y, jax.random.key(turn)).block_until_ready()

        return {"JAX": Contestant(run, units=len(work.x) // work.samples)}
    if item.kind == "consensus":
        risk, (alpha,) = [jnp.asarray(r, jnp.float32) for r in work.risks()], item.setting
        point = jax.jit(lambda theta, risk: jax.nn.softmax(-alpha * risk) @ theta)

        def consensus(turn: int) -> Any:
            return point(thetas[turn % len(thetas)], risk[turn % 8]).block_until_ready()

        return {"JAX": Contestant(consensus)}
    x, y = (jnp.asarray(a) for a in work.batch())
    return {
        name: Contestant(lambda i, f=function: jax.block_until_ready(f(thetas[i % len(thetas)], x, y)))  # type: ignore[misc]
        for name, function in forms(work, item.kind).items()
    }
