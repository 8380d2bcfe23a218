"""Python values as the arrays that a request carries: one value is the tensor [1, 1]."""

import operator
from typing import Any

import numpy as np


def text_tensor(value: str) -> np.ndarray:
    """A text as BYTES [1, 1]."""
    return np.array([[value.encode("utf-8")]], dtype=np.object_)


def number_tensor(name: str, value: Any, dtype: type[np.number]) -> np.ndarray:
    """A number as FP32, INT32 or UINT64 [1, 1]; `name` is for the error.

    Raises:
        TypeError: an integer tensor is given something else.
        ValueError: the number does not fit the type.
    """
    if issubclass(dtype, np.integer):  # NumPy would cut off decimals and wrap round what is too large
        limits = np.iinfo(dtype)
        if not limits.min <= operator.index(value) <= limits.max:
            raise ValueError(f"{name} must be within {limits.min}..{limits.max}, got {value}")
    return np.array([[value]], dtype=dtype)
