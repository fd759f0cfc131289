"""A card for each rank of MPI. The ranks' side is in ranks.py."""

import json
import os

import pytest
from jobs import needs_mpi, succeed

import cbokernels as cbk


@needs_mpi
@pytest.mark.skipif(
    not os.environ.get("CBOKERNELS_CUDA_EMULATION") and not cbk.cuda.is_available(),
    reason="needs a card, or the emulation in the folder that CBOKERNELS_CUDA_EMULATION names",
)
def test_ranks_with_cards_give_the_run_of_one_process(tmp_path):
    succeed(2, "cards", tmp_path / "told")
    told, caught = json.loads((tmp_path / "told").read_text())
    assert len(told) == 10
    assert all(far < 1e-9 for name in told for far in told[name]), told
    assert caught == [
        "deterministic must be False with device='cuda': how a card sums depends on its particles",
        "device must be left at its default with data='split', got 'cuda'",
        "rank must be None with a card for each rank, got 1",
    ]
