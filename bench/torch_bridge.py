"""Training steps of 200 networks in PyTorch, workload A: the bridge, torch.func, a loop of modules.

    pip install torch && python bench/torch_bridge.py [--networks 200] [--rounds 20] [--threads 2]

A step is the risks of all networks, their gradients, and a step of torch.optim.Adam. The forms are timed by
turns and start from the same parameters; the first step's gradients are compared with PyTorch's in float64.
Times are medians, with the smallest and the largest.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import cbokernels as cbk
import cbokernels.torch

sys.path.insert(0, str(Path(__file__).parent / "peers"))
from workloads import Workload, workload

Step = Callable[[], Any]  # one step; returns the gradients [N, D] that it took


def single_risk(work: Workload, theta: Any, x: Any, y: Any) -> Any:
    """Risk of one network theta [D]; samples last, so that they vectorise."""
    w, b, c = work.unpack(theta)
    out = (c.T * torch.relu(w * x[:, 0] + b[:, None])).sum(0) / work.width
    return torch.square(out - y).mean()


def bridge(work: Workload, theta: Any, x: Any, y: Any, threads: int) -> Step:
    net = cbk.TwoLayer(work.inputs, work.width, work.outputs, work.activation)
    theta = theta.clone().requires_grad_()
    optimiser = torch.optim.Adam([theta], lr=1e-3)

    def step() -> Any:
        optimiser.zero_grad()
        cbokernels.torch.risk(net, theta, x, y, num_threads=threads).sum().backward()
        optimiser.step()
        return theta.grad

    return step


def mapped(work: Workload, theta: Any, x: Any, y: Any) -> Step:
    theta = theta.clone().requires_grad_()
    optimiser = torch.optim.Adam([theta], lr=1e-3)
    gradients = torch.func.vmap(torch.func.grad(lambda t, a, b: single_risk(work, t, a, b)), (0, None, None))

    def step() -> Any:
        theta.grad = gradients(theta.detach(), x, y)
        optimiser.step()
        return theta.grad

    return step


def modules(work: Workload, theta: Any, x: Any, y: Any) -> Step:
    net = cbk.TwoLayer(work.inputs, work.width, work.outputs, work.activation)
    made = [net.to_torch(row) for row in theta]
    for module in made:  # the mean-field scaling stays outside, so that all forms have the same parameters
        module[2].weight.data *= work.width
        module[2].register_parameter("bias", None)
    optimiser = torch.optim.Adam([p for module in made for p in module.parameters()], lr=1e-3)

    def step() -> Any:
        optimiser.zero_grad()
        for module in made:
            torch.square(module(x)[:, 0] / work.width - y).mean().backward()
        optimiser.step()
        return torch.stack([torch.cat([p.grad.reshape(-1) for p in module.parameters()]) for module in made])

    return step


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    work = workload("A")
    theta = torch.from_numpy(work.thetas[0][: chosen.networks])
    x, y = (torch.from_numpy(a) for a in work.batch())
    each = torch.func.vmap(torch.func.grad(lambda t: single_risk(work, t, x.double(), y.double())))
    exact = each(theta.double())
    steps = {
        "cbokernels.torch.risk": bridge(work, theta, x, y, chosen.threads),
        "torch.func.vmap(grad)": mapped(work, theta, x, y),
        "loop over modules": modules(work, theta, x, y),
    }
    errors = {name: float((step() - exact).abs().max() / exact.abs().max()) for name, step in steps.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(chosen.rounds):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            times[name].append(1e3 * (time.perf_counter() - began))
    medians = {name: statistics.median(found) for name, found in times.items()}
    print(f"{len(theta)} networks, {cbk.isa()}, {chosen.threads} threads, PyTorch {torch.__version__}\n")
    print("| form | ms a step (smallest, largest) | ratio | error of the gradient |\n|---|---|---|---|")
    for name, found in times.items():
        spread = f"{medians[name]:.2f} ({min(found):.2f}, {max(found):.2f})"
        print(f"| {name} | {spread} | {medians[name] / min(medians.values()):.1f} | {errors[name]:.1e} |")


if __name__ == "__main__":
    main()
