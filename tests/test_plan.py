"""What the planner says, and that it is what runs."""

from __future__ import annotations

import re

import numpy as np
import pytest

import cbokernels as cbk


@pytest.mark.parametrize(
    ("net", "arguments", "path"),
    [
        (cbk.TwoLayer(1, 100, 1), {}, "knots"),
        (cbk.TwoLayer(1, 100, 1), {"dtype": "float64"}, "direct"),
        (cbk.TwoLayer(1, 100, 1, activation="tanh"), {}, "direct"),
        (cbk.TwoLayer(1, 100, 1), {"loss": "cross_entropy"}, "direct"),
        (cbk.TwoLayer(8, 100, 1), {}, "direct"),
        (cbk.TwoLayer(48, 100, 1), {}, "direct"),
        (cbk.TwoLayer(49, 100, 1), {}, "products"),
        (cbk.TwoLayer(784, 20, 10), {"density": 1.0}, "products"),
        (cbk.TwoLayer(784, 20, 10), {"density": 0.19}, "lists"),
        (cbk.TwoLayer(784, 20, 10), {"density": 0.9}, "products"),
    ],
)
def test_paths(net, arguments, path):
    assert cbk.plan(net, 1000, 800, **arguments).path == path


def named_number(net, particles, samples, **more):
    """The number in the reason."""
    reason = cbk.plan(net, particles, samples, **more).reason
    return float(re.findall(r"\d+(?:\.\d+)?", reason)[-1])


@pytest.mark.parametrize("tasks", [1, 3])
@pytest.mark.parametrize("samples", [16, 5000])
def test_the_reason_names_the_number_of_samples_from_which_knots_pay(samples, tasks):
    net = cbk.TwoLayer(1, 100, 1)
    border = int(named_number(net, 200, samples, tasks=tasks))
    assert 16 < border < 5000
    assert cbk.plan(net, 200, border, tasks=tasks).path == "knots"
    assert cbk.plan(net, 200, border - 1, tasks=tasks).path == "direct"


@pytest.mark.parametrize("density", [0.1, 0.9])
def test_the_reason_names_the_density_below_which_lists_pay(density):
    net = cbk.TwoLayer(784, 20, 10)
    border = named_number(net, 1000, 800, density=density)
    assert cbk.plan(net, 1000, 800, density=border - 0.001).path == "lists"
    assert cbk.plan(net, 1000, 800, density=border + 0.001).path == "products"


def test_the_reason_names_the_number_of_particles_from_which_lists_pay():
    net = cbk.TwoLayer(784, 20, 10)
    border = int(named_number(net, 8, 800, density=0.1))
    assert cbk.plan(net, border, 800, density=0.1).path == "lists"
    assert cbk.plan(net, border - 1, 800, density=0.1).path == "products"


@pytest.mark.parametrize(
    ("net", "reason"),
    [
        (cbk.TwoLayer(1, 3, 1), "so few neurons sums between knots cost more"),
        (cbk.TwoLayer(8, 100, 1), "at most 48 inputs, samples stay in registers"),
        (cbk.TwoLayer(49, 100, 1), "so few inputs or neurons skipping zeros costs more than products"),
    ],
)
def test_reasons(net, reason):
    assert reason in cbk.plan(net, 1, 1000).reason


def test_few_samples_are_not_worth_a_sort_of_knots():
    assert cbk.plan(cbk.TwoLayer(1, 100, 1), 200, 16).path == "direct"


def test_few_particles_do_not_fill_lists():
    assert cbk.plan(cbk.TwoLayer(784, 20, 10), 8, 1000, density=0.1).path == "products"


@pytest.mark.parametrize("samples", [512, 960, 8000])
def test_a_wide_batch_of_one_network_is_packed_in_pieces_for_several_threads(samples):
    assert cbk.plan(cbk.TwoLayer(784, 100, 10), 1, samples, loss="cross_entropy").samples <= samples // 8


def test_lists_are_what_runs():
    """A skipped zero hides an infinite weight, a multiplied one does not."""
    net = cbk.TwoLayer(400, 20, 1)
    theta, x, y = net.uniform(512, seed=1), np.zeros((50, 400), np.float32), np.zeros(50, np.float32)
    theta[:, 7] = np.inf
    for share in (0.1, 0.9):
        x[:, 10 : 10 + int(400 * share)] = 1
        skipped = cbk.plan(net, 512, 50, density=float((x != 0).mean())).path == "lists"
        assert np.isfinite(cbk.risk(net, theta, x, y)).all() == skipped
        x[:] = 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"particles": 0}, "particles"),
        ({"samples": 0}, "samples"),
        ({"tasks": 0}, "tasks"),
        ({"tasks": 2**31}, r"tasks must be an integer in \[1, 2\^31\)"),
        ({"density": 1.5}, "density"),
        ({"loss": "l1"}, "loss"),
    ],
)
def test_bad_arguments(change, message):
    arguments = {"particles": 3, "samples": 5, **change}
    with pytest.raises(ValueError, match=message):
        cbk.plan(cbk.TwoLayer(1, 2, 1), **arguments)


DIGITS = cbk.ConsensusHopping(scope="atom", rank=1, directions="batch", drift="mean")


@pytest.mark.parametrize(
    ("width", "changes", "billions"),
    [
        (20, {}, 30),
        (100, {}, 102),
        (20, {"scope": "network", "directions": "free"}, 36),
    ],
)
def test_multiply_adds_of_hopping(width, changes, billions):
    """Those of 2,400 steps that another implementation counted, METHODS' table."""
    method, net = DIGITS.set_params(**changes), cbk.TwoLayer(784, width, 10)
    told = cbk.plan(net, 200, 100, loss="cross_entropy", method=method)
    assert told.path == "low rank"
    assert 2400 * told.cost.multiply_adds == pytest.approx(billions * 1e9, rel=0.03)


@pytest.mark.parametrize(("width", "exponentials"), [(20, 1e10), (100, 4.8e10)])
def test_exponentials_of_hopping(width, exponentials):
    net = cbk.TwoLayer(784, width, 10)
    cost = cbk.plan(net, 200, 100, loss="cross_entropy", method=DIGITS).cost
    assert 2400 * cost.exponentials == pytest.approx(exponentials, rel=0.05)
    assert cbk.plan(net, 200, 100, method=DIGITS).cost.exponentials == 0


def test_normals_of_hopping():
    net = cbk.TwoLayer(784, 20, 10)
    full = cbk.plan(net, 200, 100, method=cbk.ConsensusHopping(scope="network", rank=None)).cost
    assert full.normals == 2 * 100 * net.size  # for the risks, and once more for the drift
    spanned = cbk.plan(net, 200, 100, method=DIGITS).cost
    assert spanned.normals == 100 * (100 + 20 * 11)
    free = cbk.plan(net, 200, 100, method=DIGITS.set_params(directions="free")).cost
    assert free.normals == 100 * (784 + 20 * 11)
    assert spanned.multiply_adds < free.multiply_adds < full.multiply_adds / 10


def test_the_memory_of_hopping_does_not_grow_with_the_particles():
    net = cbk.TwoLayer(784, 100, 10)
    few, many = (cbk.plan(net, n, 100, method=DIGITS).cost.memory for n in (200, 10**9))
    assert few < 8e6
    assert many < 2 * few


def test_the_reason_names_the_samples_from_which_directions_are_free():
    net = cbk.TwoLayer(784, 20, 10)
    assert "directions lie in the span" in cbk.plan(net, 200, 783, method=DIGITS).reason
    assert "directions are free" in cbk.plan(net, 200, 784, method=DIGITS).reason
    assert "784" in cbk.plan(net, 200, 100, method=DIGITS).reason
    with pytest.raises(TypeError, match=r"method must be a cbokernels\.ConsensusHopping"):
        cbk.plan(net, 200, 100, method=cbk.CBO())
    with pytest.raises(ValueError, match="scope='atom' expects a network without output_bias"):
        cbk.plan(cbk.TwoLayer(3, 4, output_bias=True), 200, 100, method=DIGITS)


def test_a_plan_of_hopping_is_that_of_its_particles():
    """D = 6500 is above five times 200, where the method goes by atoms, and not above five times 2000."""
    net, method = cbk.TwoLayer(63, 100), cbk.ConsensusHopping(rank=None)
    few, many = (cbk.plan(net, n, 100, method=method).cost for n in (200, 2000))
    by_atoms = cbk.plan(net, 200, 100, method=method.set_params(scope="atom")).cost
    whole = cbk.plan(net, 2000, 100, method=method.set_params(scope="network")).cost
    assert few == by_atoms
    assert many == whole
    with pytest.raises(ValueError, match="particles must be even where mirrored, got 7"):
        cbk.plan(net, 7, 100, method=method)
