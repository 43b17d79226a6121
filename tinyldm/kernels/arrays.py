"""What the kernels demand of arrays: float32, without gaps."""

from __future__ import annotations

import numpy as np

from tinyldm.errors import InputError


def activations(x: np.ndarray, operator: str) -> np.ndarray:
    """`x` without gaps in memory. Raises `InputError` if it is not float32."""
    if x.dtype != np.float32:
        raise InputError(f"{operator}: the numba backend computes in float32, not {x.dtype}; use backend='reference'")
    return np.ascontiguousarray(x)


def parameters(w: np.ndarray) -> np.ndarray:
    """A bias or a gain from a file of any float dtype, as float32 without gaps."""
    return np.ascontiguousarray(w, np.float32)
