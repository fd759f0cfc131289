"""What ranks exchange, and the shards of their checkpoints, in one process."""

import itertools

import numpy as np
import pytest

import cbokernels as cbk
from cbokernels import _cpu
from cbokernels._ranks import Ranks, add_up, combine_moments, fold, moments, nodes_of, shares
from cbokernels._shards import save_shards
from cbokernels.methods.merging import combiner, split, state_of


def ensemble(seed, tasks=1):
    draw = np.random.default_rng(seed)
    theta = draw.standard_normal((97, 13)).astype(np.float32)
    risk = draw.random((97, tasks)) * 10.0 ** draw.integers(-3, 4)
    risk[draw.random(risk.shape) < 0.1] = draw.choice([np.nan, np.inf, -np.inf])
    return theta, risk, draw


@pytest.mark.filterwarnings("ignore:.*not finite:cbokernels.CboWarning")
@pytest.mark.parametrize("alpha", [0.0, 1.0, 1e3, 1e7, np.inf])
@pytest.mark.parametrize("seed", range(8))
def test_states_of_parts_make_the_consensus_of_all(alpha, seed):
    theta, risk, draw = ensemble(seed, tasks=2)
    expected = cbk.reference.consensus(theta, risk, alpha=alpha)
    alphas, cuts = np.full(2, alpha), [0, *np.sort(draw.integers(0, 97, 3)), 97]
    combine = combiner(alphas)
    parts = [state_of(theta[a:b], risk[a:b], alphas, 13, 1) for a, b in itertools.pairwise(cuts)]
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        into = parts[order[0]].copy()
        for i in order[1:]:
            other, swapped = parts[i].copy(), into.copy()
            combine(other, into)
            combine(swapped, other)
            assert other.tobytes() == into.tobytes()  # all ranks get the same, whichever is first
        found = split(into, 2)
        np.testing.assert_allclose(found.sums / found.total[:, None], expected.point, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(found.total**2 / found.squares, expected.ess, rtol=1e-12)
        assert found.nonfinite[0] == (~np.isfinite(risk).all(axis=1)).sum()
        assert (found.weighted >= (expected.weights > 0).sum(axis=0)).all()


def test_a_part_of_weight_zero_is_not_read():
    alpha = np.array([1e5])
    good = state_of(np.ones((3, 2)), np.zeros((3, 1)), alpha, 2, 1)
    bad = state_of(np.full((3, 2), np.nan), np.ones((3, 1)), alpha, 2, 1)
    assert np.isnan(split(bad, 1).sums).all()
    combiner(alpha)(bad, good)
    found = split(good, 1)
    assert found.sums.tolist() == [[3.0, 3.0]]
    assert (found.least, found.total, found.weighted) == (0, 3, 3)


def test_risks_far_from_zero_keep_their_weights():
    """An exponential that is not shifted by the least risk is 0 on both sides."""
    theta, risk = np.array([[1.0], [2.0], [3.0]]), 1e6 + np.array([[0.0], [1e-7], [2e-7]])
    alpha = np.array([1e7])
    parts = [state_of(theta[n : n + 1], risk[n : n + 1], alpha, 1, 1) for n in range(3)]
    for part in parts[1:]:
        combiner(alpha)(part, parts[0])
    weights = np.exp(-1e7 * (risk - risk[0]))
    np.testing.assert_allclose(
        split(parts[0], 1).sums[0] / split(parts[0], 1).total,
        (weights * theta).sum() / weights.sum(),
        rtol=1e-12,
    )


def test_moments_of_parts_are_those_of_all():
    theta = 1e3 + np.random.default_rng(0).standard_normal((50, 7))  # a mean far from 0 cancels
    state = np.zeros(9)
    for a, b in ((0, 20), (20, 20), (20, 21), (21, 50)):
        combine_moments(moments(theta[a:b], 1), state)
    np.testing.assert_allclose(state[1] / 100, ((theta - theta.mean(axis=0)) ** 2).sum() / 100, rtol=1e-12)
    np.testing.assert_allclose(state[2:], theta.mean(axis=0), rtol=1e-14)


@pytest.mark.parametrize("leaves", [1, 2, 5, 50, 63, 64])
def test_the_tree_does_not_depend_on_who_holds_its_leaves(leaves):
    draw = np.random.default_rng(leaves)
    values = draw.standard_normal((leaves, 3)) * 10.0 ** draw.integers(-8, 8, (leaves, 1))
    root = (leaves - 1).bit_length()

    def leaf(k, j):
        return values[j].copy() if k == 0 else None

    expected = fold(root, 0, leaves, leaf, add_up)
    np.testing.assert_allclose(expected, values.sum(axis=0), rtol=1e-9, atol=1e-6)
    for ranks in range(1, leaves + 1):
        edges = shares(leaves, ranks)
        known = {}
        for a, b in itertools.pairwise(edges):
            nodes = nodes_of(a, b, leaves)
            assert len(nodes) <= 2 * root + 1
            known.update({node: fold(*node, leaves, leaf, add_up) for node in nodes})
        found = fold(root, 0, leaves, lambda k, j, known=known: known.get((k, j)), add_up)
        assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("seed", range(40))
def test_risks_of_a_part_have_the_bits_of_the_whole(seed):
    """The plan is for the whole ensemble, whatever a call has of it. On lists whole groups are a part."""
    draw = np.random.default_rng(seed)
    d, width, outputs = (int(draw.choice(sizes)) for sizes in ([1, 5, 64, 200], [1, 7, 20, 50], [1, 3]))
    samples, particles, dtype = (
        int(draw.choice([7, 300, 900])),
        int(draw.integers(40, 300)),
        draw.choice(["f4", "f8"]),
    )
    net = cbk.TwoLayer(d, width, outputs, activation=str(draw.choice(["relu", "tanh"])))
    x = draw.standard_normal((samples, d)).astype(dtype)
    x[draw.random(x.shape) < draw.choice([0, 0.9])] = 0
    y = draw.standard_normal((1, samples, outputs)).astype(dtype)
    theta, kernel, filled = (
        net.uniform(particles, seed=seed, dtype=dtype),
        net._kernel,
        float((x != 0).mean()),
    )
    path, group, *_ = _cpu.plan(kernel, particles, samples, 1, "mse", filled, dtype == "f4")
    unit = group if path == "lists" else 1
    print(seed, path, unit)

    def risks(of, rows):
        risk, gradient = np.empty((len(rows), 1)), np.empty_like(rows)
        _cpu.risk(of, rows, x, y, "mse", risk, 1)
        _cpu.risk_gradient(of, rows, x, y[0], "mse", np.empty(len(rows)), gradient, 1)
        return risk.tobytes(), gradient.tobytes()

    whole = risks(kernel, theta)
    edges = shares(particles, 3, unit)
    parts = [risks(kernel.part_of(particles), theta[a:b]) for a, b in itertools.pairwise(edges)]
    assert b"".join(part[0] for part in parts) == whole[0]
    assert b"".join(part[1] for part in parts) == whole[1]


# Shards


class Two(Ranks):
    """The first of two ranks, alone in this process."""

    alone, size, first, last = False, 2, 0, 3


def test_a_checkpoint_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "run"
    state = {"particles": np.arange(3.0), "point": np.zeros(2)}
    written = []
    save_shards(path, Two(), {"particles": 0}, 5, state, lambda rest, shards: written.append(shards))
    before = sorted(file.name for file in tmp_path.iterdir())
    assert before == [".run.5.0-3.shard"]

    def fail(rest, shards):
        assert list(rest) == ["point"]
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        save_shards(path, Two(), {"particles": 0}, 10, state, fail)
    assert sorted(file.name for file in tmp_path.iterdir()) == before
