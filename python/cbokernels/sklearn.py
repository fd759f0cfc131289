"""Two-layer networks as scikit-learn's estimators.

    CBOClassifier(method="hopping", width=50).fit(x, y).predict_proba(x)
    CBORegressor(ensemble=50).fit(x, y).predict(x, return_std=True)

They go where scikit-learn's go: into pipelines and grid searches (`method__alpha` too), with frames and
labels of any kind.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from . import _extras
from ._arrays import Array
from ._checks import boolean, choice, integer, real
from ._kinds import Loss, is_own, loss_of, loss_text, takes_labels
from .methods import CBO, Adam, ConsensusHopping, Hybrid
from .methods.base import Method
from .network import TwoLayer
from .result import State
from .risk import check_weights, forward, risk
from .schedules import Exponential
from .training import train

_extras.extra("sklearn", "cbokernels.sklearn", "sklearn")

from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin  # noqa: E402 - its absence has been told
from sklearn.model_selection import train_test_split  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402
from sklearn.utils import check_random_state, column_or_1d  # noqa: E402
from sklearn.utils.metaestimators import available_if  # noqa: E402
from sklearn.utils.multiclass import check_classification_targets  # noqa: E402
from sklearn.utils.validation import (  # noqa: E402
    _check_sample_weight,
    check_is_fitted,
    validate_data,
)

_BLOCK = 2**22  # outputs of all networks that are computed at a time


class _Recipe(NamedTuple):
    """What a method's name means. The networks are those that suit the method: of nn.Linear's scaling and
    with a bias per output, or of the mean-field scaling without."""

    method: Callable[[int], Method]  # of the number of independent networks
    epochs: int
    batch_size: int | None
    linear: bool


_RECIPES = {
    "adam": _Recipe(lambda n: Adam(particles=n, lr=Exponential(0.003, 0.0003)), 50, 64, True),
    "hopping": _Recipe(
        lambda n: ConsensusHopping(particles=100, spread=0.1, lr=Exponential(0.1, 0.001), scope="atom"),
        30, 64, False,
    ),
    "hybrid": _Recipe(lambda n: Hybrid(particles=50, dt=Exponential(0.1, 0.01)), 20, 64, False),
    "cbo": _Recipe(lambda n: CBO(alpha=np.inf, floor=Exponential(0.1, 0.001)), 200, None, False),
}  # fmt: skip
_NAMES = {Adam: "adam", ConsensusHopping: "hopping", Hybrid: "hybrid", CBO: "cbo"}


class _Networks(BaseEstimator):  # type: ignore[misc]
    """What both estimators are: a network on standardised inputs, trained by a method."""

    def __init__(
        self,
        method: str | Method = "adam",
        *,
        width: int = 100,
        activation: str = "relu",
        loss: Loss = None,
        ensemble: int = 1,
        epochs: int | None = None,
        batch_size: Any = "auto",
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        tol: float = 1e-4,
        random_state: Any = None,
        device: str = "cpu",
        num_threads: int | None = None,
    ) -> None:
        self.method = method
        self.width = width
        self.activation = activation
        self.loss = loss
        self.ensemble = ensemble
        self.epochs = epochs
        self.batch_size = batch_size
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.random_state = random_state
        self.device = device
        self.num_threads = num_threads

    def set_params(self, **params: Any) -> _Networks:
        """Set parameters; `method__<name>` sets one of the method's, a name being the method that it means.

        A method does not change: the estimator gets a new one. ValueError for names that there are not.
        """
        nested = {key: params.pop(key) for key in list(params) if key.startswith("method__")}
        super().set_params(**params)
        if nested:
            changes = {key.removeprefix("method__"): value for key, value in nested.items()}
            self.method = self._chosen()[0].set_params(**changes)
        return self

    def _chosen(self) -> tuple[Method, _Recipe]:
        """The method, and the recipe of its kind."""
        ensemble = integer(self.ensemble, "ensemble", 1, 2**20)
        method = self.method
        if isinstance(method, Method):
            name = next((name for cls, name in _NAMES.items() if type(method) is cls), None)
            if name is None:
                known = ", ".join(cls.__name__ for cls in _NAMES)
                raise ValueError(f"method must be one of {known}, or a name, got {type(method).__name__}")
            if isinstance(method, Adam) and ensemble > 1:
                if method.particles not in (1, ensemble):
                    raise ValueError(
                        f"ensemble must be left out with a method of particles={method.particles}, "
                        f"got {ensemble}"
                    )
                method = dataclasses.replace(method, particles=ensemble)
        elif not isinstance(method, str):
            known = ", ".join(map(repr, _RECIPES))
            told = f"the class {method.__name__}" if isinstance(method, type) else f"{method!r:.80}"
            raise TypeError(f"method must be a name ({known}) or a method such as Adam(), got {told}")
        else:
            name = choice(method, "method", tuple(_RECIPES))
            method = _RECIPES[name].method(ensemble)
        if ensemble > 1 and name != "adam":
            raise ValueError(
                f"ensemble must be 1 for method {name!r}, got {ensemble}: Adam trains many networks"
            )
        return method, _RECIPES[name]

    def _told_loss(self, outputs: int, labels: bool, usual: str) -> Loss:
        """The loss that was asked for; ValueError for one that compares with another kind of targets."""
        if self.loss is None:
            return usual
        if labels and isinstance(self.loss, str) and self.loss == "logistic":
            raise ValueError(
                f"loss must be 'cross_entropy' for {type(self).__name__}, which has an output a class, "
                "got 'logistic': with two classes they are the same model"
            )
        told = loss_of(self.loss, outputs)
        if not is_own(told) and takes_labels(told) != labels:
            kinds = ("values", "labels")
            raise ValueError(
                f"loss must be one of {kinds[labels]} for {type(self).__name__}, such as {usual!r}, got "
                f"{loss_text(told)!r}, which is of {kinds[not labels]}"
            )
        return self.loss

    def _weights(self, sample_weight: Any, x: Array) -> Array | None:
        """Weights [S], checked; None where there are none."""
        if sample_weight is None:
            return None
        weights: Array = _check_sample_weight(sample_weight, x, dtype=np.float64)
        check_weights(weights)
        return weights

    def _train(self, x: Array, y: Array, outputs: int, loss: Loss, weights: Array | None) -> None:
        """Fit to inputs and float targets [S, C] or labels [S]."""
        method, recipe = self._chosen()
        boolean(self.early_stopping, "early_stopping")
        real(self.tol, "tol", 0.0)
        self.scaler_ = StandardScaler().fit(x, sample_weight=weights)
        x = self.scaler_.transform(x).astype(np.float32)
        x[:, (x == x[0]).all(axis=0)] = 0.0  # of constant columns rounding leaves a little
        seed = int(check_random_state(self.random_state).randint(2**31))
        best = None
        if self.early_stopping:
            own = np.ones(len(x)) if weights is None else weights
            x, held, y, expected, own, of_held = train_test_split(
                x, y, own, test_size=self.validation_fraction, random_state=seed,
                stratify=y if y.ndim == 1 else None,
            )  # fmt: skip
            weights, of_held = (None, None) if weights is None else (own, of_held)
        linear = recipe.linear
        scaling = "none" if linear else "mean"
        net = TwoLayer(x.shape[1], self.width, outputs, self.activation, scaling=scaling, output_bias=linear)
        if self.early_stopping:
            best = _Best(net, held, expected, of_held, loss, self)
        batch = recipe.batch_size if self.batch_size == "auto" else self.batch_size
        result = train(
            net, x, y, method,
            loss=loss, epochs=recipe.epochs if self.epochs is None else self.epochs,
            batch_size=batch, seed=seed, callback=best, sample_weight=weights, device=self.device,
            num_threads=self.num_threads,
        )  # fmt: skip
        self.net_ = net
        # In float64, so that a prediction does not depend on the samples beside it.
        theta = result.particles if isinstance(method, Adam) else result.parameters[None]
        self.theta_ = (theta if best is None else best.theta).astype(np.float64)
        self.n_iter_ = len(result.history["epoch"])
        self.loss_curve_ = result.history["risk"].tolist()
        if best is not None:
            self.validation_curve_ = best.curve
        self.method_ = method

    def _outputs(self, x: Any) -> tuple[Array, Array]:
        """Means and standard deviations [S, C] over the networks of what they make of inputs."""
        check_is_fitted(self)
        x = self.scaler_.transform(validate_data(self, x, reset=False, dtype=np.float64))
        rows = max(1, _BLOCK // (len(self.theta_) * self.net_.outputs))
        parts = []
        for i in range(0, len(x), rows):
            outputs = self._of_network(
                forward(self.net_, self.theta_, x[i : i + rows], num_threads=self.num_threads)
            )
            parts.append((outputs.mean(axis=0), outputs.std(axis=0)))
        mean, spread = (np.concatenate(part) for part in zip(*parts, strict=True))
        return mean, spread

    def _of_network(self, outputs: Array) -> Array:
        """What is averaged: the networks' outputs [N, S, C], or what they mean."""
        raise NotImplementedError


class _Best:
    """A callback that keeps the networks of the lowest risks on held-out data, and stops a run that gains no
    more. The networks of an ensemble are independent: each is kept from the epoch that was its best.
    """

    def __init__(
        self, net: TwoLayer, x: Array, y: Array, weights: Array | None, loss: Loss, estimator: _Networks
    ) -> None:
        self._net, self._x = net, x
        self._y = y if y.ndim == 1 else y.astype(np.float32)
        self._told: dict[str, Any] = {"loss": loss, "num_threads": estimator.num_threads}
        if weights is not None and weights.any():
            self._told["sample_weight"] = weights.astype(np.float32)
        self._patience = integer(estimator.n_iter_no_change, "n_iter_no_change", 1, 2**31)
        self._tol = estimator.tol
        self._risks: Array | None = None
        self._lowest, self._waited = np.inf, 0
        self.curve: list[float] = []
        self.theta = np.empty(0)

    def __call__(self, state: State) -> bool:
        alone = np.isnan(np.mean(state.ess))  # networks on their own have no consensus
        theta = state.particles if alone else state.point[None]
        risks = risk(self._net, theta, self._x, self._y, **self._told)
        if self._risks is None:
            self._risks, self.theta = risks, theta.copy()
        better = risks < self._risks
        self._risks[better], self.theta[better] = risks[better], theta[better]
        self.curve.append(float(risks.mean()))
        lowest = float(self._risks.mean())
        self._waited = 0 if lowest < self._lowest - self._tol else self._waited + 1
        self._lowest = min(self._lowest, lowest)
        return self._waited >= self._patience


class CBORegressor(RegressorMixin, _Networks):  # type: ignore[misc]
    """Regression by a two-layer network, or by an ensemble of them; y [S] or [S, K].

    Inputs and targets are standardised inside, and predictions are in the targets' units.

    method: "adam", or without gradients "hopping" (`ConsensusHopping`, neuron by neuron) and "cbo" (for small
        problems), or "hybrid" (`Hybrid`, both); or an `Adam`, `ConsensusHopping`, `CBO` or `Hybrid` of one's
        own, whose parameters are then also `method__alpha` and so on.
    width: hidden neurons. activation: as in `TwoLayer`.
    loss: None is the squared error; others of values are as in `cbokernels.risk`, in units of the targets'
        standard deviation: "mae", `Huber(delta)`, `Pinball(quantile)` for a quantile of y, or a function of
        one's own for "hopping" and "cbo".
    ensemble: independent networks that "adam" trains at once, on the same batches, from different starts.
    epochs: None is what suits the method: 50, 30, 200 and 20 in the order above. batch_size: "auto" is
        64, for "cbo" all; None is all.
    early_stopping: keep back `validation_fraction` of the samples and take the networks that were best on
        them; stop when their risk has not fallen by more than `tol` for `n_iter_no_change` epochs.
    random_state: as everywhere in scikit-learn. device, num_threads: as in `train`.

    After `fit`: theta_ [N, D], the networks' parameters on standardised inputs; net_, their shape; scaler_;
    method_, as it was used; n_iter_, epochs done; loss_curve_ (and validation_curve_), one risk an epoch.

    With y standardised, sums over outputs weigh all of them alike.
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> CBORegressor:
        """Fit to X [S, d] and y [S] or [S, K], with weights [S]; ValueError for data, weights or parameters
        that it cannot take."""
        x, y = validate_data(self, X, y, dtype=np.float64, multi_output=True, y_numeric=True)
        weights = self._weights(sample_weight, x)
        self._columns = y.ndim > 1
        targets = np.asarray(y, np.float64).reshape(len(x), -1)
        loss = self._told_loss(targets.shape[1], False, "mse")
        self.target_scaler_ = StandardScaler().fit(targets, sample_weight=weights)
        self._train(x, self.target_scaler_.transform(targets), targets.shape[1], loss, weights)
        return self

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Predictions of X [S, d], a mean over the networks, as y was given: [S] or [S, K].

        With `return_std` also their standard deviations over the networks, of the same shape.
        """
        mean, spread = self._outputs(X)
        mean, spread = self.target_scaler_.inverse_transform(mean), spread * self.target_scaler_.scale_
        if not self._columns:
            mean, spread = mean[:, 0], spread[:, 0]
        return (mean, spread) if return_std else mean

    def _of_network(self, outputs: Array) -> Array:
        return outputs

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def _has_probabilities(model: Any) -> bool:
    return model.loss is None or (isinstance(model.loss, str) and model.loss == "cross_entropy")


class CBOClassifier(ClassifierMixin, _Networks):  # type: ignore[misc]
    """Classification by a two-layer network, or by an ensemble of them; y [S] of integers, booleans, strings.

    Inputs are standardised inside. There is an output for each class, also of two. Probabilities are means
    over the networks of an ensemble.

    loss: None is the cross entropy; or "hinge", or without gradients "zero_one" or a function of one's own.
        All but the cross entropy know no probabilities, and `predict_proba` is not there with them.

    Other parameters and attributes are those of `CBORegressor`; also classes_, the labels in order.
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> CBOClassifier:
        """Fit to X [S, d] and labels y [S], with weights [S]; ValueError for data, weights or parameters that
        it cannot take."""
        x, y = validate_data(self, X, y, dtype=np.float64, multi_output=True)
        weights = self._weights(sample_weight, x)
        y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"y must have at least two classes, got one class: {self.classes_.tolist()[0]!r}"
            )
        loss = self._told_loss(len(self.classes_), True, "cross_entropy")
        self._train(x, labels, len(self.classes_), loss, weights)
        return self

    @available_if(_has_probabilities)  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any, return_std: bool = False) -> Any:
        """Probabilities [S, C] of the classes, in the order of `classes_`.

        With `return_std` also their standard deviations over the networks.
        """
        mean, spread = self._outputs(X)
        return (mean, spread) if return_std else mean

    def predict(self, X: Any) -> Array:
        """The most probable labels [S]."""
        most = self._outputs(X)[0].argmax(axis=1)
        labels: Array = self.classes_[most]
        return labels

    def _of_network(self, outputs: Array) -> Array:
        likely = np.exp(outputs - outputs.max(axis=-1, keepdims=True))
        shares: Array = likely / likely.sum(axis=-1, keepdims=True)
        return shares


__all__ = ["CBOClassifier", "CBORegressor"]
