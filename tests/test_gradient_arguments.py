"""What risk_gradient takes, and what it says to anything else."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

import cbokernels as cbk
from cbokernels import reference


def test_everything_after_the_arrays_is_keyword_only():
    public, plain = (inspect.signature(m.risk_gradient).parameters for m in (cbk, reference))
    assert [p for p in public if public[p].kind is not inspect.Parameter.KEYWORD_ONLY] == [
        "net",
        "theta",
        "x",
        "y",
    ]
    assert set(plain) == set(public) - {"precision", "num_threads"}
    assert public["loss"].default == plain["loss"].default == "mse"


NET = cbk.TwoLayer(inputs=3, width=5, outputs=2)
THETA, X, Y = (np.zeros(shape, "f4") for shape in [(4, NET.size), (6, 3), (6, 2)])
LABELS = np.zeros(6, int)


@pytest.mark.parametrize(
    ("change", "error_type", "words"),
    [
        ({"net": "relu"}, TypeError, ["net", "TwoLayer", "'relu'"]),
        ({"theta": THETA[:, 1:]}, ValueError, ["theta", "[N, 30]", "[4, 29]"]),
        ({"theta": THETA[0]}, ValueError, ["theta", "[N, 30]", "[30]"]),
        ({"theta": THETA[:0]}, ValueError, ["theta", "[N, 30]", "no size 0", "[0, 30]"]),
        ({"theta": THETA.astype("f2")}, TypeError, ["theta", "float32 or float64", "float16"]),
        ({"theta": THETA.tolist()}, TypeError, ["theta", "array", "list"]),
        ({"x": X[:, :2]}, ValueError, ["x", "[S, 3]", "[6, 2]"]),
        ({"x": X[:0], "y": Y[:0]}, ValueError, ["x", "[S, 3]", "no size 0", "[0, 3]"]),
        ({"x": X.astype("f8")}, TypeError, ["x must be float32 as theta is, got float64"]),
        ({"y": Y[1:]}, ValueError, ["y", "[6, 2]", "[5, 2]"]),
        ({"y": Y[None]}, ValueError, ["y", "[6, 2]", "[1, 6, 2]"]),
        ({"y": Y.astype("f8")}, TypeError, ["y", "float32", "float64"]),
        ({"y": LABELS}, ValueError, ["y", "[6, 2]", "int64 [6]", "say loss='cross_entropy'"]),
        ({"loss": "l1"}, ValueError, ["loss", "'mse'", "'cross_entropy'", "'l1'"]),
        ({"loss": 1}, TypeError, ["loss", "'mse'", "Huber", "int"]),
        ({"loss": "cross_entropy"}, TypeError, ["y", "integers", "float32"]),
        ({"loss": "cross_entropy", "y": LABELS[1:]}, ValueError, ["y", "[6]", "[5]"]),
        ({"loss": "cross_entropy", "y": LABELS + 2}, ValueError, ["y", "[0, 2)", "2 at [0]"]),
        ({"loss": "cross_entropy", "y": LABELS - 1}, ValueError, ["y", "[0, 2)", "-1 at [0]"]),
        ({"precision": "tf32"}, ValueError, ["precision", "'float32'", "'tf32'"]),
        ({"precision": None}, TypeError, ["precision", "string", "None"]),
        ({"num_threads": 0}, ValueError, ["num_threads", "[1, ", "got 0"]),
        ({"num_threads": 1.0}, TypeError, ["num_threads", "integer", "1.0"]),
    ],
)
def test_wrong_arguments_are_named(change, error_type, words):
    with pytest.raises(error_type) as caught:
        cbk.risk_gradient(**{"net": NET, "theta": THETA, "x": X, "y": Y, **change})
    assert all(word in str(caught.value) for word in words), caught.value
