"""The papers' experiments, one module each, as `cbokernels reproduce` runs them.

A module's `reproduce(options)` writes its table of numbers and its figure and returns findings. Its EXPECTED
says in a line where the numbers come from that findings are compared with.
"""

from . import binary, heavy_ball, mean_field, mnist, multitask, sine, square
from ._common import Finding, Options

EXPERIMENTS = {
    "sine": sine.reproduce,
    "mnist": mnist.reproduce,
    "multitask": multitask.reproduce,
    "square": square.reproduce,
    "heavy-ball": heavy_ball.reproduce,
    "mean-field": mean_field.reproduce,
    "binary": binary.reproduce,
}

__all__ = ["EXPERIMENTS", "Finding", "Options"]
