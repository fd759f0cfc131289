"""The checks of bench/gpu/first_run.py, which a card is to pass, on the emulation."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

GPU = Path(__file__).parents[2] / "bench" / "gpu"


def test_the_rehearsal_finds_nothing_wrong(emulated, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(GPU))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    first_run, record = (importlib.import_module(name) for name in ("first_run", "record"))
    assert (
        first_run.main(["--rehearse", "--out", str(tmp_path / "out"), "--stages", "calls,correctness"]) == 0
    )
    rows = record.rows(tmp_path / "out" / "rows.jsonl")
    assert [record.shown(row) for row in rows if row.ok is False] == []
    assert len([row for row in rows if row.stage == "calls" and row.ok]) >= 26
    assert {row.item for row in rows if row.ok} >= {"noise", "updates", "NaN", "A risk", "B risk", "C risk"}
