"""The kernels on arrays in CUDA memory: the same names, arguments and results as on the CPU.

Nothing here waits for the device. What the host would have to see is therefore left to the kernels: a label
or a task out of range makes its risk or particle NaN, and `consensus` gives NaN weights and an effective
sample size of 0 where no particle has a finite risk, without a warning or an error.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ._arrays import AS_THETA
from ._checks import FLOATS, PRECISIONS, choice, counter, real, threads, unit
from ._checks import first_particle as check_first_particle
from ._checks import seed as check_seed
from ._device_arrays import Call, DeviceArray, check_distinct
from ._device_transport import assign, transport_update, wasserstein2
from .consensus import Consensus
from .network import TwoLayer, check_network
from .risk import LOSSES
from .update import _decays, _noise

__all__ = [
    "adam_update",
    "assign",
    "atom_risks",
    "cbo_update",
    "consensus",
    "forward",
    "hybrid_update",
    "langevin_step",
    "risk",
    "risk_gradient",
    "task_risks",
    "transport_update",
    "wasserstein2",
]

_DOUBLE = np.dtype(np.float64)


def forward(
    net: TwoLayer, theta: Any, x: Any, *, precision: str = "float32", num_threads: int | None = None
) -> Any:
    """As `risk.forward`."""
    call, particles, inputs = _ensemble(net, theta, x, precision, num_threads)
    n, s = particles.shape[0], inputs.shape[0]
    result, out = call.empty(particles.dtype, (n, s, net.outputs))
    call.module.forward(
        call.on, _is_double(particles), _network(net), particles.pointer, n, inputs.pointer, s, out.pointer,
        precision,
    )  # fmt: skip
    return result


def risk(
    net: TwoLayer,
    theta: Any,
    x: Any,
    y: Any,
    *,
    loss: str = "mse",
    precision: str = "float32",
    num_threads: int | None = None,
) -> Any:
    """As `risk.risk`."""
    call, particles, inputs = _ensemble(net, theta, x, precision, num_threads)
    targets, labels = _targets(call, net, y, "y", (), inputs, loss)
    result, out = call.empty(_DOUBLE, particles.shape[:1])
    _risks(call, net, particles, inputs, targets, labels, 1, out, precision)
    return result


def task_risks(
    net: TwoLayer,
    theta: Any,
    x: Any,
    ys: Any,
    *,
    loss: str = "mse",
    precision: str = "float32",
    num_threads: int | None = None,
) -> Any:
    """As `risk.task_risks`."""
    call, particles = _networks(net, theta, precision, num_threads)
    own = ("T",) if call.view(x, "x").ndim == 3 else ()
    inputs = call.array(x, "x", (particles.dtype,), (*own, "S", net.inputs), AS_THETA)
    targets, labels = _targets(call, net, ys, "ys", inputs.shape[:-2] or ("T",), inputs, loss)
    tasks = targets.shape[0]
    result, out = call.empty(_DOUBLE, (particles.shape[0], tasks))
    if not own:
        _risks(call, net, particles, inputs, targets, labels, tasks, out, precision)
        return result
    for t in range(tasks):
        one = _risks_of(call, net, particles, inputs.entry(t), targets.entry(t), labels)
        call.module.risk(*one, 1, out.pointer + t * _DOUBLE.itemsize, tasks, precision)
    return result


def risk_gradient(
    net: TwoLayer,
    theta: Any,
    x: Any,
    y: Any,
    *,
    loss: str = "mse",
    precision: str = "float32",
    num_threads: int | None = None,
) -> tuple[Any, Any]:
    """As `risk.risk_gradient`."""
    call, particles, inputs = _ensemble(net, theta, x, precision, num_threads)
    targets, labels = _targets(call, net, y, "y", (), inputs, loss)
    risks, out = call.empty(_DOUBLE, particles.shape[:1])
    gradients, slope = call.empty(particles.dtype, particles.shape)
    _gradient(call, net, particles, inputs, targets, labels, out, slope, precision)
    return risks, gradients


def atom_risks(
    net: TwoLayer,
    center: Any,
    theta: Any,
    x: Any,
    y: Any,
    *,
    loss: str = "mse",
    precision: str = "float32",
    num_threads: int | None = None,
) -> Any:
    """As `hopping.atom_risks`."""
    call, particles, inputs = _ensemble(net, theta, x, precision, num_threads)
    start = call.array(center, "center", (particles.dtype,), (net.size,))
    targets, labels = _targets(call, net, y, "y", (), inputs, loss)
    n = particles.shape[0]
    result, out = call.empty(_DOUBLE, (n, net.width))
    call.module.atom_risks(
        call.on, _is_double(particles), _network(net), start.pointer, particles.pointer, n, inputs.pointer,
        inputs.shape[0], targets.pointer, labels, out.pointer,
    )  # fmt: skip
    return result


def consensus(theta: Any, risk: Any, *, alpha: float = 1e5, num_threads: int | None = None) -> Consensus:
    """As `consensus.consensus`, but for the module's note; the effective sample size is an array."""
    call = Call(theta, "theta")
    particles = call.array(theta, "theta", FLOATS, ("N", "D"))
    count, size = particles.shape
    lead: tuple[int, ...] = () if call.view(risk, "risk").ndim == 1 else call.view(risk, "risk").shape[1:]
    risks = call.array(risk, "risk", (_DOUBLE,), (count, *("T" for _ in lead[:1])))
    alpha = real(alpha, "alpha", 0.0, infinite=True)
    threads(num_threads)
    point, p = call.empty(particles.dtype, (*lead, size))
    weights, w = call.empty(_DOUBLE, risks.shape)
    ess, e = call.empty(_DOUBLE, lead)
    call.module.consensus(
        call.on, _is_double(particles), particles.pointer, risks.pointer, count, size, lead[0] if lead else 1,
        alpha, p.pointer, w.pointer, e.pointer,
    )  # fmt: skip
    return Consensus(point, weights, ess)


def cbo_update(
    theta: Any,
    point: Any,
    *,
    drift: float = 1.0,
    diffusion: float = 1.6**0.5,
    dt: float = 0.1,
    noise: str = "anisotropic",
    floor: float = 0.0,
    seed: int = 0,
    step: int = 0,
    task: Any = None,
    radius: float | None = None,
    first_particle: int = 0,
    out: Any = None,
    num_threads: int | None = None,
) -> Any:
    """As `update.cbo_update`."""
    call, particles = _particles(theta)
    points, tasks = _points(call, point, task, particles)
    scalars = real(drift, "drift"), real(diffusion, "diffusion", 0.0), real(dt, "dt", 0.0)
    law = _noise(noise, floor, radius)
    words = check_seed(seed), counter(step, "step"), check_first_particle(first_particle, particles.shape[0])
    threads(num_threads)
    result, target = _target(call, particles, out)
    particles, points = call.apart(particles, "theta", target), call.apart(points, "point", target)
    call.module.cbo_update(
        call.on, _is_double(particles), particles.pointer, target.pointer, *particles.shape, points.pointer,
        tasks, _rows(points), *scalars, *law, *words,
    )  # fmt: skip
    return result


def adam_update(
    theta: Any,
    gradient: Any,
    first: Any,
    second: Any,
    *,
    step: int = 1,
    lr: float = 0.1,
    beta1: float = 0.9,
    beta2: float = 0.999,
    delta: float = 1e-8,
    out: Any = None,
    num_threads: int | None = None,
) -> Any:
    """As `update.adam_update`."""
    call, particles = _particles(theta)
    step, decays = _decays(step, beta1, beta2, delta)
    lr = real(lr, "lr", 0.0)
    threads(num_threads)
    result, target = _target(call, particles, out)
    particles, slope, s, r = _descent(call, particles, gradient, first, second, target)
    call.module.adam_update(
        call.on, _is_double(particles), particles.pointer, target.pointer, *particles.shape, slope.pointer,
        s.pointer, r.pointer, step, lr, *decays,
    )  # fmt: skip
    return result


def hybrid_update(
    theta: Any,
    point: Any,
    gradient: Any,
    first: Any,
    second: Any,
    *,
    mix: float = 0.7,
    drift: float = 1.0,
    diffusion: float = 1.2**0.5,
    dt: float = 0.1,
    noise: str = "anisotropic",
    seed: int = 0,
    step: int = 1,
    beta1: float = 0.9,
    beta2: float = 0.999,
    delta: float = 1e-8,
    task: Any = None,
    radius: float | None = None,
    first_particle: int = 0,
    out: Any = None,
    num_threads: int | None = None,
) -> Any:
    """As `update.hybrid_update`."""
    call, particles = _particles(theta)
    points, tasks = _points(call, point, task, particles)
    scalars = real(drift, "drift"), real(diffusion, "diffusion", 0.0), real(dt, "dt", 0.0)
    mix = unit(mix, "mix", closed=True)
    law, _, reach = _noise(noise, 0.0, radius)
    step, decays = _decays(step, beta1, beta2, delta)
    seed, first_particle = check_seed(seed), check_first_particle(first_particle, particles.shape[0])
    threads(num_threads)
    result, target = _target(call, particles, out)
    particles, slope, s, r = _descent(call, particles, gradient, first, second, target)
    points = call.apart(points, "point", s, r, target)
    call.module.hybrid_update(
        call.on, _is_double(particles), particles.pointer, target.pointer, *particles.shape, points.pointer,
        tasks, _rows(points), slope.pointer, s.pointer, r.pointer, mix, *scalars, law, reach, seed, step,
        *decays, first_particle,
    )  # fmt: skip
    return result


def langevin_step(
    net: TwoLayer,
    theta: Any,
    velocity: Any,
    x: Any,
    y: Any,
    *,
    loss: str = "mse",
    friction: float = 1.0,
    temperature: float = 0.0,
    dt: float = 0.1,
    seed: int = 0,
    step: int = 0,
    gradient: Any = None,
    precision: str = "float32",
    num_threads: int | None = None,
) -> Any:
    """As `langevin.langevin_step`."""
    call, particles, inputs = _ensemble(net, theta, x, precision, num_threads)
    if net.output_bias or net.scaling != "mean":
        raise ValueError(f"net must have scaling='mean' and no output_bias, got {net}")
    dtype, shape = particles.dtype, particles.shape
    q, r = call.output(theta, dtype, shape, "theta"), call.output(velocity, dtype, shape, "velocity")
    g = call.empty(dtype, shape)[1] if gradient is None else call.output(gradient, dtype, shape, "gradient")
    check_distinct(theta=q, velocity=r, gradient=g)
    targets, labels = _targets(call, net, y, "y", (), inputs, loss)
    scalars = real(friction, "friction", 0.0), real(temperature, "temperature", 0.0), real(dt, "dt", 0.0)
    words = check_seed(seed), counter(step, "step")
    inputs, targets = call.apart(inputs, "x", q, r, g), call.apart(targets, "y", q, r, g)
    result, out = call.empty(_DOUBLE, shape[:1])
    kernels, double = call.module, _is_double(q)
    if gradient is None:
        _gradient(call, net, q, inputs, targets, labels, out, g, precision)
    kernels.langevin_drift(
        call.on, double, q.pointer, r.pointer, g.pointer, *shape, net.width, *scalars, *words
    )
    _gradient(call, net, q, inputs, targets, labels, out, g, precision)
    kernels.langevin_kick(call.on, double, r.pointer, g.pointer, *shape, net.width, scalars[-1])
    return result


def _is_double(a: DeviceArray) -> bool:
    return a.dtype == _DOUBLE


def _network(net: TwoLayer) -> tuple[int, int, int, str, float, bool]:
    scale = 1 / net.width if net.scaling == "mean" else 1.0
    return net.inputs, net.width, net.outputs, net.activation, scale, net.output_bias


def _particles(theta: Any) -> tuple[Call, DeviceArray]:
    call = Call(theta, "theta")
    return call, call.array(theta, "theta", FLOATS, ("N", "D"))


def _networks(net: TwoLayer, theta: Any, precision: str, num_threads: int | None) -> tuple[Call, DeviceArray]:
    call = Call(theta, "theta")
    particles = call.array(theta, "theta", FLOATS, ("N", check_network(net).size))
    if choice(precision, "precision", PRECISIONS) != "float32" and _is_double(particles):
        raise ValueError(f"precision must be 'float32' for float64 arrays, got {precision!r}")
    threads(num_threads)
    return call, particles


def _ensemble(
    net: TwoLayer, theta: Any, x: Any, precision: str, num_threads: int | None
) -> tuple[Call, DeviceArray, DeviceArray]:
    call, particles = _networks(net, theta, precision, num_threads)
    return call, particles, call.array(x, "x", (particles.dtype,), ("S", net.inputs), AS_THETA)


def _targets(
    call: Call, net: TwoLayer, y: Any, name: str, tasks: tuple[int | str, ...], x: DeviceArray, loss: str
) -> tuple[DeviceArray, bool]:
    """Targets, and whether they are labels."""
    samples = x.shape[-2]
    if choice(loss, "loss", LOSSES) == "cross_entropy":
        return call.integers(y, name, (*tasks, samples)), True
    shape: tuple[int | str, ...] = (*tasks, samples)
    if net.outputs > 1 or call.view(y, name).ndim > len(shape):
        shape = (*shape, net.outputs)
    return call.array(y, name, (x.dtype,), shape, AS_THETA), False


def _risks(
    call: Call, net: TwoLayer, theta: DeviceArray, x: DeviceArray, y: DeviceArray, labels: bool, tasks: int,
    out: DeviceArray, precision: str,
) -> None:  # fmt: skip
    call.module.risk(*_risks_of(call, net, theta, x, y, labels), tasks, out.pointer, 1, precision)


def _risks_of(
    call: Call, net: TwoLayer, theta: DeviceArray, x: DeviceArray, y: DeviceArray, labels: bool
) -> tuple[Any, ...]:
    """The compiled function's first arguments."""
    return (
        call.on, _is_double(theta), _network(net), theta.pointer, theta.shape[0], x.pointer, x.shape[0],
        y.pointer, labels,
    )  # fmt: skip


def _gradient(
    call: Call, net: TwoLayer, theta: DeviceArray, x: DeviceArray, y: DeviceArray, labels: bool,
    out: DeviceArray, gradient: DeviceArray, precision: str,
) -> None:  # fmt: skip
    call.module.risk_gradient(
        call.on, _is_double(theta), _network(net), theta.pointer, theta.shape[0], x.pointer, x.shape[0],
        y.pointer, labels, out.pointer, gradient.pointer, precision,
    )  # fmt: skip


def _points(call: Call, point: Any, task: Any, theta: DeviceArray) -> tuple[DeviceArray, int]:
    """Points, and the address of each particle's row of them; 0 where there is one point for all."""
    count, size = theta.shape
    if task is None:
        if call.view(point, "point").ndim == 2:
            raise ValueError("task [N] is required for point [T, D], got None")
        return call.array(point, "point", (theta.dtype,), (size,), AS_THETA), 0
    points = call.array(point, "point", (theta.dtype,), ("T", size), AS_THETA)
    rows = call.integers(task, "task", (count,))
    return points, rows.pointer


def _rows(points: DeviceArray) -> int:
    return points.shape[0] if points.ndim == 2 else 1


def _target(call: Call, theta: DeviceArray, out: Any) -> tuple[Any, DeviceArray]:
    """What is returned, and where the kernel writes."""
    if out is None:
        return call.empty(theta.dtype, theta.shape)
    return out, call.output(out, theta.dtype, theta.shape)


def _descent(
    call: Call, theta: DeviceArray, gradient: Any, first: Any, second: Any, target: DeviceArray
) -> tuple[DeviceArray, DeviceArray, DeviceArray, DeviceArray]:
    """theta, the gradient and both moments of Adam's part, apart from what it writes."""
    slope = call.array(gradient, "gradient", (theta.dtype,), theta.shape, AS_THETA)
    s = call.output(first, theta.dtype, theta.shape, "first")
    r = call.output(second, theta.dtype, theta.shape, "second")
    check_distinct(first=s, second=r, out=target)
    theta, slope = (call.apart(a, "theta", s, r, target) for a in (theta, slope))
    return theta, slope, s, r
