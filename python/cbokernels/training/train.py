"""Training of two-layer networks."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from .._arrays import Array
from .._checks import PRECISIONS, WORD, boolean, choice, float_dtype, integer, real, threads
from .._checks import precision as check_precision
from .._checks import seed as check_seed
from .._inputs import readable
from .._kinds import Loss, check_own, check_slopes, check_smooth, loss_of, loss_text
from .._own_losses import Called
from .._ranks import Ranks
from ..methods.base import Method, Setting, Shape, check_method
from ..methods.hopping import ConsensusHopping
from ..network import TwoLayer, check_network
from ..result import Result, State, pack_net
from .advice import advise, advise_on_folding
from .arguments import check_callback, check_device, own_particles, particles_of
from .checkpoint import alone, fingerprint
from .checkpoint import checkpoint as check_checkpoint
from .counting import weights_that_count
from .data import Data, training_data
from .loop import run
from .metrics import checked_metrics, evaluation_of
from .options import Options
from .places import Place, SplitPlace, place_of
from .sharing import check_alone, check_split, on_ranks, same_on_all, share, together, whole_start
from .standard import Standard
from .stopping import Stopping


def train(
    net: TwoLayer,
    x: Any,
    y: Any,
    method: Method | None = None,
    *,
    loss: Loss | None = None,
    epochs: int = 1000,
    batch_size: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    dtype: Any = "float32",
    theta: Any = None,
    progress: bool = False,
    callback: Callable[[State], object] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    every: int = 10,
    resume: bool = False,
    validation: tuple[Any, Any] | None = None,
    metrics: Any = (),
    every_epochs: int = 1,
    target: float | None = None,
    patience: int | None = None,
    tolerance: float = 0.0,
    sample_weight: Any = None,
    weight_decay: float = 0.0,
    standardize: bool = False,
    on_interrupt: str = "raise",
    num_threads: int | None = None,
    precision: str = "float32",
    comm: Any = None,
    deterministic: bool = False,
    data: str = "replicated",
) -> Result:
    """Train networks on data x [S, d] and y with a method; return a `Result`.

        net = cbk.TwoLayer(1, 100, 1)
        result = cbk.train(net, x, y, validation=(x_new, y_new), patience=50)
        print(result.message, result.best_risk)
        outputs = result.predict(x_new, best=True)

    method: `CBO`, `ConsensusHopping`, `MultiTaskCBO`, `TransportCBO`, `Adam`, `Hybrid`, `HeavyBall` or
        `GradientFlow`. None: `ConsensusHopping()`, which needs no gradient. The result's `method` has what a
        method chooses by the shape.

    x: arrays of any real dtype, lists, or frames of pandas or Polars; y too.
    y: as the loss wants it, values [S] or [S, 1] (C = 1) or [S, C], or labels [S] or [S, 1], which are
        integers or booleans; for `MultiTaskCBO` with an axis of T tasks before these, which x may have too,
        for `TransportCBO` with or without. x and values are cast to `dtype` once and must be finite.
    loss: as in `risk`. None: "cross_entropy" when y holds integers or booleans and C > 1, else "mse".
        ValueError for a loss without a gradient, where the method needs one. A function of one's own must be
        given again to resume; the checkpoint knows its name alone.
    batch_size: samples per step, S'. Each epoch is one shuffled partition of the data, a smaller last batch
        kept, one step per batch. None: the whole data in their own order, one step per epoch.
    seed: in [0, 2^64). The same seed gives the same bits for any number of threads.
    device: "cpu" or "cuda" (`CudaUnavailableError` where there is none; see below). dtype: "float32" or
        "float64".
    theta: initial particles [N, D] of that dtype, copied; None: as many as the method says, U(-1, 1), or
        for `Adam` as PyTorch draws them.
    progress: show a tqdm bar (time left, watched risk, ess, steps per second), ever more seldom in a log.
    callback: called with a `State` after every epoch; the run ends there if it returns anything that is true,
        or raises StopIteration.
    checkpoint: a path, where the run is saved after every `every` epochs, at the end, and as its last whole
        epoch left it when an exception, Ctrl-C or SIGTERM (then a SystemExit; only in the main thread, where
        nobody handles it) ends it. Without `resume` an older checkpoint there is written over; ValueError for
        another kind of file. OSError at once where it cannot be written, `CboError` where another run
        that has not ended writes it; a save that fails later is a `CboWarning`. A save is whole or does not
        count, and writes as much however long the run is. The run then works on copies of x and y, and of its
        arrays (but data on a card are used where they are).
    resume: continue the run in `checkpoint`, where there is one, to the same bits as never having stopped,
        and to the same stop. ValueError, naming the difference, if it is of another configuration. More
        epochs are no other configuration unless a schedule depends on them; nor are target, patience and
        tolerance. `CboWarning` if another version of the library or another instruction set wrote it: bits
        may differ then.
    validation: (x [S', d], y), other data of the same kinds, cast in the same way. Their risk is
        "validation_risk" in the history, and it is watched in place of the training's.
    metrics: "accuracy", "r2", "mae", a dict {name: f(y, outputs) -> float}, or several of both. Each is
        evaluated on the data, and on the validation's as "validation_" and its name, for what `predict` of
        that epoch's parameters would give: outputs [S, C], and y as cast, labels [S] or values [S, C].
        Of several tasks each has a value of its own, [E, T]. "accuracy" is a share; for y [S, C] it compares
        the largest entries. "r2" and "mae" are means over outputs.
    every_epochs: validation and metrics are evaluated in the epochs that are its multiples, and are NaN in
        others. "risk" is there in all. At most `epochs`.
    target: the run stops where the watched risk is at most this.
    patience, tolerance: it stops where the watched risk has not fallen by more than `tolerance` for
        `patience` epochs. The watched risk (several tasks': their mean) is looked at where it is known; one
        that is not finite has not fallen. `Result.stopped` and `Result.message` say why a run ended, and
        `Result.best` is the point of the epoch with the lowest watched risk. Of networks that train on their
        own (`Adam`, `HeavyBall`, `GradientFlow`) all of this looks at network 0 alone.
    sample_weight: [S], finite, not negative and not all 0, cast to `dtype` once: risks on the data are means
        with these weights, a minibatch's with those of its samples. A sample of weight 0 is left out before
        anything else: the run, its minibatches, metrics and checkpoint are those of the other samples.
        Validation and metrics have no weights.
    weight_decay: every step takes this times its rate (`lr` of `Adam` and `ConsensusHopping`, else `dt`) off
        all parameters, between scoring and moving them [Loshchilov, Hutter 2019]; their product at most 1.
    standardize: whether the run's inputs are x less their mean, divided by their standard deviation (of the
        training data, column by column; 1 for a constant column). Parameters, of theta, results and states,
        are those for x itself all the same; initial ones that are drawn are for the run's inputs, and
        "variance" is of its particles. x must lie in host memory.
    on_interrupt: "raise" lets Ctrl-C's KeyboardInterrupt through; with "return" the run returns the `Result`
        of its whole epochs, stopped "interrupt" (before the first is whole it raises). It then works on
        copies of its arrays, as with a checkpoint.
    num_threads: None: as many as the work is worth, at most OpenMP's setting. precision: "float32", and on a
        card "tf32" or "bf16" for the matrix products of float32 networks.
    comm: a communicator of mpi4py, whose ranks share out the particles (or the networks, or the draws of a
        `ConsensusHopping`); all of them make this call with the same arguments. `Result.particles` are then
        those of this rank, and the callback is the first rank's. docs/MPI.md has the rest.
    deterministic: with comm, the bits do not depend on the number of ranks. Not on cards.
    data: with comm, "replicated" has all samples used by every rank; with "split" the ranks share out the
        samples instead of the particles, for data that are too many for one: each reads its own part of x and
        y, which may be memory-mapped, and has all particles. ValueError with metrics, `standardize` or a
        card.

    `CboWarning`, once per run each: risks that are NaN or infinite; particles that overflowed; an ensemble
    that flies apart, most of its coordinates' standard deviations 10^8 times the initial ones; a checkpoint
    that could not be written; an ensemble that collapsed, which is to say that the standard deviation of nine
    coordinates in ten fell below 1e-6 of the initial one. The last and the third of these only while the size
    of the risk is above 1e-6 of the first epoch's. Also, before the run: columns of x, or y, of a size that
    training can hardly reach; constant columns far from 0; class labels that would be taken as values;
    particles of `CBO` that are all the same, or one alone, which cannot move without a floor.
    `ConsensusError` when no particle has a finite risk.

    On a card ("cuda") data and particles stay there; the noise is the CPU's bit for bit, the risks are summed
    in another order. x, y and theta may be NumPy arrays, which are copied to the first device; or x and y lie
    on a card already (CuPy, PyTorch, ...) and are used where they are. Results are NumPy arrays all the same.
    Validation and metrics are evaluated there too, the outputs that metrics ask for by functions on the host.
    Without a callback, target or patience up to 8 epochs are on their way at a time: warnings and errors come
    that much later, and "seconds" are those at which a row was read. TypeError and ValueError for bad
    arguments.
    """
    if comm is not None and not isinstance(comm, Ranks):
        return on_ranks(train, locals())
    ranks = Ranks() if comm is None else comm
    split = choice(data, "data", ("replicated", "split")) == "split"
    check_network(net)
    method = ConsensusHopping() if method is None else check_method(method)
    seed, cores, dtype = check_seed(seed), threads(num_threads), float_dtype(dtype)
    epochs = integer(epochs, "epochs", 1, WORD)
    if batch_size is not None:
        batch_size = integer(batch_size, "batch_size", 1, 2**63)
    check_alone(ranks, device, on_interrupt)
    check_split(split, ranks, device, metrics, standardize)
    check_device_and_precision(device, precision, dtype)
    check_callback(callback)
    stopping = Stopping.of(target, patience, tolerance)
    returns = choice(on_interrupt, "on_interrupt", ("raise", "return")) == "return"
    store = check_checkpoint(checkpoint, every, resume)
    x, y = readable(x, "x"), readable(y, "y")
    decay = 0.0 if weight_decay is None else real(weight_decay, "weight_decay", low=0.0)
    place = place_of(device, split, ranks, method)(net, batch_size, seed, cores, precision, ranks)
    given, standard, samples = _data(
        place, method, x, y, loss, dtype, sample_weight, standardize, kept=store is not None
    )
    unranked = "for a loss that is a Python function" if isinstance(given.loss, Called) else place.unranked
    step = samples if batch_size is None else min(batch_size, samples)
    method = method._for(Shape(net, step, precision == "float32", unranked))
    if isinstance(method, ConsensusHopping):
        method._check_rounding(device == "cuda", split, standard is not None)
    particles, start = _start(place, method, given, theta, dtype, num_threads, standard)
    problem = place.problem(given, 0 if place.owners.alone else method._evaluated(particles))
    other = None if validation is None else place.validation(validation, given, standard)
    named = checked_metrics(metrics, net, given.loss)
    evaluation = evaluation_of(named, given, other, every_epochs, place.scored)
    if evaluation is not None and evaluation.every > epochs:
        raise ValueError(f"every_epochs must be at most the {epochs} epochs, got {evaluation.every}")
    check_steps(epochs, problem.steps_per_epoch, method._first_step)
    if store is not None:
        alone_here = place.owners.alone
        begun = fingerprint(start) if alone_here else whole_start(net, method, particles, seed, dtype, theta)
        store.net = pack_net(net)
        store.configuration = {
            **_configuration(place, method, given, dtype, begun, decay, standard),
            **({} if evaluation is None else evaluation.description(other)),
        }
    setting = Setting(seed, cores, net, len(given.y), given.task_axis, precision, place.owners, decay)
    runner = place.runner(method, start, setting, given, problem, evaluation)
    alike = same_on_all(method, seed, particles, start, store, callback)
    alike.update(
        net=repr(net), batch_size=repr(batch_size), data=data,
        x=f"{samples} samples, {given.x.ndim} axes", y=f"{len(given.y)} tasks, {given.y.dtype}",
    )  # fmt: skip
    if standard is not None and callback is not None:
        callback = standard.callback(callback)
    options = Options(
        epochs, boolean(progress, "progress"), callback, store, net, stopping=stopping, evaluation=evaluation,
        returns=returns, ranks=ranks, arguments=alike,
        state=standard.state() if standard is not None else {},
    )  # fmt: skip
    with alone(store if ranks.rank == 0 else None):
        result = run(problem, method, runner, options)
    return result if standard is None else standard.result(result)


def _data(
    place: Place, method: Method, x: Any, y: Any, loss: Loss | None, dtype: np.dtype[Any], sample_weight: Any,
    standardize: Any, *, kept: bool,
) -> tuple[Data, Standard | None, int]:  # fmt: skip
    """The caller's data as the run uses them, what standardizes them, and the number of samples; kept: nobody
    may change them from now on."""
    net = place.net
    place.check(x, y)
    told = None if loss is None else loss_of(loss, net.outputs)
    check_own(told or "mse", place.device, sample_weight is not None)
    if isinstance(place, SplitPlace) and isinstance(told, Called):
        raise ValueError("data must be 'replicated' for a loss that is a Python function, got 'split'")
    weights = rows = None
    if sample_weight is not None:
        weights, rows = weights_that_count(place.call, sample_weight, x, dtype)
    x, y = place.own(x, y, told, method._task_axes, rows)
    standard = Standard.of(net, x) if boolean(standardize, "standardize") else None
    if standard is not None:
        x = standard.apply(x, "x")
        advise_on_folding(standard.mean, standard.scale, dtype)
    data = training_data(place.call, net, x, y, told, dtype, method._task_axes)
    samples, part = place.samples(data)
    if method._gradients:
        check_smooth(net.activation)
        check_slopes(data.loss)
    if weights is not None:
        data = data.weighted(weights, part)
    advise(data, place.call.view(y, "y"), net, loss)
    return place.apart(data, x, y) if kept else data, standard, samples


def _start(
    place: Place, method: Method, data: Data, theta: Any, dtype: np.dtype[Any], num_threads: int | None,
    standard: Standard | None,
) -> tuple[int, Array]:  # fmt: skip
    """The rows of theta, the caller's or the one that is drawn, and those of them that this process has."""
    net, owners = place.net, place.owners
    rows = method._drawn() if theta is None else particles_of(theta)
    evaluated = method._evaluated(rows)
    mine = share(owners, method, rows, 1 if owners.alone else together(place, data, evaluated, dtype))
    if theta is None:
        return rows, method._initial(net, place.seed, dtype, num_threads, mine)
    start = own_particles(owners.part_of(place.start(theta), mine), net.size, dtype)
    return rows, start if standard is None else standard.unfold(start)


def _configuration(
    place: Place, method: Method, data: Data, dtype: np.dtype[Any], theta: str, decay: float,
    standard: Standard | None,
) -> dict[str, str]:  # fmt: skip
    """What a checkpoint knows its run by; theta: the fingerprint of the particles that it started with."""
    return {
        "net": repr(place.net),
        **place.fingerprints(data),
        "method": type(method).__name__,
        **method._description(),
        "loss": loss_text(data.loss),
        "batch_size": repr(place.batch_size),
        "seed": repr(place.seed),
        "device": place.device,
        "dtype": str(dtype),
        "precision": place.precision,
        "theta": theta,
        **({"weight_decay": repr(decay)} if decay else {}),
        **({"standardize": "True"} if standard is not None else {}),
        **({"order of sums": "fixed"} if place.ranks.ordered else {}),
    }


def check_steps(epochs: int, steps_per_epoch: int, first: int) -> None:
    """ValueError if the run has more steps than the random numbers have counters, from `first` on."""
    if epochs * steps_per_epoch > WORD - first:
        most = "2^32 - 1" if first else "2^32"
        raise ValueError(
            f"epochs must make at most {most} steps in all, got {epochs} of {steps_per_epoch} each"
        )


def check_device_and_precision(device: str, precision: str, dtype: np.dtype[Any]) -> None:
    """Errors for what there is not: a card, or a precision on it for a dtype."""
    check_device(device)
    if device == "cpu":
        check_precision(precision)
    elif choice(precision, "precision", PRECISIONS) != "float32" and dtype == np.float64:
        raise ValueError(f"precision must be 'float32' for dtype 'float64', got {precision!r}")


__all__ = ["train"]
