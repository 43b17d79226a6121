"""What the kernels demand of arrays: float32, without gaps."""

from __future__ import annotations

import math

import numpy as np

from tinyldm.errors import InputError


def float32_only(x: np.ndarray, operator: str) -> np.ndarray:
    """`x` as it is. Raises `InputError` if it is not float32."""
    if x.dtype != np.float32:
        raise InputError(f"{operator}: the numba backend computes in float32, not {x.dtype}; use backend='reference'")
    return x


def activations(x: np.ndarray, operator: str) -> np.ndarray:
    """`x` without gaps in memory. Raises `InputError` if it is not float32."""
    return np.asarray(float32_only(x, operator), order="C")


def added(operator: str, residual: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray | None:
    """A residual without gaps. Raises `InputError` if it is not float32 or has not the result's shape."""
    if residual is None:
        return None
    if residual.shape != shape:
        raise InputError(f"{operator}: the residual has shape {residual.shape}, not {shape}")
    return activations(residual, operator)


def token_rows(x: np.ndarray, operator: str) -> np.ndarray:
    """`x` `(N, L, C)` as it is if its tokens follow each other at one distance, as in a slice of the channels.

    Else a copy without gaps. Raises `InputError` if it is not float32.
    """
    length = x.shape[1]
    across, along, value = x.strides
    if x.dtype == np.float32 and value == x.itemsize and length > 1 and across == length * along:
        return x
    return activations(x, operator)


def as_rows(x: np.ndarray) -> np.ndarray:
    """`(…, C)` as `(rows, C)`, of whatever size."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def as_pixels(x: np.ndarray) -> np.ndarray:
    """`(N, …, C)` as `(N, pixels, C)`, of whatever size."""
    return x.reshape(len(x), math.prod(x.shape[1:-1]), x.shape[-1])


def distance(x: np.ndarray) -> int:
    """The bytes from one row of channels to the next, the same between all of them."""
    # Along an axis of one element NumPy's strides say nothing.
    return x.shape[-1] * x.itemsize if x.flags.c_contiguous else x.strides[-2]


def parameters(w: np.ndarray) -> np.ndarray:
    """A bias or a gain from a file of any float dtype, as float32 without gaps."""
    return np.ascontiguousarray(w, np.float32)
