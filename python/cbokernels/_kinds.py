"""The closed sets that names from users are of, as the compiled module has them (`csrc/common/kinds.hpp`)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, TypeAlias

from . import _cpu
from ._checks import choice
from .losses import NAMES, Huber, Pinball

if TYPE_CHECKING:
    from ._cpu import KernelLoss

ACTIVATIONS = tuple(_cpu.ACTIVATIONS)
LOSSES = tuple(_cpu.LOSSES)
NOISES = _cpu.NOISES

Loss: TypeAlias = "str | Huber | Pinball"  # what users may give


def loss_of(value: Any, outputs: int) -> KernelLoss:
    """A user's loss for networks of so many outputs, as the compiled modules take it: a name, or a pair of a
    name and its parameter where this is not the default."""
    loss: KernelLoss
    if type(value) in NAMES:
        name, (parameter,) = NAMES[type(value)], dataclasses.astuple(value)
        loss = name if parameter == _cpu.LOSSES[name][2] else (name, parameter)
    else:
        name = loss = choice(value, "loss", LOSSES)
    if outputs > 1 and _cpu.LOSSES[name][0] == "side":
        raise ValueError(f"loss {name!r} expects a network with one output, got {outputs}")
    return loss


def _name(loss: KernelLoss) -> str:
    return loss if isinstance(loss, str) else loss[0]


def loss_text(loss: KernelLoss) -> str:
    """For messages and checkpoints."""
    return loss if isinstance(loss, str) else f"{loss[0]}({loss[1]!r})"


def takes_labels(loss: KernelLoss) -> bool:
    """Whether a loss compares outputs with integer labels, and not with values."""
    return _cpu.LOSSES[_name(loss)][0] != "values"


def label_count(loss: KernelLoss, outputs: int) -> int:
    """Labels are below this."""
    return 2 if outputs == 1 and _cpu.LOSSES[_name(loss)][0] in ("side", "sides") else outputs


def check_smooth(activation: str) -> None:
    """ValueError where a gradient is asked for that the activation has not."""
    if not _cpu.ACTIVATIONS[activation]:
        some = ", ".join(repr(name) for name, sloped in _cpu.ACTIVATIONS.items() if sloped)
        raise ValueError(
            f"a gradient needs an activation among {some}, got {activation!r}, which has none: train it by a "
            "method without gradients, such as ConsensusHopping(scope='atom')"
        )


def check_slopes(loss: KernelLoss) -> None:
    """ValueError where a gradient is asked for that the loss has not."""
    if not _cpu.LOSSES[_name(loss)][1]:
        some = ", ".join(repr(name) for name in LOSSES if _cpu.LOSSES[name][1])
        raise ValueError(f"a gradient needs a loss among {some}, got {loss_text(loss)!r}, which has none")
