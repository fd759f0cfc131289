"""What a run asks of CUDA's runtime, counted on the emulation: launches decide where steps are small."""

from __future__ import annotations

import numpy as np
import pytest

import cbokernels as cbk

STEPS = 10  # an epoch


def later_epochs(module, net, method, samples=60, batch=6, counts=(2, 4)):
    """What epochs 3 and 4 of a run ask for: the calls of four epochs less those of two."""
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(samples, net.inputs))
    y = np.sin(2 * np.pi * x[:, 0])
    seen = [module.counts()]
    for count in counts:
        cbk.train(net, x, y, method, epochs=count, batch_size=batch, device="cuda")
        seen.append(module.counts())
    return {name: seen[2][name] - 2 * seen[1][name] + seen[0][name] for name in seen[0]}


@pytest.fixture
def hopper(emulated):
    """The emulated module as a card whose kernels can be chained."""
    emulated.module.set_capability(9)
    yield emulated.module
    emulated.module.set_capability(8)


def test_an_epoch_of_the_sine(hopper):
    """Workload A: x and y gathered, a step's two kernels, the point's risk by two, beside the spread's three.

    With fewer particles: as long as an ensemble is small their number changes nothing here.
    """
    method = cbk.CBO(10, alpha=1e5, diffusion=1.6**0.5)
    before = hopper.counts()["chained"]
    calls = later_epochs(hopper, cbk.TwoLayer(1, 100, 1), method, samples=8000, batch=800, counts=(1, 2))
    nodes = 1 + 2 * STEPS + 2 + 3 + 1
    assert calls == {
        "allocations": 0,
        "instantiations": 0,
        "graph_launches": 1,
        "graph_nodes": nodes,
        "kernels": nodes,
        "copies_to_device": 1,
        "copies_to_host": 2,  # the row of history, and the point, which may be the best
        "chained": 0,
    }
    # two runs, whose steps are enqueued once and captured for each of two forms of the noise
    assert hopper.counts()["chained"] - before == 2 * 3 * 2 * STEPS


FLOORED = cbk.CBO(6, alpha=50.0, floor=lambda epoch, epochs: 0.1 * (epoch == 2))
METHODS = [
    cbk.CBO(6, alpha=50.0), FLOORED, cbk.CBO(9, alpha=cbk.TargetEss(0.6), particle_batch=5),
    cbk.CBO(6, noise="isotropic", diffusion=lambda epoch, epochs: 1.0 * (epoch != 2)),
    cbk.Adam(3), cbk.Hybrid(6, alpha=50.0), cbk.HeavyBall(particles=2), cbk.ConsensusHopping(10),
    cbk.GradientFlow(particles=2, temperature=lambda epoch, epochs: 0.1 * (epoch == 2)),
    cbk.TransportCBO(6, alpha=5.0, diffusion=cbk.Geometric(0.4, 0.5), exact_variance=True),
]  # fmt: skip


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_a_run_that_has_started_takes_no_memory(emulated, method):
    """Nor is a graph made, also where the law of the noise changes."""
    calls = later_epochs(emulated.module, cbk.TwoLayer(2, 5, 1, "tanh"), method)
    assert (calls["allocations"], calls["instantiations"]) == (0, 0)
    assert (calls["graph_launches"], calls["copies_to_device"], calls["copies_to_host"]) == (2, 2, 4)


def test_an_epoch_of_several_graphs(emulated):
    """Each has its copy: 64 steps fit into one."""
    method = cbk.CBO(3, alpha=1.0, floor=1.0, particle_batch=2)
    calls = later_epochs(emulated.module, cbk.TwoLayer(2, 5, 1, "tanh"), method, samples=132, batch=2)
    assert (calls["graph_launches"], calls["copies_to_device"], calls["copies_to_host"]) == (4, 4, 4)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_branches_of_a_graph_run_in_any_order(hopper, order):
    """The point's risk has several parts here, and so has the spread: neither may use the other's memory."""
    net = cbk.TwoLayer(1, 4, 1)
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(2100, 1))

    def run():
        return cbk.train(net, x, x[:, 0], cbk.CBO(40, alpha=50.0), epochs=3, batch_size=700, device="cuda")

    expected = run()
    try:
        hopper.set_order(order)
        result = run()
    finally:
        hopper.set_order(0)
    np.testing.assert_array_equal(result.particles, expected.particles)
    for name in ("risk", "variance", "ess"):
        np.testing.assert_array_equal(result.history[name], expected.history[name])
