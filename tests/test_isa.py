"""Every instruction set that is compiled in and usable here, forced in turn in a process of its own."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import subprocess
import sys

import pytest

import cbokernels as cbk
from cbokernels._kinds import ACTIVATIONS, LOSSES

BATTERY = """
import hashlib, json
import numpy as np
import cbokernels as cbk
from cbokernels import reference
from cbokernels._kinds import ACTIVATIONS, LOSSES
from losses import fits, targets

def digest(*arrays):
    return hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()

bits, errors = {}, {}
for dtype in ("float32", "float64"):
    rng = np.random.default_rng(0)
    normals = cbk.standard_normal(301, 1003, seed=7, step=3, first_particle=11, dtype=dtype)
    bits["normals " + dtype] = digest(normals)
    net = cbk.TwoLayer(inputs=5, width=33, outputs=3)
    bits["uniform " + dtype] = digest(net.uniform(9, seed=1, dtype=dtype))
    theta, point = rng.normal(size=(7, 333)).astype(dtype), rng.normal(size=333).astype(dtype)
    bits["update " + dtype] = digest(cbk.cbo_update(theta, point, seed=5))
    bits["floor " + dtype] = digest(cbk.cbo_update(theta, point, seed=5, floor=0.1))
    bits["additive " + dtype] = digest(cbk.cbo_update(theta, point, seed=5, noise="additive"))
    bits["best " + dtype] = digest(cbk.consensus(theta, rng.random(7), alpha=np.inf).point)
    for kind in ("isotropic", "none"):
        result = cbk.cbo_update(theta, point, seed=5, noise=kind)
        expected = reference.cbo_update(theta, point, seed=5, noise=kind)
        errors[f"{kind} {dtype}"] = float(np.abs(result - expected).max() / np.abs(expected).max())
    weighted = cbk.consensus(theta, rng.random(7), alpha=2.0)
    difference = weighted.point - weighted.weights @ theta.astype(float)
    errors["consensus " + dtype] = float(np.abs(difference).max())
    for activation in ACTIVATIONS:
        for shape in ((1, 100, 1), (5, 33, 3), (70, 17, 10), (2, 1, 1)):
            for loss in LOSSES:
                d, _, c = shape
                if not fits(loss, c):
                    continue
                net = cbk.TwoLayer(*shape, activation=activation, scaling="none", output_bias=True)
                theta = rng.uniform(-1, 1, (5, net.size)).astype(dtype)
                x = rng.normal(size=(77, d)).astype(dtype)
                y = targets(rng, loss, (77,), c, dtype)
                expected = reference.risk(net, theta, x, y, loss=loss)
                result = cbk.risk(net, theta, x, y, loss=loss)
                scale = max(1.0, np.abs(expected).max())
                case = f"{activation} {shape} {loss} {dtype}"
                errors[case] = float(np.abs(result - expected).max() / scale)
    net = cbk.TwoLayer(300, 20, 3)  # skips zeros
    theta = net.uniform(256, seed=1, dtype=dtype)
    x = (rng.normal(size=(40, 300)) * (rng.random((40, 300)) < 0.05)).astype(dtype)
    y = rng.integers(0, 3, 40)
    expected = reference.risk(net, theta, x, y, loss="cross_entropy")
    result = cbk.risk(net, theta, x, y, loss="cross_entropy")
    errors["lists " + dtype] = float(np.abs(result - expected).max())
counters = np.arange(4000, dtype=np.uint32).reshape(-1, 4)
bits["philox"] = digest(cbk.philox4x32(counters, np.array([1, 2], np.uint32)))
print(json.dumps({"isa": cbk.isa(), "bits": bits, "errors": errors}))
"""


def run(isa, code=BATTERY):
    paths = os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "CBOKERNELS_ISA": isa, "PYTHONPATH": paths}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)


@functools.cache
def battery(isa):
    """What an instruction set computes."""
    process = run(isa)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


@pytest.fixture(scope="module")
def baseline():
    """What the first compiled instruction set computes."""
    return battery(cbk.isas()[0])


def test_the_one_in_use_is_among_those_compiled():
    assert cbk.isas()
    assert len(set(cbk.isas())) == len(cbk.isas())
    wanted = os.environ.get("CBOKERNELS_ISA")
    assert cbk.isa() == (wanted or cbk.isas()[-1])


@pytest.mark.parametrize("isa", cbk.isas())
def test_forced_instruction_set_runs(isa, baseline):
    result = battery(isa)
    assert result["isa"] == isa
    assert result["bits"] == baseline["bits"]
    assert len(result["errors"]) == 2 * (4 + len(ACTIVATIONS) * (4 * len(LOSSES) - 2))  # one is of one output
    limits = {"float32": 3e-6, "float64": 1e-12}
    wrong = {case: e for case, e in result["errors"].items() if not e < limits[case.split()[-1]]}
    assert not wrong


def test_this_process_has_the_same_bits(baseline):
    normals = cbk.standard_normal(301, 1003, seed=7, step=3, first_particle=11)
    assert hashlib.sha256(normals.tobytes()).hexdigest() == baseline["bits"]["normals float32"]


def test_unknown_instruction_sets_are_named():
    process = run("sse9", "import cbokernels")
    assert process.returncode != 0
    last = process.stderr.strip().splitlines()[-1]
    assert last.startswith(("ImportError", "ValueError")), last
    assert "CBOKERNELS_ISA" in last
    assert "sse9" in last
    assert all(isa in last for isa in cbk.isas())
