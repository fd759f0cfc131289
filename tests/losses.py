"""Each loss once more, from SciPy's functions or from its definition, and problems to try it on."""

from __future__ import annotations

import numpy as np
import scipy.special

from cbokernels import Huber, Pinball
from cbokernels._kinds import LOSSES, label_count, loss_of, takes_labels

SLOPED = [loss for loss in LOSSES if loss != "zero_one"]
ALL = [*LOSSES, Huber(0.3), Pinball(0.9)]


def beside(activations, losses):
    """Pairs: the first activation with all losses, each other one with two, and each loss with three.

    Activations and losses are compiled without each other: all pairs would try the same code again."""
    activations, most = list(activations), range(max(len(activations), len(losses)))
    pairs = [(activations[i % len(activations)], losses[(i + k) % len(losses)]) for k in (0, 1) for i in most]
    return list(dict.fromkeys([(activations[0], loss) for loss in losses] + pairs))


def _picked(outputs, y):
    return np.take_along_axis(outputs, np.broadcast_to(y[None, :, None], (*outputs.shape[:2], 1)), 2)[..., 0]


def _hinge(outputs, y):
    if outputs.shape[2] == 1:
        return np.maximum(0, np.where(y == 1, 1 - outputs[..., 0], 1 + outputs[..., 0]))
    others = outputs.copy()
    np.put_along_axis(others, np.broadcast_to(y[None, :, None], (*outputs.shape[:2], 1)), -np.inf, 2)
    return np.maximum(0, 1 - (_picked(outputs, y) - others.max(axis=2)))


def _zero_one(outputs, y):
    classes = np.argmax(outputs, axis=2) if outputs.shape[2] > 1 else 1 - (outputs[..., 0] < 0)
    return (classes != y).astype(float)


# losses [N, S] of outputs [N, S, C], float64, with values y [S, C] or labels [S]
TRUTHS = {
    "mse": lambda g, y: ((g - y) ** 2).sum(2),
    "mae": lambda g, y: np.abs(g - y).sum(2),
    "huber": lambda g, y, delta=1.0: scipy.special.huber(delta, g - y).sum(2),
    "pinball": lambda g, y, q=0.5: np.where(g > y, (1 - q) * (g - y), q * (y - g)).sum(2),
    "hinge": _hinge,
    "logistic": lambda g, y: -scipy.special.log_expit(np.where(y == 1, g[..., 0], -g[..., 0])),
    "cross_entropy": lambda g, y: -_picked(scipy.special.log_softmax(g, axis=2), y),
    "zero_one": _zero_one,
}


def fits(loss, outputs):
    """Whether networks of so many outputs have the loss."""
    return loss != "logistic" or outputs == 1


def truth(loss, outputs, y):
    """Losses [N, S]."""
    told = loss_of(loss, outputs.shape[2])
    name, parameters = (told, ()) if isinstance(told, str) else (told[0], told[1:])
    if not takes_labels(told):
        y = y.astype(float).reshape(outputs.shape[1:])
    return TRUTHS[name](outputs.astype(float), y, *parameters)


def true_risk(outputs, y, loss, weights=None):
    """[N] in float64."""
    return np.average(truth(loss, outputs, y), axis=1, weights=weights)


def targets(rng, loss, shape, outputs, dtype):
    """Targets [*shape] of labels, or [*shape, outputs]."""
    told = loss_of(loss, outputs)
    if takes_labels(told):
        return rng.integers(0, label_count(told, outputs), shape)
    return rng.normal(size=(*shape, outputs)).astype(dtype)


def zeros(loss, samples, outputs, dtype, value=0):
    """Targets that are all 0, or values that are all `value`."""
    if takes_labels(loss_of(loss, outputs)):
        return np.zeros(samples, int)
    return np.full((samples, outputs), value, dtype)


def corner_distance(loss, outputs, y):
    """How far [S] the outputs [S, C] are from where the loss jumps, or it or its slope has no derivative."""
    told = loss_of(loss, outputs.shape[1])
    name = told if isinstance(told, str) else told[0]
    if name in ("mae", "pinball"):
        return np.abs(outputs - y).min(axis=1)
    if name == "huber":
        return np.abs(np.abs(outputs - y) - (1.0 if told == name else told[1])).min(axis=1)
    if name == "zero_one":
        ranked = np.sort(outputs, axis=1)
        return np.abs(outputs[:, 0]) if outputs.shape[1] == 1 else ranked[:, -1] - ranked[:, -2]
    if name == "hinge":
        if outputs.shape[1] == 1:
            return np.abs(1 - (2 * y - 1) * outputs[:, 0])
        others = outputs.copy()
        np.put_along_axis(others, y[:, None], -np.inf, 1)
        ranked = np.sort(others, axis=1)
        margin = 1 + ranked[:, -1] - _picked(outputs[None], y)[0]
        tie = ranked[:, -1] - ranked[:, -2]  # infinite for two outputs
        return np.minimum(np.abs(margin), tie)
    return np.full(len(outputs), np.inf)


def torch_value(torch, loss, outputs, y):
    """The mean loss of PyTorch's outputs [S, C] by its own functions."""
    f = torch.nn.functional
    y = torch.from_numpy(y)
    if not takes_labels(loss):
        y = y.reshape(outputs.shape)
        if loss == "pinball":
            return (0.5 * (outputs - y).abs()).sum(1).mean()
        function = {"mse": f.mse_loss, "mae": f.l1_loss, "huber": f.huber_loss}[loss]
        return function(outputs, y, reduction="none").sum(1).mean()
    if loss == "cross_entropy":
        return f.cross_entropy(outputs, y)
    if loss == "logistic":
        return f.binary_cross_entropy_with_logits(outputs[:, 0], y.to(outputs.dtype))
    if loss == "hinge" and outputs.shape[1] == 1:
        return torch.relu(1 - (2 * y - 1) * outputs[:, 0]).mean()
    own = f.one_hot(y, outputs.shape[1]).bool()
    if loss == "hinge":
        rival = outputs.masked_fill(own, -torch.inf).max(dim=1).values
        return torch.relu(1 + rival - outputs[own]).mean()
    classes = outputs.argmax(dim=1) if outputs.shape[1] > 1 else (outputs[:, 0] >= 0).long()
    return (classes != y).to(outputs.dtype).mean()
