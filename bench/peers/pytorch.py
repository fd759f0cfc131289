"""Times cbokernels beside PyTorch, eager and compiled, in one run, interleaved.

    pip install torch && python bench/peers/pytorch.py [--rounds 7] [--threads 2] [--items A At B C updates]

Risks, risks with gradients, and updates of the workloads of compare.py, of At (A with tanh) and of C: N=64,
M=4096, d=16, C=1, S=1024, tanh, squared error. PyTorch's risks are batched products over all particles, its
gradients torch.func's vmap(grad(...)), both as they are and through torch.compile. Prints a Markdown table:
medians in milliseconds with their range, how often PyTorch's best time is ours, and the largest relative
difference of the risks.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
from collections.abc import Callable, Iterator

import numpy as np
import torch
from compare import Timings, interleave, workload_a, workload_b

import cbokernels as cbk
from cbokernels import _cpu

Row = tuple[str, str, Timings, float]


def workload_at() -> tuple[cbk.TwoLayer, list[np.ndarray], np.ndarray, np.ndarray]:
    _, _, x, y = workload_a()
    net = cbk.TwoLayer(1, 100, 1, activation="tanh")
    return net, [net.uniform(200, seed=s) for s in range(5)], x, y


def workload_c() -> tuple[cbk.TwoLayer, list[np.ndarray], np.ndarray, np.ndarray]:
    net = cbk.TwoLayer(16, 4096, 1, activation="tanh")
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(1024, 16)).astype(np.float32), rng.normal(size=1024).astype(np.float32)
    return net, [net.uniform(64, seed=s) for s in range(2)], x, y


WORKLOADS = {"A": workload_a, "At": workload_at, "B": workload_b, "C": workload_c}


def network_risk(net: cbk.TwoLayer) -> Callable[..., torch.Tensor]:
    """The risk of one network theta [D] on x [S, d] and y, to be mapped over an ensemble."""
    d, m, c = net.inputs, net.width, net.outputs

    def risk(theta: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        w, b, v = theta.split((m * d, m, c * m))
        z = torch.addmm(b, x, w.view(m, d).T)
        hidden = torch.relu(z) if net.activation == "relu" else torch.tanh(z)
        out = hidden @ v.view(c, m).T / m
        if c > 1:
            return torch.nn.functional.cross_entropy(out, y)
        return torch.square(out[:, 0] - y).mean()

    return risk


def compare(items: list[str], rounds: int, threads: int | None) -> Iterator[Row]:
    """(item, our contestant, timings, largest relative difference of the risks)."""
    for item in (i for i in items if i in WORKLOADS):
        net, ensembles, x, y = WORKLOADS[item]()
        loss = "cross_entropy" if net.outputs > 1 else "mse"
        thetas = [torch.from_numpy(theta) for theta in ensembles]
        tx, ty = torch.from_numpy(x), torch.from_numpy(y.astype(np.int64) if net.outputs > 1 else y)
        one = network_risk(net)
        risks = torch.func.vmap(one, in_dims=(0, None, None))
        gradients = torch.func.vmap(torch.func.grad_and_value(one), in_dims=(0, None, None))
        ours = {
            "risk": lambda i, n=net, e=ensembles, x=x, y=y, k=loss: cbk.risk(
                n, e[i % len(e)], x, y, loss=k, num_threads=threads
            ),
            "risk_gradient": lambda i, n=net, e=ensembles, x=x, y=y, k=loss: cbk.risk_gradient(
                n, e[i % len(e)], x, y, loss=k, num_threads=threads
            ),
        }
        for name, function in (("risk", risks), ("risk_gradient", gradients)):
            contestants = {f"cbk.{name}": ours[name]}
            for form, call in (("eager", function), ("compile", torch.compile(function))):
                contestants[f"PyTorch {form}"] = lambda i, f=call, t=thetas, x=tx, y=ty: f(
                    t[i % len(t)], x, y
                )
            timings = interleave(rounds, contestants, {f"cbk.{name}": 3})
            theirs = function(thetas[0], tx, ty)
            peer = (theirs if name == "risk" else theirs[1]).double().numpy()
            mine = cbk.risk(net, ensembles[0], x, y, loss=loss)
            yield f"{item} {name}", f"cbk.{name}", timings, float(np.abs(mine / peer - 1).max())
    if "updates" in items:
        for item in ("A", "B", "C"):
            net, ensembles, _, _ = WORKLOADS[item]()
            yield f"update {item}", "cbk.cbo_update", update_timings(ensembles[0], rounds, threads), 0.0


def update_timings(start: np.ndarray, rounds: int, threads: int | None) -> Timings:
    """A noisy step of an ensemble in place; the noise is new at each."""
    point = start.mean(axis=0)
    mine, theirs, tensor = start.copy(), torch.from_numpy(start.copy()), torch.from_numpy(point)

    def eager(_: int) -> None:
        delta = theirs - tensor
        theirs.add_(delta.mul_(torch.randn_like(theirs).mul_(0.01).sub_(0.001)))

    compiled = torch.compile(lambda t, p: t + (t - p) * (torch.randn_like(t) * 0.01 - 0.001))
    return interleave(
        rounds,
        {
            "cbk.cbo_update": lambda i: cbk.cbo_update(
                mine, point, drift=0.01, diffusion=0.03, step=i, out=mine, num_threads=threads
            ),
            "PyTorch eager": eager,
            "PyTorch compile": lambda _: compiled(theirs, tensor),
        },
        {"cbk.cbo_update": 3},
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument(
        "--items", nargs="+", default=[*WORKLOADS, "updates"], choices=[*WORKLOADS, "updates"]
    )
    args = parser.parse_args()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    print(
        f"{platform.machine()}, {os.cpu_count()} processors, {args.threads or _cpu.max_threads()} threads, "
        f"{cbk.isa()}, PyTorch {torch.__version__}, cbokernels {cbk.__version__}\n"
    )
    print("| item | contestant | median ms | min-max | ratio | difference |\n|---|---|---|---|---|---|")
    for item, ours, timings, difference in compare(args.items, args.rounds, args.threads):
        middle = {name: statistics.median(values) for name, values in timings.items()}
        best = min(value for name, value in middle.items() if name != ours)
        for name, values in timings.items():
            spread = f"{min(values):.3f}-{max(values):.3f}"
            end = f"{best / middle[ours]:.1f} | {difference:.1e}" if name == ours else "|"
            print(f"| {item} | {name} | {middle[name]:.3f} | {spread} | {end} |", flush=True)


if __name__ == "__main__":
    main()
