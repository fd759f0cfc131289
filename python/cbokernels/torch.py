"""Risks of an ensemble of networks in PyTorch's autograd: any of its optimisers trains thousands of networks.

    risks = cbokernels.torch.risk(net, theta, x, y)    # [N], differentiable by theta [N, D]
    risks.sum().backward()

One call of `risk_gradient` gives the risks and what backward needs.
"""

from __future__ import annotations

from typing import Any

from . import _extras
from ._arrays.host import is_torch
from ._checks import kind
from ._kinds import Loss
from .errors import CboError
from .network import TwoLayer
from .risk import risk as _risk
from .risk import risk_gradient as _risk_gradient

torch: Any = _extras.extra("torch", "cbokernels.torch", "torch")


def risk(
    net: TwoLayer,
    theta: Any,
    x: Any,
    y: Any,
    *,
    loss: Loss = "mse",
    sample_weight: Any = None,
    precision: str = "float32",
    num_threads: int | None = None,
) -> Any:
    """Risks [N], a float64 tensor on theta's device, of networks theta [N, D], differentiable by theta alone.

    theta: a float32 or float64 tensor, on the CPU or on a card. x, y, loss, sample_weight, precision,
    num_threads: as in `cbokernels.risk`, where they are described; x, y and sample_weight may be NumPy arrays
    where theta is on the CPU.

    The risks are independent, so that row n of theta's gradient is d risks[n] / d theta[n] times the gradient
    that comes in for risks[n]. Where theta requires grad they are computed in the forward pass, with the
    risks; backward multiplies. There are no second derivatives: CboError where one is asked for.
    `torch.func.grad` and `vmap` over theta work, though theta is an ensemble already.

    TypeError where theta is no tensor or x or y require grad, and the errors of `cbokernels.risk`.
    """
    if not is_torch(theta):
        raise TypeError(f"theta must be a PyTorch tensor, got {kind(theta)}")
    for name, value in (("x", x), ("y", y)):
        if is_torch(value) and value.requires_grad:
            raise TypeError(f"{name} must not require grad: the risk is differentiable by theta alone")
    wanted = theta.requires_grad and torch.is_grad_enabled()
    options = {
        "loss": loss,
        "sample_weight": sample_weight,
        "precision": precision,
        "num_threads": num_threads,
    }
    return _Risk.apply(theta, x, y, net, options, wanted)[0]


class _Risk(torch.autograd.Function):  # type: ignore[misc]
    """(risks [N], gradients [N, D] or None)."""

    @staticmethod
    def forward(theta: Any, x: Any, y: Any, net: TwoLayer, options: dict[str, Any], wanted: bool) -> Any:
        theta = theta.detach()
        if wanted:
            return _risk_gradient(net, theta, x, y, **options)
        return _risk(net, theta, x, y, **options), None

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        if output[1] is not None:
            ctx.mark_non_differentiable(output[1])
            ctx.save_for_backward(inputs[0], output[1])

    @staticmethod
    def backward(ctx: Any, incoming: Any, _: Any) -> Any:
        theta, gradient = ctx.saved_tensors
        return _Slope.apply(theta, gradient, incoming), None, None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, theta: Any, x: Any, y: Any, *rest: Any) -> Any:
        """The mapped axis is more networks of the ensemble."""
        if in_dims[0] is None or in_dims[1] is not None or in_dims[2] is not None:
            raise CboError("cbokernels.torch.risk can be mapped over theta alone, got in_dims for x or y")
        theta = theta.movedim(in_dims[0], 0)
        lead = theta.shape[:2]
        risks, gradient = _Risk.apply(theta.flatten(0, 1), x, y, *rest)
        shaped = None if gradient is None else gradient.unflatten(0, lead)
        return (risks.unflatten(0, lead), shaped), (0, None if shaped is None else 0)


class _Slope(torch.autograd.Function):  # type: ignore[misc]
    """Gradients [N, D] times what comes in [N]; as a function of theta it is not differentiable."""

    generate_vmap_rule = True

    @staticmethod
    def forward(theta: Any, gradient: Any, incoming: Any) -> Any:
        return gradient * incoming.to(gradient.dtype)[:, None]

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, _: Any) -> Any:
        raise CboError(
            "cbokernels.torch.risk has first derivatives only: it cannot be differentiated twice (take "
            "create_graph=False, or build the risk of PyTorch's own operations)"
        )


__all__ = ["risk"]
