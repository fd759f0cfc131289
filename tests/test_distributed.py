"""Ensembles on several ranks of MPI. The ranks' side is in ranks.py."""

import csv
import importlib.util
import json
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from jobs import LONGEST, launch, needs_mpi, succeed

import cbokernels as cbk

RANKS = (1, 2, 3, 4)


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
    for name in ("hopping", "atoms", "unmirrored", "low rank", "low rank, free", "fitted", "blocks"):
        assert told[name] == hopping, name
    assert told["ess"] == hopping
    for name in ("adam", "heavy ball", "gradient flow"):
        assert told[name] == {}, name
    for name, calls in told["split"].items():
        assert calls == one, name


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
@pytest.mark.parametrize("what", ["function", "memory", "callback"])
def test_a_rank_that_raises_ends_the_job_with_one_message(tmp_path, what):
    path, began = tmp_path / "run.checkpoint", time.monotonic()
    if what != "callback":
        done = launch(3, "failing", path, what)
    else:
        done = launch(3, "resumable", tmp_path / "out", path, 100, "raise", "cbo", 8)
    assert time.monotonic() - began < LONGEST / 4
    assert done.returncode != 0
    rank, kept = (0 if what == "callback" else 2), 5
    reason = f"RuntimeError: of a {what};" if what != "memory" else "MemoryError: Unable to allocate"
    message = f"cbokernels: rank {rank} of 3 ended the job: {reason}"
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


@needs_mpi
def test_reproduce_tells_wrong_options_in_a_line():
    pytest.importorskip("matplotlib")
    done = launch(2, "reproduce", "sine", "--set", "nosuch=3", "--quick", program=("-m", "cbokernels.cli"))
    assert done.returncode != 0
    assert "ended the job: OptionError: --set nosuch: there is no such parameter" in done.stderr
    assert "Traceback" not in done.stderr


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
        cbk.minimize(lambda t: t[:, 0] ** 2, np.arange(4.0)[:, None], steps=2)
