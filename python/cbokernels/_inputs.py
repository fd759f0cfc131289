"""Lists and data frames: what people have their data in before it is an array."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np

from ._arrays import HOST
from ._checks import kind


def readable(value: Any, name: str) -> Any:
    """A list, a tuple, or a frame or column of pandas or Polars as a NumPy array, missing values as NaN.

    Anything else as it is: whoever takes arrays says what may be one. ValueError for rows of unequal length,
    TypeError for columns that are no numbers, sparse matrices and lazy frames.
    """
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, (list, tuple)):
        try:
            return np.asarray(value)
        except ValueError as error:
            raise ValueError(f"{name} must have rows of equal length, got a ragged {kind(value)}") from error
    if not hasattr(value, "to_numpy"):
        for start, method in (("scipy.sparse.", "toarray"), ("polars.lazyframe.", "collect")):
            if kind(value).startswith(start):
                raise TypeError(f"{name} must be an array, got {kind(value)}: take {name}.{method}()")
        return value
    array = value.to_numpy()
    return array if array.dtype != object else _numbers(value, array, name)


def read_as(value: Any, name: str, dtype: np.dtype[Any]) -> Any:
    """As `readable`, with what is read cast to `dtype`; arrays are not cast."""
    array = readable(value, name)
    return array if array is value else HOST.floats(array, name, dtype)


def _numbers(frame: Any, array: Any, name: str) -> Any:
    """Columns of several types, or with missing values, as float64."""
    wrong = next((v for v in array.flat if isinstance(v, (str, bytes))), None)
    if wrong is None:
        try:
            missing = {"na_value": np.nan} if kind(frame).startswith("pandas.") else {}
            return np.asarray(frame.to_numpy(**missing), np.float64)
        except (TypeError, ValueError):
            wrong = next((v for v in array.flat if not isinstance(v, numbers.Number)), None)
    raise TypeError(f"{name} must hold numbers, got {wrong!r:.40} in a {kind(frame)}")


__all__ = ["read_as", "readable"]
