"""The closed sets that names from users are of, as the compiled module has them (`csrc/common/kinds.hpp`)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, TypeAlias

from . import _cpu
from ._checks import kind
from ._own_losses import Called, Compiled, own_loss
from .losses import NAMES

if TYPE_CHECKING:
    from ._cpu import KernelLoss

ACTIVATIONS = tuple(_cpu.ACTIVATIONS)
LOSSES = tuple(_cpu.LOSSES)
NOISES = _cpu.NOISES

Loss: TypeAlias = Any  # what users may give: a name, a Huber or Pinball, a function in Python or in C
_EXPECTED = (
    f"one of {', '.join(map(repr, LOSSES))}, a cbokernels.Huber or cbokernels.Pinball, or a function of "
    "(outputs [n, S, C], y), or a compiled one"
)


def loss_of(value: Any, outputs: int, y: Any = None) -> KernelLoss:
    """A user's loss for networks of so many outputs, as the compiled modules take it: a name, or a pair of a
    name and its parameter where this is not the default; or a function of one's own, which compares with
    labels where y, an array, holds integers (None: it is not known yet)."""
    loss: KernelLoss
    if type(value) in NAMES:
        name, (parameter,) = NAMES[type(value)], dataclasses.astuple(value)
        loss = name if parameter == _cpu.LOSSES[name][2] else (name, parameter)
    elif isinstance(value, str):
        name = loss = value
        if value not in LOSSES:
            raise ValueError(f"loss must be {_EXPECTED}, got {value!r}")
    elif (own := value if is_own(value) else own_loss(value)) is not None:
        return own if y is None or own.labels is not None else own._replace(labels=y.dtype.kind in "iub")
    else:
        told = f"the class {value.__name__}" if isinstance(value, type) else f"{value!r:.80} ({kind(value)})"
        raise TypeError(f"loss must be {_EXPECTED}, got {told}")
    if outputs > 1 and _cpu.LOSSES[name][0] == "side":
        raise ValueError(f"loss {name!r} expects a network with one output, got {outputs}")
    return loss


def is_own(loss: Any) -> bool:
    """Whether a loss is a function of one's own, as `loss_of` gives it."""
    return isinstance(loss, (Called, Compiled))


def planned(loss: KernelLoss) -> KernelLoss:
    """The loss that plans are made for: of a function in Python that of its outputs."""
    return "mae" if isinstance(loss, Called) else loss


def check_own(loss: KernelLoss, device: str, weighted: bool = False) -> None:
    """ValueError for what functions of one's own cannot do."""
    if device != "cpu" and is_own(loss):
        told = loss_text(loss)
        raise ValueError(f"loss must be a name on a card, where no function of one's own runs, got {told}")
    if weighted and isinstance(loss, Called):
        raise ValueError(
            "sample_weight must be None for a loss that is a Python function, which may weigh samples: "
            f"got {loss_text(loss)}"
        )


def _name(loss: Any) -> str:
    return loss if isinstance(loss, str) else loss[0]


def loss_text(loss: KernelLoss) -> str:
    """For messages and checkpoints."""
    if isinstance(loss, (Called, Compiled)):
        return loss.text
    return loss if isinstance(loss, str) else f"{loss[0]}({loss[1]!r})"


def takes_labels(loss: KernelLoss) -> bool:
    """Whether a loss compares outputs with integer labels, and not with values."""
    if isinstance(loss, (Called, Compiled)):
        return bool(loss.labels)
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
    if is_own(loss) or not _cpu.LOSSES[_name(loss)][1]:
        some = ", ".join(repr(name) for name in LOSSES if _cpu.LOSSES[name][1])
        raise ValueError(f"a gradient needs a loss among {some}, got {loss_text(loss)!r}, which has none")
