"""Instruction sets for tests that force one; all but the machine's own choice are for `pytest -m slow`."""

from __future__ import annotations

import pytest

import cbokernels as cbk

EACH = [pytest.param(isa, marks=[] if isa == cbk.isa() else [pytest.mark.slow]) for isa in cbk.isas()]
# For what other tests of the same file try in this process, with the machine's own choice.
OTHERS = [pytest.param(isa, marks=pytest.mark.slow) for isa in cbk.isas() if isa != cbk.isa()]
