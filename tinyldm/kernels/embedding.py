"""Embeddings: a table row for every token, and the timestep's sines and cosines in float64, rounded once.

Both are a few hundred numbers a step; NumPy is fast enough.

Error: none of a table row; of the sines and cosines, half a unit of the last place.

Vaswani et al. 2017, arXiv 1706.03762, section 3.5.
"""

from __future__ import annotations

import math

import numpy as np

from tinyldm.errors import InputError


def embedding(ids: np.ndarray, table: np.ndarray) -> np.ndarray:
    """The row of the table for every id, as float32: `(…), (V, C) -> (…, C)`."""
    ids = np.asarray(ids)
    if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < len(table):
        raise InputError(f"embedding: the ids {ids.min()} … {ids.max()} do not fit a table of {len(table)} rows")
    return np.asarray(table[ids], np.float32)


def timestep_embedding(
    t: np.ndarray,
    dim: int,
    *,
    flip_sin_to_cos: bool = True,
    freq_shift: float = 0.0,
    max_period: float = 10_000.0,
    dtype: np.dtype | type = np.float32,
) -> np.ndarray:
    """Sinusoidal embedding of timesteps: `(N,) -> (N, dim)`."""
    half = dim // 2
    omega = np.exp(-math.log(max_period) * np.arange(half, dtype=np.float64) / (half - freq_shift))
    angles = np.asarray(t, np.float64)[:, None] * omega
    y = np.zeros((len(angles), dim), dtype)
    first, second = (np.cos, np.sin) if flip_sin_to_cos else (np.sin, np.cos)
    y[:, :half], y[:, half : 2 * half] = first(angles), second(angles)
    return y
