"""Training data shared out to ranks of MPI by samples. The ranks' side is in ranks.py."""

import json
import time

import numpy as np
import pytest
from jobs import LONGEST, launch, needs_mpi, succeed

import cbokernels as cbk

X = np.random.default_rng(0).random((30, 1), np.float32)


@needs_mpi
def test_split_data_give_the_run_of_one_process(tmp_path):
    bits = []
    for ranks in (1, 3):
        succeed(ranks, "split_data", tmp_path / str(ranks))
        told = json.loads((tmp_path / str(ranks)).read_text())
        assert len(told) == 30
        assert all(max(far) < 1e-10 for far, _ in told.values()), told
        bits.append({name: digest for name, (_, digest) in told.items()})
    assert bits[0] == bits[1]  # of sums in a fixed order


@needs_mpi
def test_a_rank_reads_its_part_of_mapped_data(tmp_path):
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", np.sin(X[:, 0]))
    succeed(4, "mapped", tmp_path / "x.npy", tmp_path / "y.npy")


@needs_mpi
def test_a_killed_rank_leaves_a_checkpoint_of_split_data(tmp_path):
    path, began = tmp_path / "run.checkpoint", time.monotonic()
    done = launch(2, "resumable", tmp_path / "killed", path, 20, "kill", "hybrid", 12, "split")
    assert done.returncode != 0
    assert time.monotonic() - began < LONGEST / 4
    assert len(cbk.Result.load(path).history["risk"]) == 10
    succeed(3, "resumable", tmp_path / "resumed", path, 20, "", "hybrid", 0, "split")
    succeed(1, "resumable", tmp_path / "whole", tmp_path / "other.checkpoint", 20, "", "hybrid", 0, "split")
    found, expected = np.load(tmp_path / "resumed.npz"), np.load(tmp_path / "whole.npz")
    assert len(expected["history.risk"]) == 20
    for column in expected.files:
        assert found[column].tobytes() == expected[column].tobytes(), column


@needs_mpi
def test_what_split_data_refuse():
    told = json.loads(succeed(3, "refused").stdout)
    default = "ValueError: {} must be left at its default with data='split', got {}"
    everywhere = [
        default.format("metrics", "'r2'"),
        default.format("standardize", "True"),
        "ValueError: comm must have at most 2 ranks for S = 2, got 3",
        "ValueError: y must have shape [300], got [9]",
    ]
    for rank, caught in enumerate(told):
        assert caught[:4] == everywhere
        wrong = "ValueError: y must be finite as float32, got nan at [99]"
        assert caught[4] == (wrong if rank == 2 else f"CboError: rank 2 of 3 could not begin: {wrong}")
        assert caught[5].endswith("no particle has a finite risk (8 particles): there is no consensus point")
        apart = "got replicated on rank 0 and split on rank 1"
        assert caught[6] == f"ValueError: data must be the same on all ranks, {apart}"
        assert len(caught) == 7


def test_split_data_need_ranks():
    with pytest.raises(ValueError, match="comm must be a communicator for data='split', got None"):
        cbk.train(cbk.TwoLayer(1, 5, 1), X, X, cbk.CBO(particles=4), epochs=1, data="split")
    with pytest.raises(ValueError, match="data must be one of"):
        cbk.train(cbk.TwoLayer(1, 5, 1), X, X, cbk.CBO(particles=4), epochs=1, data="shared")


@needs_mpi
def test_weight_decay_on_ranks():
    told = json.loads(succeed(2, "decays").stdout)
    for name, (shared, split, without) in told.items():
        assert max(shared, split) < 1e-10 < 1e-3 < without, (name, shared, split, without)
