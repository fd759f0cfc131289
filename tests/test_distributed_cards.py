"""A card for each rank of MPI. The ranks' side is in ranks_cards.py."""

import json
import os

import numpy as np
import pytest
from jobs import needs_mpi, succeed

import cbokernels as cbk

PROGRAM = ("-m", "mpi4py", "ranks_cards.py")
needs_cards = pytest.mark.skipif(
    not os.environ.get("CBOKERNELS_CUDA_EMULATION") and not cbk.cuda.is_available(),
    reason="needs a card, or the emulation in the folder that CBOKERNELS_CUDA_EMULATION names",
)
needs_emulation = pytest.mark.skipif(
    not os.environ.get("CBOKERNELS_CUDA_EMULATION"),
    reason="needs the emulation in the folder that CBOKERNELS_CUDA_EMULATION names, which counts copies",
)


def told_by(ranks, name, path, *arguments):
    succeed(ranks, name, path, *arguments, program=PROGRAM)
    return json.loads(path.read_text())


@needs_mpi
@needs_cards
@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_with_cards_give_the_run_of_one_process(tmp_path, ranks):
    told, caught = told_by(ranks, "cards", tmp_path / "told")
    assert len(told) == 15
    assert all(far < 1e-9 for name in told for far in told[name]), told
    assert caught == [
        "deterministic must be False with device='cuda': how a card sums depends on its particles",
        "device must be left at its default with data='split', got 'cuda'",
        "rank must be None with a card for each rank, got 1",
        "epoch 1, step 0: no particle has a finite risk (50 particles): there is no consensus point",
    ]


@needs_mpi
@needs_emulation
@pytest.mark.parametrize("ranks", [2, 3])
def test_an_mpi_that_takes_addresses_on_a_card_gives_the_same(tmp_path, ranks):
    """The emulation's addresses are the host's, which any MPI takes."""
    told, _ = told_by(ranks, "cards", tmp_path / "told", "aware")
    assert len(told) == 12
    assert all(far < 1e-9 for name in told for far in told[name]), told


@needs_mpi
@needs_emulation
def test_particles_stay_on_their_cards(tmp_path):
    """A step's copies do not depend on the number of particles, but for a `TargetEss`, which needs risks."""
    told = told_by(2, "card_steps", tmp_path / "told")
    assert len(told) == 2 * 11
    for name, of_particles in told.items():
        (calls, *copied), (same, *copied_of_more) = of_particles
        assert calls == same
        independent = name.partition(",")[0] in ("adam", "heavy ball", "gradient flow")
        more = {"Allgatherv": 1} if name.startswith(("ess", "batch moves")) else {}
        more = {**more, "allgather": 1} if name.startswith("batch moves") else more  # how many of each rank's
        if name.endswith(", aware") and not independent:
            more = {**more, "allgather": more.get("allgather", 0) + 1}
        assert calls == ({} if independent else {"Allreduce": 1, **more}), name
        if not name.startswith(("ess", "batch moves", "flying", "pairs")):  # which are told their subsets
            assert copied == copied_of_more, name
        tasks = 3 if name.startswith("tasks") else 1
        points = 8 * tasks * (0 if independent or name.endswith(", aware") else 36)  # of 36 parameters each
        others = 8 * (50 + 25) + 500  # a subset and its risks, and numbers of a step
        assert all(points <= bytes_of_step <= points + others for bytes_of_step in copied), (name, copied)


@needs_mpi
@needs_cards
@pytest.mark.parametrize("ranks", [2, 3])
def test_a_rank_whose_particles_have_no_finite_risk(tmp_path, ranks):
    (message, found), (expected_message, expected) = told_by(ranks, "worthless", tmp_path / "told")
    assert "risks were NaN or infinite" in expected_message
    assert message == expected_message
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@needs_mpi
@needs_cards
def test_checkpoints_are_those_of_one_process(tmp_path):
    told = told_by(3, "card_checkpoints", tmp_path / "told")
    assert len(told) == 4
    assert all(far < 1e-9 for name in told for far in told[name]), told


@needs_mpi
def test_numbers_are_added_where_they_are():
    succeed(3, "addressed", program=PROGRAM)
