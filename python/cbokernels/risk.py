"""Outputs, risks and gradients of an ensemble of networks on one (mini)batch, in bounded memory.

    R(theta) = 1/S sum_s L(y_s, g(x_s; theta)),  with weights sum_s w_s L(y_s, g(x_s; theta)) / sum_s w_s

Hidden activations are never stored for all samples. `cbokernels.losses` has the losses L.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import _cpu
from ._arrays import AS_THETA, Array, Call, Values, call_of, check_array, check_shape, text
from ._checks import FLOATS, float_dtype, integer, unit
from ._inputs import read_as, readable
from ._kinds import (
    Loss,
    check_own,
    check_slopes,
    check_smooth,
    is_own,
    label_count,
    loss_of,
    loss_text,
    planned,
    takes_labels,
)
from ._own_losses import Called, Compiled, called_risks, check_item, exact_labels
from .methods.base import Shape
from .methods.hopping import ConsensusHopping
from .methods.hopping_cost import Cost, cost, low_rank_reason
from .network import TwoLayer, check_network

if TYPE_CHECKING:
    from ._cpu import KernelLoss


def forward(
    net: TwoLayer, theta: Any, x: Any, *, precision: str = "float32", num_threads: int | None = None
) -> Any:
    """Outputs [N, S, C] of networks theta [N, D] on inputs x [S, d], all of theta's dtype.

    x may also be a list or a data frame, which is read into theta's dtype; arrays are never cast.

    TypeError unless theta is float32 or float64 and x shares its dtype; ValueError for other shapes,
    empty axes, a precision (see `risk`) that there is not and num_threads below 1.
    """
    call, particles, inputs = _ensemble(net, theta, x)
    run = call.run(num_threads, precision, particles)
    out = call.empty((len(particles), len(inputs), net.outputs), particles.dtype)
    call.kernels.forward(net._kernel, particles, inputs, out, run)
    return call.result(out)


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
    """Risks [N], float64, of networks theta [N, D] on inputs x [S, d] and targets y.

    loss: "mse", "mae", "huber", "pinball", or with other parameters `Huber(delta)`, `Pinball(quantile)`: y
    [S] or [S, 1] (one output) or [S, C], of theta's dtype; sums over outputs. "cross_entropy", "hinge",
    "logistic" (one output) or "zero_one": y [S] or [S, 1], labels in [0, C), or of one output 0 and 1, of any
    integer or boolean dtype. Or a function of one's own: in Python, (outputs [n, S, C], y) -> [n] (TypeError
    and ValueError for results of another kind or shape), or in C. `cbokernels.losses` has the formulas and
    the signature.

    sample_weight: [S], of theta's dtype, finite, not negative and not all 0: R is the mean of the losses with
    these weights. A sample of weight 0 does not count, whatever its loss is.

    x, y and sample_weight may also be lists or frames of pandas or Polars, which are read into theta's dtype;
    arrays are never cast. The same bits for any number of threads. Exact zeros of x may be skipped.

    precision: of float32's matrix products on a card, "float32" (as accurate as fp32 arithmetic), "tf32" or
    "bf16" (their factors rounded to 11 or 8 bits, where tensor cores are used); CPU and float64 arrays have
    "float32" alone.

    TypeError for dtypes, ValueError for shapes, empty axes, labels out of range and weights that are none (on
    a card: a NaN risk), an unknown loss, one of one output for several, a precision that there is not and
    num_threads below 1.
    """
    call, particles, inputs = _ensemble(net, theta, x)
    told = _told(net, loss, y, "y", call, sample_weight)
    targets = _weighted(_targets(net, y, "y", (), inputs, told, call), sample_weight, inputs, call)
    run = call.run(num_threads, precision, particles)
    out = call.empty((len(particles),), np.float64)
    if isinstance(told, Called):
        _by_called(told, net, particles, inputs, targets.reshape(1, *targets.shape), out.reshape(-1, 1), run)
        return call.result(out)
    call.kernels.risk(net._kernel, particles, inputs, targets, told, out, run)
    return call.result(out)


def task_risks(
    net: TwoLayer,
    theta: Any,
    x: Any,
    ys: Any,
    *,
    loss: Loss = "mse",
    sample_weight: Any = None,
    precision: str = "float32",
    num_threads: int | None = None,
) -> Any:
    """Risks [N, T], float64, on T tasks: from one forward pass where they share inputs x [S, d], from T where
    each has its own, x [T, S, d].

    ys [T, S] (one output, or labels) or [T, S, C]; sample_weight [S] is all tasks'; everything else as in
    `risk` [De Deyn, Herty, Samaey 2025, eq. 27].
    """
    call = call_of(theta, "theta")
    particles = call.array(theta, "theta", FLOATS, ("N", check_network(net).size))
    inputs = call.view(read_as(x, "x", particles.dtype), "x")
    own = ("T",) if inputs.ndim == 3 else ()
    check_array(inputs, "x", (particles.dtype,), (*own, "S", net.inputs), AS_THETA)
    told = _told(net, loss, ys, "ys", call, sample_weight)
    wanted = _targets(net, ys, "ys", inputs.shape[:-2] or ("T",), inputs, told, call)
    targets = _weighted(wanted, sample_weight, inputs, call)
    run = call.run(num_threads, precision, particles)
    out = call.empty((len(particles), len(wanted)), np.float64)
    if isinstance(told, Called):
        _by_called(told, net, particles, inputs, wanted, out, run)
        return call.result(out)
    call.kernels.risk(net._kernel, particles, inputs, targets, told, out, run)
    return call.result(out)


def risk_gradient(
    net: TwoLayer,
    theta: Any,
    x: Any,
    y: Any,
    *,
    loss: Loss = "mse",
    sample_weight: Any = None,
    precision: str = "float32",
    num_threads: int | None = None,
) -> tuple[Any, Any]:
    """Risks [N], float64, and their gradients [N, D], of theta's dtype, for networks theta [N, D].

    Inputs, losses, weights and errors as in `risk`, whose values these are up to rounding. The derivative of
    a ReLU at 0 is 0, and a leaky one's 0.01; those of losses at their corners are 0. ValueError for a loss or
    an activation without a gradient. The same bits for any number of threads [De Deyn, Herty, Samaey 2025,
    eq. 25: d_n].
    """
    call, particles, inputs = _ensemble(net, theta, x)
    told = _told(net, loss, y, "y", call)
    check_smooth(net.activation)
    check_slopes(told)
    targets = _weighted(_targets(net, y, "y", (), inputs, told, call), sample_weight, inputs, call)
    run = call.run(num_threads, precision, particles)
    out = call.empty((len(particles),), np.float64)
    gradient = call.empty(particles.shape, particles.dtype)
    call.kernels.risk_gradient(net._kernel, particles, inputs, targets, told, out, gradient, run)
    return call.result(out), call.result(gradient)


class Plan(NamedTuple):
    """How `risk` goes about its work.

    path: "knots" (one input, ReLU, squared error: sums between the knots of each piecewise linear network, no
        pass over the samples), "direct" (one output, up to 48 inputs: samples stay in registers), "products"
        (matrix products), or "lists" (products that skip the batch's zeros).
    particles: of one task of a thread. samples: packed at a time.
    reason: why this path, in a sentence that says what would change it.
    cost: what a step of the method takes, where one is given. Its path is "low rank" (the products of the
        centre and the inputs are made once for all particles) where its noise is; particles and samples are
        then a step's.
    """

    path: str
    particles: int
    samples: int
    reason: str
    cost: Cost | None = None


def plan(
    net: TwoLayer,
    particles: int,
    samples: int,
    *,
    loss: Loss = "mse",
    tasks: int = 1,
    density: float = 1.0,
    dtype: Any = "float32",
    method: ConsensusHopping | None = None,
) -> Plan:
    """How `risk` would evaluate N = `particles` networks on S = `samples`, with this instruction set.

    density: the share of the inputs that are not zero, in [0, 1]; `risk` counts it in x itself. The threads
    have no say, so results do not depend on them. method: how its steps on S samples would be done with so
    many particles in place of its own, and what they cost. ValueError for sizes below 1, particles or samples
    from 2^40 and tasks from 2^31 on, and for particles that the method does not take; TypeError for a method
    that is no `ConsensusHopping`.
    """
    n, s = integer(particles, "particles", 1, 2**40), integer(samples, "samples", 1, 2**40)
    t = integer(tasks, "tasks", 1, 2**31)
    name = planned(loss_of(loss, check_network(net).outputs))
    filled = unit(density, "density", closed=True)
    single = float_dtype(dtype) == np.float32
    if method is None:
        return Plan(*_cpu.plan(net._kernel, n, s, t, name, filled, single))
    if not isinstance(method, ConsensusHopping):
        raise TypeError(f"method must be a cbokernels.ConsensusHopping, got {method!r:.80}")
    method = method.set_params(particles=n)._for(Shape(net, s))
    told = cost(method, net, n, s, name, 4 if single else 8)
    if method.rank is None:
        return Plan(*_cpu.plan(net._kernel, n, s, t, name, filled, single), told)
    return Plan("low rank", n, s, low_rank_reason(method, net, s), told)


LABELS = "labels of the network's outputs"


def _ensemble(net: TwoLayer, theta: Any, x: Any) -> tuple[Call, Values, Values]:
    call = call_of(theta, "theta")
    particles = call.array(theta, "theta", FLOATS, ("N", check_network(net).size))
    inputs = read_as(x, "x", particles.dtype)
    return call, particles, call.array(inputs, "x", (particles.dtype,), ("S", net.inputs), AS_THETA)


def _told(net: TwoLayer, loss: Loss, y: Any, name: str, call: Call, sample_weight: Any = None) -> KernelLoss:
    """A user's loss, of which y tells what a function of one's own compares with."""
    told = loss_of(loss, net.outputs)
    if is_own(told):
        check_own(told, "cuda" if call.on_device else "cpu", sample_weight is not None)
        told = loss_of(told, net.outputs, call.view(readable(y, name), name))
    return told


def _of_tasks(ys: Any, loss: Called, net: TwoLayer) -> Any:
    """Targets as functions in Python get them: labels [T, S], or values [T, S, C]."""
    return ys if loss.labels else ys.reshape(len(ys), -1, net.outputs)


def _by_called(loss: Called, net: TwoLayer, theta: Any, x: Any, ys: Any, out: Any, threads: Any) -> None:
    """Risks into out [N, T], of targets [T, ...] at x [S, d] or [T, S, d]."""
    ys = _of_tasks(ys, loss, net)
    if x.ndim == 2:
        return called_risks(loss, net, theta, x, ys, out, threads)
    for t, own in enumerate(x):
        called_risks(loss, net, theta, own, ys[t : t + 1], out[:, t : t + 1], threads)
    return None


def label_meaning(loss: KernelLoss, outputs: int) -> str:
    """What labels are, for the message of one out of range."""
    if outputs == 1 and loss == "cross_entropy":
        return "labels of the network's one output: for two classes take outputs=2, or loss 'logistic'"
    return LABELS


def check_one_per_sample(y: Values, name: str, shape: tuple[int | str, ...], outputs: int) -> None:
    """ValueError, with advice, for one value a sample, [S] behind the axes of tasks, where several outputs
    want as many values."""
    if outputs == 1 or y.ndim != len(shape):
        return
    labels, missing = y.dtype.kind in "iub", 0
    if isinstance(y, np.ndarray) and y.dtype.kind == "f":
        missing = int(np.isnan(y).sum())
    advice = ""
    if labels:
        advice = ": for labels say loss='cross_entropy'"
    elif missing:
        advice = (
            f": labels with missing values are no integers ({missing} of them NaN), leave these samples out"
        )
    raise ValueError(
        f"{name} must have shape {text((*shape, outputs))}, or hold integers as labels for 'cross_entropy', "
        f"got {y.dtype} {text(y.shape)}{advice}"
    )


def _check_labels_shape(
    y: Values, name: str, shape: tuple[int | str, ...], outputs: int, loss: KernelLoss
) -> None:
    """ValueError, with advice, for integers that are values of the outputs, counts or one-hot rows."""
    if y.ndim == len(shape) + 1 and y.shape[-1] == outputs and y.dtype.kind in "iub":
        other = "" if is_own(loss) else ", or with loss='mse'"
        raise ValueError(
            f"{name} must have shape {text(shape)}, got {y.dtype} {text(y.shape)}: integers are labels, one "
            f"a sample, for {loss_text(loss)!r}; values must be floats{other}"
        )


def _targets(
    net: TwoLayer, y: Any, name: str, tasks: tuple[int | str, ...], x: Values, loss: KernelLoss, call: Call
) -> Values:
    """Targets as the compiled modules take them, behind the axes `tasks`: [S, C] values (of one output [S]
    too), or [S] int32 labels."""
    shape: tuple[int | str, ...] = (*tasks, x.shape[-2])
    if takes_labels(loss):
        values = call.view(readable(y, name), name)
        if values.ndim == len(shape) + 1 and values.shape[-1] == 1:
            values = values.reshape(*values.shape[:-1])
        _check_labels_shape(values, name, shape, net.outputs, loss)
        if isinstance(loss, Compiled):
            check_item(loss, x.dtype)
        if isinstance(loss, (Called, Compiled)):
            check_shape(values, name, shape)
            return exact_labels(call.host(values), name, x.dtype)
        count = label_count(loss, net.outputs)
        return call.integers(values, name, shape, count, label_meaning(loss, net.outputs), "iub")
    if isinstance(loss, Compiled):
        check_item(loss, x.dtype)
    values = call.view(read_as(y, name, x.dtype), name)
    check_one_per_sample(values, name, shape, net.outputs)
    if net.outputs > 1 or values.ndim > len(shape):
        shape = (*shape, net.outputs)
    check_array(values, name, (x.dtype,), shape, AS_THETA)
    return values


def _weighted(y: Values, sample_weight: Any, x: Values, call: Call) -> Any:
    """Targets with weights [S], where there are any, as the compiled modules take them."""
    if sample_weight is None:
        return y
    read = read_as(sample_weight, "sample_weight", x.dtype)
    weights = call.array(read, "sample_weight", (x.dtype,), (x.shape[-2],), AS_THETA)
    if not call.on_device:
        check_weights(call.host(weights))
    return y, weights


def check_weights(weights: Array) -> None:
    """ValueError unless weights [S] are finite, not negative, not all 0, and can be divided by their mean."""
    wrong = ~((weights >= 0) & (weights < np.inf))
    if wrong.any():
        i = int(wrong.argmax())
        raise ValueError(
            f"sample_weight must be finite and not negative, got {weights[i]} at [{i}] as {weights.dtype}"
        )
    if not weights.any():
        raise ValueError(
            f"sample_weight must not be 0 everywhere, got {len(weights)} zeros as {weights.dtype}"
        )
    with np.errstate(over="ignore", divide="ignore"):
        total = weights.sum(dtype=np.float64)
        scale = np.asarray(len(weights) / total, weights.dtype)
    if not (total < np.inf and scale < np.inf):
        raise ValueError(
            f"sample_weight must have a mean that {weights.dtype} can divide by, got a sum of {total:g}: "
            "only the weights' ratios count"
        )
