"""PyTorch modules of two layers, and what a network's parameters are in them. PyTorch is imported where it is
asked for."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ._arrays import view
from ._arrays.host import is_torch
from ._extras import extra

_CHAIN = "a torch.nn.Sequential of Linear, activation, Linear"


class Layers(NamedTuple):
    """What a module says of itself: the arguments of a `TwoLayer`, and its parameters [1, D], a tensor."""

    inputs: int
    width: int
    outputs: int
    activation: str
    output_bias: bool
    theta: Any


def _classes(nn: Any) -> dict[str, Any]:
    """The modules of the activations, each of which its class makes without arguments."""
    return {
        "relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "gelu": nn.GELU, "softplus": nn.Softplus,
        "identity": nn.Identity, "leaky_relu": nn.LeakyReLU, "silu": nn.SiLU,
    }  # fmt: skip


def read(module: Any) -> Layers:
    """The layers of Linear-activation-Linear; ValueError for anything else."""
    torch = extra("torch", "from_torch", "torch")
    nn = torch.nn
    chain = list(module) if _is(module, nn.Sequential) else []
    if len(chain) != 3 or not (_is(chain[0], nn.Linear) and _is(chain[2], nn.Linear)):
        raise ValueError(f"module must be {_CHAIN}, got {_kinds(module)}")
    hooked = [type(m).__name__ for m in (module, *chain) if m._forward_hooks or m._forward_pre_hooks]
    if hooked:
        raise ValueError(f"module must have no forward hooks, got {hooked[0]} with one")
    first, middle, last = chain
    if last.in_features != first.out_features:
        raise ValueError(
            f"module must have a second Linear of {first.out_features} inputs, as many as the first has "
            f"outputs, got {last.in_features}"
        )
    parts = [first.weight, _bias(torch, first), last.weight]
    if last.bias is not None:
        parts.append(last.bias)
    kinds = sorted({str(part.dtype) for part in parts})
    if kinds not in (["torch.float32"], ["torch.float64"]):
        raise TypeError(f"module must have parameters of float32 or of float64, got {' and '.join(kinds)}")
    theta = torch.cat([part.detach().reshape(-1) for part in parts])[None]
    sizes = first.in_features, first.out_features, last.out_features
    return Layers(*sizes, _activation(nn, middle), last.bias is not None, theta)


def write(activation: str, w: Any, b: Any, c: Any, a: Any) -> Any:
    """A Sequential of copies of w [M, d], b [M], c [C, M] and a [C] or None; it draws no random numbers."""
    torch = extra("torch", "to_torch", "torch")
    classes = _classes(torch.nn)
    if activation not in classes:
        raise ValueError(f"to_torch expects one of the activations {', '.join(classes)}, got {activation!r}")
    kinds = {"dtype": w.dtype, "device": w.device}
    skip = torch.nn.utils.skip_init
    first = skip(torch.nn.Linear, *w.shape[::-1], **kinds)
    last = skip(torch.nn.Linear, *c.shape[::-1], bias=a is not None, **kinds)
    values = [(first.weight, w), (first.bias, b), (last.weight, c), (last.bias, a)]
    with torch.no_grad():
        for parameter, value in values:
            if parameter is not None:
                parameter.copy_(value)
    return torch.nn.Sequential(first, classes[activation](), last)


def tensor(theta: Any) -> Any:
    """theta as a tensor of its own memory, on the device where it lies."""
    torch = extra("torch", "to_torch", "torch")
    own = theta.detach().clone() if is_torch(theta) else torch.from_numpy(np.array(view(theta, "theta")))
    if own.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"theta must be float32 or float64, got {own.dtype}")
    return own


def _is(module: Any, cls: Any) -> bool:
    """Whether a module computes what this class does: one derived from it may do something else."""
    return isinstance(module, cls) and type(module).forward is cls.forward


def _bias(torch: Any, linear: Any) -> Any:
    weight = linear.weight
    return weight.new_zeros(len(weight)) if linear.bias is None else linear.bias


def _activation(nn: Any, module: Any) -> str:
    classes = _classes(nn)
    name = next((name for name, cls in classes.items() if _is(module, cls)), None)
    exact: dict[str, dict[str, Any]] = {
        "gelu": {"approximate": "none"},
        "softplus": {"beta": 1, "threshold": 20},
        "leaky_relu": {"negative_slope": 0.01},
    }
    if name is None:
        known = ", ".join(cls.__name__ for cls in classes.values())
        raise ValueError(f"module must have one of the activations {known}, got {module}")
    wanted = exact.get(name, {})
    if any(getattr(module, key) != value for key, value in wanted.items()):
        raise ValueError(f"module must have {classes[name]()} for {name!r}, got {module}")
    return name


def _kinds(module: Any) -> str:
    inside = ", ".join(type(child).__name__ for child in getattr(module, "children", list)())
    return f"{type(module).__name__} of {inside}" if inside else repr(module)[:80]
