"""The closed sets that names from users are of, as the compiled module has them (`csrc/common/kinds.hpp`)."""

from __future__ import annotations

from . import _cpu

ACTIVATIONS = _cpu.ACTIVATIONS
LOSSES = _cpu.LOSSES
NOISES = _cpu.NOISES


def takes_labels(loss: str) -> bool:
    """Whether a loss compares outputs with integer labels, and not with values."""
    return loss in _cpu.LABEL_LOSSES
