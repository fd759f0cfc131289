"""Risks, gradients and steps as a good user of PyTorch, JAX and CuPy would write them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import cbokernels as cbk

Call = Callable[[int], object]


def parts(net: cbk.TwoLayer, theta: Any) -> tuple[Any, Any, Any]:
    """w [N, M, d], b [N, M], c [N, C, M] as views."""
    n, m, d = len(theta), net.width, net.inputs
    return (
        theta[:, : m * d].reshape(n, m, d),
        theta[:, m * d : m * (d + 1)],
        theta[:, m * (d + 1) :].reshape(n, -1, m),
    )


def torch_risk(net: cbk.TwoLayer, dtype: torch.dtype = torch.float32) -> Callable[..., torch.Tensor]:
    """Risks [N] of theta [N, D]: all first layers as one product, the second batched."""
    activation = torch.relu if net.activation == "relu" else torch.tanh

    def risk(theta: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        w, b, c = (part.to(dtype) for part in parts(net, theta))
        n, m = b.shape
        hidden = activation(torch.addmm(b.reshape(-1), x.to(dtype), w.reshape(n * m, -1).T))
        out = torch.bmm(c, hidden.reshape(-1, n, m).permute(1, 2, 0)).float() / m  # [N, C, S]
        if net.outputs > 1:
            return torch.nn.functional.cross_entropy(out, y.expand(n, -1), reduction="none").mean(1)
        return torch.square(out[:, 0] - y).mean(1)

    return risk


def torch_gradient(net: cbk.TwoLayer) -> Callable[..., Any]:
    """Risks and gradients, by reverse mode through the batched risk (particles do not meet in it)."""
    risk = torch_risk(net)

    def gradient(theta: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> Any:
        theta = theta.detach().requires_grad_()
        risks = risk(theta, x, y)
        return risks, torch.autograd.grad(risks.sum(), theta)[0]

    return gradient


def torch_step(net: cbk.TwoLayer, theta: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> Call:
    """A whole step of CBO, in place; x and y are the epoch's batches [k, S, ...]."""
    risk = torch_risk(net)

    def step(i: int) -> torch.Tensor:
        r = risk(theta, x[i % len(x)], y[i % len(y)])
        weights = torch.softmax(-1e5 * r.double(), 0).float()
        delta = theta - weights @ theta
        theta.add_(delta * (0.4 * torch.randn_like(theta) - 0.1))
        return r

    return step


def torch_update(theta: torch.Tensor, point: torch.Tensor) -> Call:
    """The noisy step alone, in place."""

    def update(_: int) -> torch.Tensor:
        delta = theta - point
        return theta.add_(delta * (0.03 * torch.randn_like(theta) - 0.001))

    return update


def jax_risk(net: cbk.TwoLayer, ensembles: list[Any], x: Any, y: Any, *, gradient: bool) -> Call:
    """Compiled by XLA; arrays are NumPy's and are moved once. ImportError without JAX on a card."""
    import jax
    import jax.numpy as jnp

    if jax.default_backend() == "cpu":
        raise ImportError("JAX has no card here")
    activation = jax.nn.relu if net.activation == "relu" else jnp.tanh
    jax.config.update("jax_default_matmul_precision", "highest")

    def risk(theta: Any, x: Any, y: Any) -> Any:
        w, b, c = parts(net, theta)
        n, m = b.shape
        hidden = activation(x @ w.reshape(n * m, -1).T + b.reshape(-1)).reshape(-1, n, m)
        out = jnp.einsum("ncm,snm->nsc", c, hidden) / m
        if net.outputs > 1:
            logits = jax.nn.log_softmax(out)
            return -jnp.take_along_axis(logits, y[None, :, None], 2)[..., 0].mean(1)
        return jnp.square(out[..., 0] - y).mean(1)

    def both(theta: Any, x: Any, y: Any) -> Any:
        return jax.value_and_grad(lambda t: risk(t, x, y).sum())(theta)

    call = jax.jit(both if gradient else risk)
    thetas, x, y = [jax.device_put(t) for t in ensembles], jax.device_put(x), jax.device_put(y)
    # device events do not see another library's stream: each call is waited for
    return lambda i: jax.block_until_ready(call(thetas[i % len(thetas)], x, y))


def cupy_risk(net: cbk.TwoLayer, ensembles: list[Any], x: Any, y: Any) -> Call:
    """Array by array. ImportError without CuPy on a card."""
    import cupy

    if not cupy.is_available():
        raise ImportError("CuPy has no card here")
    thetas, x, y = [cupy.asarray(t) for t in ensembles], cupy.asarray(x), cupy.asarray(y)
    rows = cupy.arange(len(x))

    def risk(i: int) -> Any:
        w, b, c = parts(net, thetas[i % len(thetas)])
        n, m = b.shape
        hidden = x @ w.reshape(n * m, -1).T
        hidden += b.reshape(-1)
        hidden = (
            cupy.maximum(hidden, 0, out=hidden) if net.activation == "relu" else cupy.tanh(hidden, out=hidden)
        )
        out = cupy.matmul(hidden.reshape(-1, n, m).transpose(1, 0, 2), c.transpose(0, 2, 1)) / m
        if net.outputs > 1:
            out -= out.max(axis=2, keepdims=True)
            return (cupy.log(cupy.exp(out).sum(axis=2)) - out[:, rows, y]).mean(axis=1)
        return cupy.square(out[..., 0] - y).mean(axis=1)

    def waited(i: int) -> Any:
        result = risk(i)
        cupy.cuda.get_current_stream().synchronize()
        return result

    return waited
