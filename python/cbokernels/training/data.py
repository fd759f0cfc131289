"""The caller's data as a run needs it: checked and cast once, then served in minibatches."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _cpu
from .._arrays import HOST, Array, Call, Values, call_of, check_shape, view
from .._arrays.call import text
from .._checks import kind
from .._inputs import readable
from .._kinds import is_own, label_count, loss_of, takes_labels
from .._own_losses import Called, called_atom_risks, called_risks, drawn
from .._ranks import Ranks
from ..methods.base import Minibatches
from ..methods.hopping_ranks import DrawnOnHost, shared_gradient
from ..network import TwoLayer
from ..risk import _targets as targets
from ..risk import check_one_per_sample, label_meaning
from .checkpoint import fingerprint

if TYPE_CHECKING:
    from .._cpu import KernelLoss, Key
    from .._kinds import Loss
    from .standard import Standard

_ORDER = 2  # stream of the random numbers that shuffle the data


@dataclasses.dataclass(frozen=True)
class Data:
    """The caller's data, checked, where they lie, and what they say of themselves."""

    x: Values  # [S, d] or [T, S, d]
    y: Values  # [T, S, C] of the same dtype, or int32 labels [T, S]
    loss: KernelLoss
    task_axis: bool  # whether the caller's y has an axis of tasks
    call: Call  # whose arrays they are
    weights: Values | None = None  # [S] of the same dtype

    @property
    def samples(self) -> int:
        """S."""
        return self.x.shape[-2]

    def arrays(self) -> dict[str, Values]:
        """x, y and the weights, by the names that the caller knows."""
        weights = {} if self.weights is None else {"sample_weight": self.weights}
        return {"x": self.x, "y": self.y, **weights}

    def fingerprints(self) -> dict[str, str]:
        """Text that tells x, y and weights apart from others; brings them to the host for it."""
        return {name: fingerprint(self.call.host(a)) for name, a in self.arrays().items()}

    def weighted(self, weights: Values, part: slice) -> Data:
        """These data with weights of all samples; data that are a part of them take that part."""
        if self.samples < len(weights):
            weights = self.call.view(self.call.host(weights)[part], "sample_weight")
        return dataclasses.replace(self, weights=weights)


def training_data(
    call: Call, net: TwoLayer, x: Any, y: Any, loss: Loss | KernelLoss | None, dtype: np.dtype[Any],
    task_axes: tuple[str, ...] | None, names: tuple[str, str] = ("x", "y"),
) -> Data:  # fmt: skip
    """The caller's x and y, cast to `dtype`; `names` are those that messages call them by.

    The caller's y has the axes `task_axes`, ("T",) or none for T = 1, before the samples; x may have them.
    None: either, as x and y show.
    """
    of_x, of_y = names
    x = call.floats(x, of_x, dtype)
    own = ("T",) if task_axes != () and x.ndim == 3 else ()
    if task_axes != () or x.ndim != 3:
        check_shape(x, of_x, (*own, "S", net.inputs))
    given = call.view(y, of_y)
    told = loss_for(net, given, loss)
    labels = takes_labels(told)
    if task_axes == ():
        _check_one_task(net, x, given, labels, names)
    if task_axes is None:
        task_axes = own or axes_shown(net, x, given, labels)
    cast = given if labels else call.floats(given, of_y, dtype)
    checked = targets(net, cast, of_y, x.shape[:-2] or task_axes, x, told, call)
    if labels and call.on_device:
        call.check_range(checked, of_y, label_count(told, net.outputs), label_meaning(told, net.outputs))
    elif labels and not is_own(told):
        checked = call.apart(checked, given)  # they are checked once: nobody may change them afterwards
    checked = checked.reshape(-1, x.shape[-2], *(() if labels else (net.outputs,)))
    call.check_finite(x, of_x)
    if not labels:
        call.check_finite(cast, of_y)
    return Data(x, checked, told, bool(task_axes), call)


def loss_for(net: TwoLayer, y: Any, loss: Loss | KernelLoss | None) -> KernelLoss:
    """The caller's loss, or that which y suggests."""
    if loss is None:
        loss = "cross_entropy" if y.dtype.kind in "iub" and net.outputs > 1 else "mse"
    return loss_of(loss, net.outputs, y) if is_own(loss) or not isinstance(loss, tuple) else loss


def validation_data(
    net: TwoLayer, validation: Any, training: Data, on_card: bool, standard: Standard | None = None
) -> Data:
    """The caller's pair (x, y), of the same kinds as the training's; copies, unless they lie on a card."""
    if not isinstance(validation, (tuple, list)) or len(validation) != 2:
        length = f" of {len(validation)}" if isinstance(validation, (tuple, list)) else ""
        raise TypeError(f"validation must be a pair (x, y), got {kind(validation)}{length}")
    x, y = readable(validation[0], "validation[0]"), readable(validation[1], "validation[1]")
    names = ("validation[0]", "validation[1]")
    if standard is not None:
        x = standard.apply(x, names[0])
    call = call_of(x, names[0]) if on_card else HOST
    axes = ("T",) if training.task_axis else ()
    data = training_data(call, net, x, y, training.loss, training.x.dtype, axes, names)
    if len(data.y) != len(training.y):
        raise ValueError(f"validation[1] must have {len(training.y)} tasks as y has, got {len(data.y)}")
    if call.on_device:
        return data
    own = (call.apart(data.x, view(x, names[0])), call.apart(data.y, view(y, names[1])))
    return dataclasses.replace(data, x=own[0], y=own[1])


def _check_one_task(net: TwoLayer, x: Values, y: Values, labels: bool, names: tuple[str, str]) -> None:
    """ValueError, with advice, for data of several tasks and for labels that are no integers."""
    of_x, of_y = names
    samples = x.shape[-2]
    one: list[tuple[int, ...]] = [(samples,)] if labels or net.outputs == 1 else []
    if not labels:
        one.append((samples, net.outputs))
    if x.ndim == 3 or (y.shape[1:] in one and y.shape != (samples, 1)):
        x_or_y = f"{of_x} must have shape [S, {net.inputs}], got {text(x.shape)}"
        if x.ndim != 3:
            x_or_y = f"{of_y} must have shape {text(one[0])}, got {text(y.shape)}"
        raise ValueError(f"{x_or_y}: several tasks are for MultiTaskCBO and TransportCBO")
    if not labels and net.outputs > 1 and y.shape == (samples,):
        check_one_per_sample(y, of_y, (samples,), net.outputs)


def axes_shown(net: TwoLayer, x: Values, y: Values, labels: bool) -> tuple[str, ...]:
    """("T",) where y has more axes than one task's. A column [S, 1] of one output's values, or of labels, is
    one task."""
    axes = 2
    if labels or net.outputs == 1:
        axes = 2 if y.ndim == 2 and y.shape[1] == 1 and not len(x) == 1 < len(y) else 1
    return ("T",) if y.ndim > axes else ()


class DataBatch(DrawnOnHost):
    """Samples to score networks on. Its arrays are filled anew for each minibatch. Unless `ensemble` is 0,
    what is scored is a part of so many particles."""

    def __init__(
        self, net: TwoLayer, x: Array, y: Array, weights: Array | None, loss: KernelLoss, threads: int,
        ensemble: int = 0,
    ) -> None:  # fmt: skip
        self.x, self.y, self.weights, self._loss = x, y, weights, loss
        # as the compiled module takes them: all tasks', and the first one's
        self.targets = y if weights is None else (y, weights)
        self._first = y[0] if weights is None else (y[0], weights)
        self.net, self._threads, self._ensemble = net._kernel.part_of(ensemble), threads, ensemble
        self._atom_index, self._columns = net._atom_index, net.outputs

    def risk(self, theta: Array, out: Array) -> None:
        """Risks of theta [n, D] into out [n, T], float64."""
        _cpu.risk(self.net, theta, self.x, self.targets, self._loss, out, self._threads)

    def hopping_risk(
        self, center: Array, particles: int, spread: float, mirrored: bool, key: Key, atoms: bool, out: Array
    ) -> None:
        """Risks of particles drawn around a centre [D], those of a pair in two rows that follow each other,
        into out [particles, 1], or [particles, M] of their atoms."""
        _cpu.hopping_risk(
            self.net, center, particles, spread, mirrored, key, self.x, self._first, self._loss, atoms, out,
            self._threads,
        )  # fmt: skip

    def formed_risk(
        self, center: Array, particles: int, spread: float, mirrored: bool, key: Key, atoms: bool, out: Array,
        rounding: tuple[Array, int] | None = None,
    ) -> None:  # fmt: skip
        """`hopping_risk` of particles that are formed, some at a time; rounding: as `round_rows` takes it, of
        the centre too."""
        samples, base = len(self.x) * self._columns, center[None]
        if rounding is not None:
            base = base.copy()
            _cpu.round_rows(base, *rounding, self._threads)
        for rows, theta in drawn(center, particles, spread, mirrored, key, samples, self._threads):
            if rounding is not None:
                _cpu.round_rows(theta, *rounding, self._threads)
            risks = np.empty((len(theta), out.shape[1]))
            self._formed(base[0], theta, atoms, max(particles, self._ensemble), risks)
            pairs = risks.reshape(2 if mirrored else 1, -1, out.shape[1])
            out[rows] = np.swapaxes(pairs, 0, 1).reshape(risks.shape)

    def _formed(self, center: Array, theta: Array, atoms: bool, ensemble: int, out: Array) -> None:
        """Risks of theta [n, D], a part of so many particles, or of a centre with their atoms."""
        if atoms:
            _cpu.atom_risks(self.net, center, theta, self.x, self._first, self._loss, out, self._threads)
        else:
            _cpu.risk(self.net.part_of(ensemble), theta, self.x, self.targets, self._loss, out, self._threads)

    def low_rank_risk(
        self, center: Array, particles: int, spread: float, mirrored: bool, key: Key, noise: tuple[int, bool],
        atoms: bool, out: Array,
    ) -> bool:  # fmt: skip
        """The same with noise of low rank, (rank, whether directions are to lie in the batch's span); whether
        they do."""
        return _cpu.low_rank_risks(
            self.net, center, particles, spread, mirrored, key, self.x, self._first, self._loss, *noise,
            atoms, out, self._threads,
        )  # fmt: skip

    def low_rank_drift(
        self, weights: Array, key: Key, noise: tuple[int, bool], atoms: bool, out: Array
    ) -> None:
        """The sum of weights [draws, 1 or M] times that noise, into out [D]."""
        _cpu.low_rank_drift(self.net, self.x, weights, key, *noise, atoms, out, self._threads)

    def fit_weights(self, risk: Array, key: Key, rank: int, spanned: bool, ess: Array) -> int:
        """Risks [2n, M] of pairs become, in the first n rows, the weights of their noise that fit their
        differences; ess [M], and the number of rows that are not finite."""
        length, single = self.x.shape[-1 - spanned], self.x.dtype == np.float32
        return _cpu.fit_weights(self.net, rank, length, key, single, risk, ess, self._threads)

    def atoms_of(self, atoms: bool) -> Array | None:
        """The neuron [D] of each coordinate, where `atoms`."""
        return self._atom_index if atoms else None

    def own_risks(self, theta: Array, out: Array) -> None:
        """Risks of theta [T, D], row t on task t alone, into out [T], float64."""
        _cpu.own_risks(self.net, theta, self.x, self.targets, self._loss, out, self._threads)

    def outputs(self, theta: Array) -> Array:
        """Outputs [T, S, C] of theta [T, D], row t at the inputs of task t."""
        out = np.empty((len(theta), self.x.shape[-2], self._columns), self.x.dtype)
        if self.x.ndim == 2:
            _cpu.forward(self.net, theta, self.x, out, self._threads)
        else:
            for t, own in enumerate(self.x):
                _cpu.forward(self.net, theta[t : t + 1], own, out[t : t + 1], self._threads)
        return out

    def gradient(self, theta: Array, out: Array, gradient: Array) -> None:
        """Risks of theta [n, D] on the first task into out [n], float64, and their gradients [n, D]."""
        _cpu.risk_gradient(self.net, theta, self.x, self._first, self._loss, out, gradient, self._threads)

    def hopping_gradient(
        self, center: Array, particles: int, spread: float, mirrored: bool, key: Key, atoms: bool,
        fraction: float, out: Array,
    ) -> tuple[float, float, int]:  # fmt: skip
        """Minus the consensus drift of particles drawn around a centre [D], into out [D]; ess, alpha, and the
        number of non-finite risks. No particle is stored."""
        return _cpu.hopping_gradient(
            self.net, center, particles, spread, mirrored, key, self.x, self._first, self._loss,
            self.atoms_of(atoms), fraction, out, self._threads,
        )  # fmt: skip


class CalledBatch(DataBatch):
    """Samples to score networks on by a function in Python, which no kernel calls."""

    def __init__(
        self, net: TwoLayer, x: Array, y: Array, weights: Array | None, loss: Any, threads: int,
        ensemble: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(net, x, y, weights, loss, threads, ensemble)
        self._of, self._called = net, loss

    def risk(self, theta: Array, out: Array) -> None:
        shared = self.x.ndim == 2
        for t, x in enumerate([self.x] if shared else self.x):
            tasks = slice(None) if shared else slice(t, t + 1)
            called_risks(
                self._called, self._of, theta, x, self.y[tasks], out[:, tasks], self._threads, self._ensemble
            )

    def own_risks(self, theta: Array, out: Array) -> None:
        for t, y in enumerate(self.y):
            x, own = self.x if self.x.ndim == 2 else self.x[t], slice(t, t + 1)
            called_risks(self._called, self._of, theta[own], x, y[None], out[own, None], self._threads)

    def hopping_risk(
        self, center: Array, particles: int, spread: float, mirrored: bool, key: Key, atoms: bool, out: Array
    ) -> None:
        self.formed_risk(center, particles, spread, mirrored, key, atoms, out)

    def _formed(self, center: Array, theta: Array, atoms: bool, ensemble: int, out: Array) -> None:
        given = self._called, self._of
        if atoms:
            called_atom_risks(*given, center, theta, self.x, self.y[0], out, self._threads)
        else:
            called_risks(*given, theta, self.x, self.y[:1], out, self._threads, ensemble)

    def hopping_gradient(
        self, center: Array, particles: int, spread: float, mirrored: bool, key: Key, atoms: bool,
        fraction: float, out: Array,
    ) -> tuple[float, float, int]:  # fmt: skip
        alone = Ranks()
        alone.deal(particles // (2 if mirrored else 1))
        how = particles, spread, mirrored, key, atoms, fraction
        return shared_gradient(alone, self, center, *how, out, self._threads)[:3]


class Orders:
    """How the data are divided into minibatches: each epoch is one shuffled partition, the smaller last batch
    kept. Without a batch size the whole data, in their own order, are each epoch's only batch."""

    def __init__(self, samples: int, batch_size: int | None, seed: int) -> None:
        self.batch_size = batch_size or 0  # 0: all, in their own order
        self.steps_per_epoch = -(-samples // self.batch_size) if batch_size else 1
        self._seed, self._order = seed, None if batch_size is None else np.empty(samples, np.int64)

    def order(self, epoch: int) -> Array | None:
        """The samples' order in an epoch, None for their own; valid until the next one is asked for."""
        if self._order is not None:
            _cpu.permutation(self._order, len(self._order), self._seed, epoch, _ORDER)
        return self._order


class DataProblem(Orders):
    """Training data in minibatches.

    Tasks with inputs of their own, x [T, S, d], take the same samples' numbers into a batch.
    """

    def __init__(
        self, net: TwoLayer, data: Data, batch_size: int | None, seed: int, threads: int, ensemble: int = 0
    ) -> None:  # fmt: skip
        super().__init__(data.samples, batch_size, seed)
        x, y, loss = data.call.host(data.x), data.call.host(data.y), data.loss
        weights = None if data.weights is None else data.call.host(data.weights)
        self._called = isinstance(loss, Called)
        made = CalledBatch if self._called else DataBatch
        self._whole, self._loss = made(net, x, y, weights, loss, threads, ensemble), loss
        self._alone = made(net, x, y, weights, loss, threads)
        self._parts: list[tuple[Array, DataBatch]] = []
        buffers: dict[int, DataBatch] = {}
        order = np.empty(0, np.int64) if self._order is None else self._order
        for start in range(0, len(order), self.batch_size or 1):
            rows = order[start : start + self.batch_size]
            if len(rows) not in buffers:
                xb = np.empty((*x.shape[:-2], len(rows), x.shape[-1]), x.dtype)
                yb = np.empty((len(y), len(rows), *y.shape[2:]), y.dtype)
                wb = None if weights is None else np.empty(len(rows), weights.dtype)
                buffers[len(rows)] = made(net, xb, yb, wb, loss, threads, ensemble)
            self._parts.append((rows, buffers[len(rows)]))

    def minibatches(self, epoch: int) -> Minibatches | None:
        """The epoch's minibatches for a compiled epoch, which has one x for all tasks and calls no Python."""
        whole = self._whole
        if whole.x.ndim == 3 or self._called:
            return None
        size = self.batch_size or whole.x.shape[0]
        return Minibatches(whole.net, whole.x, whole.targets, self._loss, self.order(epoch), size)

    def batches(self, epoch: int) -> Iterator[DataBatch]:
        """The epoch's minibatches; each is valid until the next one is asked for."""
        if self.order(epoch) is None:
            yield self._whole
        x, y = self._whole.x, self._whole.y
        for rows, batch in self._parts:
            # "clip" is NumPy's only mode that writes straight into `out`; the rows are in range anyway.
            x.take(rows, x.ndim - 2, batch.x, "clip")
            y.take(rows, 1, batch.y, "clip")
            if self._whole.weights is not None and batch.weights is not None:
                self._whole.weights.take(rows, 0, batch.weights, "clip")
            yield batch

    @property
    def targets(self) -> Array:
        """The full data's y, [T, S, C] values or [T, S] labels, read-only."""
        view = self._whole.y.view()
        view.flags.writeable = False
        return view

    def outputs(self, theta: Array) -> Array:
        """Outputs [T, S, C] of theta [T, D] on the full data, row t at the inputs of task t."""
        return self._alone.outputs(theta)

    def risks(self, theta: Array, ensemble: int = 0) -> Array:
        """Risks [n] of theta [n, D] on the full data; with T > 1 tasks n is T, and row t is for task t. With
        `ensemble` they are a part of the run's particles."""
        if len(self._whole.y) > 1:
            own = np.empty(len(theta))
            self._whole.own_risks(theta, own)
            return own
        out = np.empty((len(theta), 1))
        (self._whole if ensemble else self._alone).risk(theta, out)
        return out[:, 0]
