"""Ensembles on several ranks of MPI. The ranks' side is in ranks.py."""

import csv
import importlib.util
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

import cbokernels as cbk
from cbokernels import _cpu
from cbokernels._ranks import Ranks, add_up, combine_moments, fold, moments, nodes_of, shares
from cbokernels._shards import save_shards
from cbokernels.methods.merging import combiner, split, state_of

MPIEXEC = shutil.which(
    "mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
)
needs_mpi = pytest.mark.skipif(
    importlib.util.find_spec("mpi4py") is None or MPIEXEC is None,
    reason="needs mpi4py and an MPI, as pip install 'cbokernels[mpi]' mpich brings them",
)
RANKS = (1, 2, 3, 4)
LONGEST = 120  # seconds of a job that is not to end by itself; one that fails ends in a tenth of it


def launch(ranks, *arguments, program=("ranks.py",), timeout=LONGEST):
    """A job of so many ranks; its process, ended."""
    command = [MPIEXEC, "-n", str(ranks), sys.executable, *program, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, env=environment, cwd=Path(__file__).parent
    )


def succeed(*arguments, **options):
    done = launch(*arguments, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


# States of parts of an ensemble


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


# Runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for ranks in RANKS:
        succeed(ranks, "trajectories", folder / str(ranks))
    return folder


def cases():
    if importlib.util.find_spec("mpi4py") is None:
        return ["cbo"]
    sys.path.insert(0, str(Path(__file__).parent))
    import ranks

    return list(ranks.METHODS)


@needs_mpi
@pytest.mark.parametrize("name", cases())
def test_bits_do_not_depend_on_the_number_of_ranks(runs, name):
    expected = np.load(runs / f"1.fixed.{name}.npz")
    for ranks in RANKS[1:]:
        found = np.load(runs / f"{ranks}.fixed.{name}.npz")
        assert found.files == expected.files
        for column in found.files:
            assert found[column].tobytes() == expected[column].tobytes(), (ranks, column)


@needs_mpi
@pytest.mark.parametrize("name", cases())
def test_trajectories_are_those_of_one_process(runs, name):
    """Without a fixed order to the rounding of the sums, which a few steps do not enlarge."""
    import ranks

    expected = ranks.one(name, None)
    steps = min(len(expected["points"]), 8)
    for count in RANKS:
        for order in ("any", "fixed"):
            found = np.load(runs / f"{count}.{order}.{name}.npz")
            scale = np.abs(expected["points"]).max()
            for column in ("points", "history.risk", "history.variance"):
                np.testing.assert_allclose(
                    found[column][:steps],
                    expected[column][:steps],
                    rtol=2e-6,
                    atol=1e-6 * scale,
                    err_msg=column,
                )
            assert found["particles"].shape == expected["particles"].shape


@needs_mpi
def test_minimize_on_ranks(tmp_path):
    for ranks in RANKS:
        succeed(ranks, "minimum", tmp_path / str(ranks))
    expected = np.load(tmp_path / "1.npz")
    assert expected["CBO.risk"][-1] < 0.1
    for ranks in RANKS[1:]:
        found = np.load(tmp_path / f"{ranks}.npz")
        assert all(found[column].tobytes() == expected[column].tobytes() for column in expected.files)


@needs_mpi
def test_exchanges_of_a_step(tmp_path):
    succeed(2, "counts", tmp_path / "counts")
    told = json.loads((tmp_path / "counts").read_text())
    one, hopping = {"Allreduce": 1}, {"Allgatherv": 1, "Allreduce": 1}
    for name in ("cbo", "best", "flying", "hybrid", "tasks", "sparse"):
        assert told[name] == one, name
    for name in ("hopping", "atoms", "unmirrored", "low rank", "low rank, free", "blocks"):
        assert told[name] == hopping, name
    assert told["ess"] == hopping
    for name in ("adam", "heavy ball", "gradient flow"):
        assert told[name] == {}, name


@needs_mpi
def test_one_rank_exchanges_nothing():
    code = (
        "from mpi4py import MPI\nfrom cbokernels._ranks import Ranks\n"
        "from cbokernels._mpi import ranks_of\n"
        "assert type(ranks_of(MPI.COMM_WORLD, False)) is Ranks and ranks_of(MPI.COMM_WORLD, True).ordered"
    )
    succeed(1, program=("-c", code))


# Ends


@needs_mpi
@pytest.mark.parametrize(
    ("name", "first", "then"), [("cbo", 4, 3), ("transport", 3, 1), ("hybrid", 2, 4), ("hopping", 2, 3)]
)
def test_a_killed_rank_leaves_a_checkpoint_for_any_number_of_ranks(tmp_path, name, first, then):
    path = tmp_path / "run.checkpoint"
    began = time.monotonic()
    done = launch(first, "resumable", tmp_path / "killed", path, 20, "kill", name, 12)
    assert done.returncode != 0
    assert time.monotonic() - began < LONGEST / 4
    assert len(cbk.Result.load(path).history["risk"]) == 10
    succeed(then, "resumable", tmp_path / "resumed", path, 20, "", name, 0)
    succeed(1, "resumable", tmp_path / "whole", tmp_path / "other.checkpoint", 20, "", name, 0)
    found, expected = np.load(tmp_path / "resumed.npz"), np.load(tmp_path / "whole.npz")
    assert len(expected["history.risk"]) == 20
    for column in expected.files:
        assert found[column].tobytes() == expected[column].tobytes(), column
    shards = [file.name for file in tmp_path.iterdir() if file.name.endswith(".shard")]
    assert all(".20." in shard for shard in shards)  # those of earlier epochs are gone
    assert len(shards) == (0 if name == "hopping" else then + 1)


@needs_mpi
def test_sigterm_is_seen_to_by_all_ranks(tmp_path):
    path = tmp_path / "run.checkpoint"
    done = launch(3, "resumable", tmp_path / "out", path, 100, "terminate", "cbo", 7)
    assert done.returncode in (143, 15), done.stderr
    assert len(cbk.Result.load(path).history["risk"]) == 7


@needs_mpi
def test_a_callback_stops_all_ranks(tmp_path):
    succeed(3, "resumable", tmp_path / "out", tmp_path / "run.checkpoint", 100, "stop", "cbo", 6)
    assert len(np.load(tmp_path / "out.npz")["history.risk"]) == 6


@needs_mpi
@pytest.mark.parametrize("what", ["function", "callback"])
def test_a_rank_that_raises_ends_the_job_with_one_message(tmp_path, what):
    path, began = tmp_path / "run.checkpoint", time.monotonic()
    if what == "function":
        done = launch(3, "failing", path)
    else:
        done = launch(3, "resumable", tmp_path / "out", path, 100, "raise", "cbo", 8)
    assert time.monotonic() - began < LONGEST / 4
    assert done.returncode != 0
    rank, kept = (2, 5) if what == "function" else (0, 5)
    message = f"cbokernels: rank {rank} of 3 ended the job: RuntimeError: of a {what}; the checkpoint"
    assert done.stderr.count("ended the job") == done.stderr.count(message) == 1, done.stderr
    assert f"has epoch {kept}" in done.stderr
    assert len(cbk.Result.load(path).history["risk"]) == kept


@needs_mpi
def test_arguments_that_differ():
    told = json.loads(succeed(3, "unequal").stdout)
    assert len(told) == 3
    for rank, (seeds, wrong, epochs) in enumerate(told):
        assert seeds == "ValueError: seed must be the same on all ranks, got 0 on rank 0 and 1 on rank 1"
        assert "epochs must be the same on all ranks, got 3 on rank 0 and 4 on rank 1" in epochs
        if rank:
            assert wrong.startswith("ValueError: seed")
        else:
            assert wrong.startswith("CboError: rank 1 of 3 could not begin: ValueError: seed")


@needs_mpi
def test_errors_of_all_ranks_can_be_caught():
    told = json.loads(succeed(3, "nowhere_finite").stdout)
    assert [len(errors) for errors in told] == [1, 1, 1]
    assert told[0] == told[1] == told[2]
    assert told[0][0].endswith("no particle has a finite risk (8 particles): there is no consensus point")


@needs_mpi
def test_one_rank_warns_for_all():
    told = json.loads(succeed(2, "warned").stdout)
    assert told[1] == []
    assert len(told[0]) == 1
    assert "8 risks were NaN or infinite" in told[0][0]


@needs_mpi
def test_too_many_ranks():
    code = (
        "import cbokernels as cbk, numpy as np; from mpi4py import MPI\n"
        "cbk.minimize(lambda t: t[:, 0], np.ones((2, 1)), comm=MPI.COMM_WORLD)"
    )
    done = launch(3, program=("-c", code))
    assert done.returncode != 0
    assert "comm must have at most 2 ranks for N = 2, got 3" in done.stderr


@needs_mpi
def test_reproduce_deals_out_its_runs(tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("tqdm")
    tables = []
    for ranks in (1, 3):
        (tmp_path / str(ranks)).mkdir()
        done = succeed(
            ranks, "reproduce", "sine", "--epochs", 3, "--seeds", 2, "--out", tmp_path / str(ranks),
            program=("-m", "cbokernels.cli"),
        )  # fmt: skip
        assert done.stdout.count("agrees") > 0
        assert done.stdout.count("wrote") == 1
        with open(tmp_path / str(ranks) / "sine.csv", newline="") as file:
            tables.append([{**row, "seconds": ""} for row in csv.DictReader(file)])
        assert len(tables[-1]) == 4 * 2 * 3
    assert tables[0] == tables[1]


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


def test_mpi4py_is_asked_for_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    monkeypatch.setitem(sys.modules, "mpi4py.MPI", None)
    monkeypatch.delitem(sys.modules, "cbokernels._mpi", raising=False)
    with pytest.raises(
        ImportError, match=r"cbokernels\.distributed needs mpi4py: pip install 'cbokernels\[mpi\]'"
    ):
        cbk.minimize(lambda t: t[:, 0], np.ones((4, 1)), comm=object())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cbk.minimize(lambda t: t[:, 0] ** 2, np.ones((4, 1)), steps=2)
