"""What forward, risk and task_risks say to arguments that they cannot take."""

from __future__ import annotations

import numpy as np
import pytest

import cbokernels as cbk

NET = cbk.TwoLayer(inputs=3, width=5, outputs=2)
THETA, X, Y = (np.zeros(shape, "f4") for shape in [(4, NET.size), (6, 3), (6, 2)])
LABELS = np.zeros(6, int)


@pytest.mark.parametrize(
    ("change", "error_type", "words"),
    [
        ({"theta": THETA[:, 1:]}, ValueError, ["theta", "[N, 30]", "[4, 29]"]),
        ({"theta": THETA[:0]}, ValueError, ["theta", "[N, 30]", "no size 0", "[0, 30]"]),
        ({"theta": THETA.astype(int)}, TypeError, ["theta", "float32 or float64", "int64"]),
        ({"theta": THETA.astype("f2")}, TypeError, ["theta", "float32 or float64", "float16"]),
        ({"theta": THETA.astype(">f4")}, TypeError, ["theta", "float32 or float64", ">f4"]),
        ({"x": X[:, :2]}, ValueError, ["x", "[S, 3]", "[6, 2]"]),
        ({"x": X[:, 0]}, ValueError, ["x", "[S, 3]", "[6]"]),
        ({"x": X[:0], "y": Y[:0]}, ValueError, ["x", "[S, 3]", "no size 0", "[0, 3]"]),
        ({"x": X.astype("f8")}, TypeError, ["x must be float32 as theta is, got float64"]),
        ({"y": Y[1:]}, ValueError, ["y", "[6, 2]", "[5, 2]"]),
        ({"y": Y[:, 0]}, ValueError, ["y", "[6, 2]", "[6]"]),
        ({"y": Y.astype("f8")}, TypeError, ["y", "float32", "float64"]),
        ({"y": LABELS}, ValueError, ["y", "[6, 2]", "int64 [6]", "say loss='cross_entropy'"]),
        ({"y": "Y"}, TypeError, ["y", "array", "str"]),
        ({"loss": "l1"}, ValueError, ["loss", "'mse'", "'cross_entropy'", "'l1'"]),
        ({"loss": "cross_entropy"}, TypeError, ["y", "integers", "float32"]),
        ({"loss": "cross_entropy", "y": LABELS.astype(complex)}, TypeError, ["y", "integers", "complex"]),
        ({"loss": "cross_entropy", "y": LABELS[1:]}, ValueError, ["y", "[6]", "[5]"]),
        (
            {"loss": "cross_entropy", "y": np.array([0, 0, 2, 0, 0, 0])},
            ValueError,
            ["y", "[0, 2)", "2 at [2]"],
        ),
        ({"loss": "cross_entropy", "y": LABELS - 1}, ValueError, ["y", "[0, 2)", "-1 at [0]"]),
        ({"loss": "cross_entropy", "y": np.full(6, 2**64 - 1, np.uint64)}, ValueError, ["y", str(2**64 - 1)]),
        ({"precision": "tf32"}, ValueError, ["precision", "'float32'", "'tf32'"]),
        ({"precision": "half"}, ValueError, ["precision", "'float32'", "'half'"]),
        ({"num_threads": 0}, ValueError, ["num_threads", "[1, ", "got 0"]),
        ({"num_threads": True}, TypeError, ["num_threads", "integer", "True"]),
        ({"net": "relu"}, TypeError, ["net", "TwoLayer", "'relu'"]),
    ],
)
def test_wrong_arguments_are_named(change, error_type, words):
    with pytest.raises(error_type) as caught:
        cbk.risk(**{"net": NET, "theta": THETA, "x": X, "y": Y, **change})
    assert all(word in str(caught.value) for word in words), caught.value
    if not change.keys() & {"y", "loss"}:
        with pytest.raises(error_type) as caught:
            cbk.forward(**{"net": NET, "theta": THETA, "x": X, **change})
        assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(
    ("change", "error_type", "words"),
    [
        ({"ys": Y}, ValueError, ["ys", "[T, 6, 2]", "[6, 2]"]),
        ({"ys": Y[None, 1:]}, ValueError, ["ys", "[T, 6, 2]", "[1, 5, 2]"]),
        ({"ys": Y[None][:0]}, ValueError, ["ys", "[T, 6, 2]", "no size 0", "[0, 6, 2]"]),
        ({"ys": LABELS, "loss": "cross_entropy"}, ValueError, ["ys", "[T, 6]", "[6]"]),
        ({"ys": LABELS[None] + 2, "loss": "cross_entropy"}, ValueError, ["ys", "[0, 2)", "2 at [0, 0]"]),
        ({"precision": "bf16"}, ValueError, ["precision", "'float32'", "'bf16'"]),
        ({"num_threads": 0}, ValueError, ["num_threads", "got 0"]),
    ],
)
def test_wrong_task_arguments_are_named(change, error_type, words):
    with pytest.raises(error_type) as caught:
        cbk.task_risks(**{"net": NET, "theta": THETA, "x": X, "ys": Y[None], **change})
    assert all(word in str(caught.value) for word in words), caught.value
