"""The library under test."""

from __future__ import annotations

from typing import Any

from workloads import ALPHA, DT, FLOOR, LAMBDA, SIGMA, SMALL, Array, Contestant, Item, Workload
from workloads import measures as transport
from workloads import workload as data

import cbokernels as cbk


def network(work: Workload) -> cbk.TwoLayer:
    return cbk.TwoLayer(work.inputs, work.width, work.outputs, activation=work.activation)


def contestants(item: Item, threads: int) -> dict[str, Contestant]:
    cbk.standard_normal(
        64 * threads, 64, seed=0, num_threads=threads
    )  # the threads' own memory is not an item's
    if item.kind == "assign":
        atoms, support = transport(*item.setting)
        return {
            "cbokernels": Contestant(
                lambda i: cbk.assign(atoms[i % 3], support, num_threads=threads),
                lambda: cbk.assign(atoms[0], support, num_threads=threads).cost,
            )
        }
    work = data(item.workload, whole_epoch=item.kind == "step")
    net, (x, y), thetas = network(work), work.batch(), work.thetas
    loss = "cross_entropy" if work.outputs > 1 else "mse"
    if item.kind in ("risk", "gradient"):
        kernel: Any = cbk.risk if item.kind == "risk" else cbk.risk_gradient
        return {
            "cbokernels": Contestant(
                lambda i: kernel(net, thetas[i % len(thetas)], x, y, loss=loss, num_threads=threads)
            )
        }
    if item.kind == "step":
        return {"cbokernels": steps(work, net, threads)}
    if item.kind == "update":
        return {"cbokernels": update(thetas[0], threads)}
    risk, (alpha,) = work.risks(), item.setting

    def consensus(turn: int) -> cbk.Consensus:
        theta = thetas[turn % len(thetas)]
        return cbk.consensus(theta, risk[turn % 8], alpha=alpha, num_threads=threads)

    return {"cbokernels": Contestant(consensus, lambda: consensus(0).point)}


def steps(work: Workload, net: cbk.TwoLayer, threads: int) -> Contestant:
    """`train` from call to result by its steps: shuffling and an epoch's risk on all data count."""
    method = cbk.CBO(alpha=ALPHA, drift=LAMBDA, diffusion=SIGMA, dt=DT, floor=FLOOR)
    epochs, batches = (20 if work.outputs == 1 else 1), len(work.x) // work.samples

    def call(turn: int) -> Array:
        particles: Array = cbk.train(
            net, work.x, work.y, method, epochs=epochs, batch_size=work.samples, seed=turn,
            theta=work.thetas[turn % len(work.thetas)], num_threads=threads,
        ).particles  # fmt: skip
        return particles

    return Contestant(call, units=epochs * batches)


def update(start: Array, threads: int) -> Contestant:
    theta, point = start.copy(), start.mean(axis=0)

    def move(particles: Array, step: int, diffusion: float) -> Array:
        return cbk.cbo_update(
            particles, point, drift=SMALL[0] / DT, diffusion=diffusion, dt=DT, step=step, out=particles,
            num_threads=threads,
        )  # fmt: skip

    strength = SMALL[1] / DT**0.5
    return Contestant(lambda i: move(theta, i, strength), lambda: move(start.copy(), 0, 0.0), in_place=True)
