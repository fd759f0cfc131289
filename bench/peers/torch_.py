"""PyTorch: batched products over all particles, torch.func's vmap(grad(...)), the gradient of the summed
risks (a particle's risk depends on no other), and for wide networks a loop of particles; eager and compiled.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from workloads import ALPHA, DT, FLOOR, LAMBDA, SIGMA, SMALL, Contestant, Item, Workload, workload

os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # no processes beside this one
import torch
from torch.nn import functional

Function = Callable[..., Any]


def ensemble_risks(work: Workload) -> Function:
    """(theta [N, D], x, y) -> [N]."""
    act = torch.relu if work.activation == "relu" else torch.tanh
    m = work.width

    def risks(theta: Any, x: Any, y: Any) -> Any:
        n = len(theta)
        w, b, c = work.unpack(theta)
        if work.inputs == work.outputs == 1:  # compiled, one fused loop that stores no activations
            hidden = act(w * x[:, 0] + b[..., None])
            out = (hidden * c.reshape(n, m, 1)).sum(1)[..., None]
        elif work.outputs > 1:  # all first layers are one product
            hidden = act(x @ w.reshape(n * m, -1).T + b.reshape(-1)).view(len(x), n, m)
            out = hidden.transpose(0, 1) @ c.transpose(1, 2)
        else:
            hidden = act(torch.baddbmm(b[:, None, :], x.expand(n, *x.shape), w.transpose(1, 2)))
            out = hidden @ c.transpose(1, 2)
        out = out / m
        if work.outputs == 1:
            return torch.square(out[..., 0] - y).mean(1)
        chosen = out.gather(2, y.expand(n, -1)[..., None])[..., 0]
        return (out.logsumexp(2) - chosen).mean(1)

    return risks


def single_risk(work: Workload) -> Function:
    """(theta [D], x, y) -> risk of one network, to be mapped over an ensemble; samples last, so that they
    vectorise."""
    act = torch.relu if work.activation == "relu" else torch.tanh

    def risk(theta: Any, x: Any, y: Any) -> Any:
        w, b, c = work.unpack(theta)
        if work.inputs == work.outputs == 1:
            out = (c.T * act(w * x[:, 0] + b[:, None])).sum(0, keepdim=True)
        else:
            out = c @ act(torch.addmm(b[:, None], w, x.T))
        out = out / work.width
        return functional.cross_entropy(out.T, y) if work.outputs > 1 else torch.square(out[0] - y).mean()

    return risk


def one_by_one(function: Function) -> Function:
    """A loop over the particles: a network's activations stay in cache."""

    def call(theta: Any, x: Any, y: Any) -> Any:
        results = [function(t, x, y) for t in theta]
        if isinstance(results[0], tuple):
            return tuple(torch.stack(part) for part in zip(*results, strict=True))
        return torch.stack(results)

    return call


def forms(work: Workload, kind: str) -> dict[str, Function]:
    batched, single = ensemble_risks(work), single_risk(work)
    wide = work.width >= 1000
    if kind == "risk":
        found = {"PyTorch eager": batched, "PyTorch compile": torch.compile(batched)}
        if wide:
            found["PyTorch eager loop"] = one_by_one(single)
            found["PyTorch compile loop"] = one_by_one(torch.compile(single))
        return found
    each = torch.func.grad_and_value(single)
    mapped = torch.func.vmap(each, in_dims=(0, None, None))

    def summed(theta: Any, x: Any, y: Any) -> Any:
        def total(t: Any) -> Any:
            risk = batched(t, x, y)
            return risk.sum(), risk

        return torch.func.grad(total, has_aux=True)(theta)

    found = {
        "PyTorch eager vmap(grad)": mapped,
        "PyTorch compile vmap(grad)": torch.compile(mapped),
        "PyTorch compile grad of the sum": torch.compile(summed),
    }
    if wide:
        found["PyTorch compile loop"] = one_by_one(torch.compile(each))
    return found


def noisy_step(work: Workload) -> Function:
    """One training step: (theta, x, y, rows of the batch) -> theta."""
    risks = ensemble_risks(work)

    def step(theta: Any, x: Any, y: Any, rows: Any) -> Any:
        weights = torch.softmax(-ALPHA * risks(theta, x[rows], y[rows]), 0)
        away = theta - weights @ theta
        noise = torch.randn_like(theta) * torch.sqrt(SIGMA**2 * DT * away * away + FLOOR**2 * DT)
        return theta - LAMBDA * DT * away + noise

    return step


def steps(work: Workload) -> dict[str, Contestant]:
    x, y = torch.from_numpy(work.x), torch.from_numpy(work.y)
    step, batches = noisy_step(work), len(work.x) // work.samples

    def epoch(function: Function) -> Callable[[int], Any]:
        def call(turn: int) -> Any:
            theta = torch.from_numpy(work.thetas[turn % len(work.thetas)])
            for rows in torch.randperm(len(x)).view(batches, -1):
                theta = function(theta, x, y, rows)
            return theta

        return call

    both = {"PyTorch eager": step, "PyTorch compile": torch.compile(step)}
    return {name: Contestant(epoch(function), units=batches) for name, function in both.items()}


def updates(work: Workload) -> dict[str, Contestant]:
    theta = torch.from_numpy(work.thetas[0].copy())
    point = torch.from_numpy(work.thetas[0].mean(axis=0))

    def eager(t: Any, p: Any, strength: float) -> Any:
        return t.add_((t - p).mul_(torch.randn_like(t).mul_(strength).sub_(SMALL[0])))

    def plain(t: Any, p: Any, strength: float) -> Any:
        return t.copy_(t + (t - p) * (torch.randn_like(t) * strength - SMALL[0]))

    return {
        name: Contestant(
            lambda _, f=function: f(theta, point, SMALL[1]),  # type: ignore[misc]
            lambda f=function: f(torch.from_numpy(work.thetas[0].copy()), point, 0.0),  # type: ignore[misc]
            in_place=True,
        )
        for name, function in {"PyTorch eager": eager, "PyTorch compile": torch.compile(plain)}.items()
    }


def contestants(item: Item, threads: int) -> dict[str, Contestant]:
    torch.set_num_threads(threads)
    torch._dynamo.reset()
    if item.kind == "assign":
        return {}
    work = workload(item.workload, whole_epoch=item.kind == "step")
    if item.kind == "step":
        return steps(work)
    if item.kind == "update":
        return updates(work)
    thetas = [torch.from_numpy(theta) for theta in work.thetas]
    if item.kind == "consensus":
        risk, (alpha,) = [torch.from_numpy(r) for r in work.risks()], item.setting
        return {
            "PyTorch eager": Contestant(
                lambda i: torch.softmax(-alpha * risk[i % 8], 0).float() @ thetas[i % len(thetas)]
            )
        }
    x, y = (torch.from_numpy(a) for a in work.batch())
    order = (lambda r: (r[1], r[0])) if item.kind == "gradient" else (lambda r: r)  # risk before gradient
    return {
        name: Contestant(lambda i, f=function: order(f(thetas[i % len(thetas)], x, y)))  # type: ignore[misc]
        for name, function in forms(work, item.kind).items()
    }
