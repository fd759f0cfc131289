"""Steps of consensus hopping that were tried and not kept, for bench/digits_sweep.py: scope "atom", mirrored
draws, noise of rank 1, directions in the batch's span.

    python bench/hopping_steps.py --data DIR

prints the cosine of each one's drift with the minibatch's gradient, as a mean over the neurons' first layers.
The drift is Σ_p δ_pm ξ_pm, and a method here makes its own δ from the risks of the pairs.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

import cbokernels as cbk
from cbokernels import _cpu, reference
from cbokernels._reference_random import standard_normal, words
from cbokernels.methods.base import Setting, Stepper
from cbokernels.methods.hopping import HoppingStepper

_SIGNS, _DIRECTIONS = 4, 5  # streams of the random numbers, as in docs/HOPPING.md


@dataclasses.dataclass(frozen=True)
class OtherSteps(cbk.ConsensusHopping):
    """weighed: how δ is made of the pairs' risks.

    "rank scaled": rank weights times a neuron's scatter of risks, so that the drift is as long as the
    gradient. "difference": differences of risks, which estimate the gradient. "normalised": these, of length
    1 for each neuron. "solved": δ' with (K + ridge) δ' = δ of the differences, normalised, where K is the
    Gram matrix of a neuron's noise over the draws. The drift then fits the differences as least squares do,
    and draws that point the same way share what they tell. "solved ranks": the same of rank weights.
    """

    weighed: str = "difference"
    ridge: float = 0.02

    def _stepper(self, theta: Any, setting: Any) -> Stepper:
        return _Steps(self, theta, setting)


class _Steps(HoppingStepper):
    def epoch(self, problem: Any, epoch: int, step: int) -> int:
        return Stepper.epoch(self, problem, epoch, step)

    def step(self, batch: Any, step: int) -> int:
        method, center, key = self._method, self.particles[0], self._key(step)
        count, width, noise = method.particles, self._setting.network.width, (1, True)
        risks = np.empty((count, width))
        batch.low_rank_risk(center, count, self._now["spread"], True, key, noise, True, risks)
        delta = self._weights(risks, len(batch.x), key)
        drift = np.empty(center.size)
        batch.low_rank_drift(np.ascontiguousarray(delta), key, noise, True, drift)
        self._gradient[0] = -drift
        self._shrink(self.particles)
        _cpu.adam_update(
            self.particles, self._gradient, self._state["first"], self._state["second"], self._descent(step),
            None, self.particles, self._threads,
        )  # fmt: skip
        return 0

    def _weights(self, risks: Any, samples: int, key: tuple[int, int, int, int]) -> Any:
        """δ [draws, M] of the pairs' risks, in rows that follow each other."""
        method: Any = self._method
        delta = (risks[1::2] - risks[::2]) / len(risks)
        length = np.sqrt((delta**2).sum(axis=0))
        if "rank" in method.weighed:
            _cpu.hopping_weights(risks, True, 0.0, np.empty(risks.shape[1]), self._threads)
            delta = risks[::2] - risks[1::2]
        if method.weighed == "rank scaled":
            return delta * length
        if method.weighed == "difference":
            return delta
        if "solved" in method.weighed:
            grams = self._grams(len(delta), samples, key) + method.ridge * np.eye(len(delta), dtype="f4")
            delta = np.linalg.solve(grams, delta.T[..., None].astype("f4"))[..., 0].T.astype(float)
        return delta / np.maximum(np.sqrt((delta**2).sum(axis=0)), 1e-300)

    def _grams(self, draws: int, samples: int, key: tuple[int, int, int, int]) -> Any:
        """[M, draws, draws], of each neuron's noise: its first layer's over S', and a tenth of the rest."""
        net = self._setting.network
        how = {"seed": key[0], "step": key[2]}
        e = standard_normal(draws, samples, stream=_DIRECTIONS, **how).astype("f4")
        bits = words(draws, 4 * -(-net.width // 32), stream=_SIGNS, **how)
        signs = np.unpackbits(bits.astype("<u4").view(np.uint8), axis=1, bitorder="little")
        a = (1 - 2 * signs[:, : net.width].astype("f4")).T
        first = net.width * net.inputs
        rest = _normals(draws, first // 4, -(-net.size // 4), key)[:, first % 4 :][:, : net.size - first]
        bias, second = rest[:, : net.width], rest[:, net.width :].reshape(draws, net.outputs, net.width)
        own = np.concatenate([bias[:, None], second], axis=1).transpose(2, 0, 1).astype("f4")
        return a[:, :, None] * (e @ e.T / samples) * a[:, None, :] + 0.1 * (own @ own.transpose(0, 2, 1))


def _normals(draws: int, first: int, last: int, key: tuple[int, int, int, int]) -> Any:
    """Normals of the blocks [first, last) of each draw's coordinates."""
    counter = np.zeros((draws, last - first, 4), np.uint32)
    counter[..., 1], counter[..., 2] = key[2], np.arange(draws)[:, None]
    counter[..., 3] = np.arange(first, last)
    words = cbk.philox4x32(counter, np.broadcast_to(np.uint32([key[0], 0]), (*counter.shape[:2], 2)))
    u = (words + 0.5) * 2.0**-32
    length = np.sqrt(-2 * np.log(u[..., ::2]))
    angle = 2 * np.pi * u[..., 1::2]
    return np.stack([length * np.cos(angle), length * np.sin(angle)], axis=-1).reshape(draws, -1)


def cosines(net: cbk.TwoLayer, center: Any, x: Any, y: Any, draws: int, step: int) -> dict[str, float]:
    """By name, at a centre, on a minibatch."""
    key = (9, 0, step, 0)
    xi = reference.hopping_noise(net, draws, rank=1, batch=x, seed=key[0], step=step)
    theta = np.stack([center + 0.1 * xi, center - 0.1 * xi], axis=1).reshape(2 * draws, -1)
    risks = reference.atom_risks(net, center, theta, x, y, loss="cross_entropy")
    gradient = net.unpack(cbk.risk_gradient(net, center[None], x, y, loss="cross_entropy")[1][0])[0]
    noise, found = net.unpack(xi)[0], {}
    for name, ridge in (("rank", 0.0), ("difference", 0.0), ("solved ranks", 0.1), ("solved", 0.02)):
        method: Any = OtherSteps(
            2 * draws, scope="atom", rank=1, directions="batch", weighed=name, ridge=ridge
        )
        steps = method._stepper(center[None].astype("f4"), Setting(key[0], 1, net))
        drift = np.einsum("pm,pmd->md", steps._weights(risks.copy(), len(x), key), noise)
        length = np.linalg.norm(drift, axis=1) * np.linalg.norm(gradient, axis=1)
        found[name] = float((-(drift * gradient).sum(axis=1) / np.maximum(length, 1e-300)).mean())
    return found


def main() -> None:
    from digits import HOPPING, halves

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    (x, y), _ = halves(parser.parse_args().data, "second")
    net = cbk.TwoLayer(x.shape[1], 20, 10)
    for epochs in (3, 20):
        options: Any = {"epochs": epochs, "batch_size": 100, "seed": 5, "weight_decay": 0.1, "num_threads": 1}
        center = cbk.train(net, x, y, HOPPING, **options).parameters.astype(float)
        for batch in range(2):
            rows = np.random.default_rng(batch).choice(len(x), 100, replace=False)
            for draws in (50, 100, 500):
                found = cosines(net, center, x[rows].astype(float), y[rows], draws, epochs)
                told = ", ".join(f"{name} {cosine:.2f}" for name, cosine in found.items())
                print(f"epoch {epochs}, minibatch {batch}, N = {2 * draws}: {told}", flush=True)


if __name__ == "__main__":
    main()
