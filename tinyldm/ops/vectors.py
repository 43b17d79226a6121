"""Vectors: the linear layer, and how numbers become vectors (tokens by a table, timesteps by sines and cosines)."""

from __future__ import annotations

import math

import numpy as np

from tinyldm.errors import InputError


def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    r"""$y = x W^{\mathsf T} + b$ over the last axis: `(…, C_in) -> (…, C_out)`.

    `weight` is `(C_out, C_in)`, or a 1×1 convolution's `(C_out, C_in, 1, 1)`, which is the same matrix; `bias` is
    `(C_out,)`. Raises `InputError` for another weight, or where the channels do not agree.
    """
    if weight.shape[2:] not in ((), (1, 1)):
        raise InputError(f"linear: the weight is (C_out, C_in), or that of a 1×1 convolution, not {weight.shape}")
    if x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        channels = x.shape[-1] if x.ndim else "no"
        raise InputError(
            f"linear: x has {channels} channels, the weight of shape {weight.shape} takes {weight.shape[1]}"
        )
    y: np.ndarray = x @ weight.reshape(weight.shape[:2]).T
    return y if bias is None else y + bias


def embedding(ids: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Look up a row of the table for every id: `(…) integers, (V, C) -> (…, C)`.

    Raises `InputError` for an id outside 0 … V-1, or ids that are not whole numbers.
    """
    ids = np.asarray(ids)
    if not np.issubdtype(ids.dtype, np.integer):
        raise InputError(f"embedding: the ids must be of an integer type, not {ids.dtype}")
    if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < len(table):
        raise InputError(f"embedding: the ids {ids.min()} … {ids.max()} do not fit a table of {len(table)} rows")
    rows: np.ndarray = table[ids]
    return rows


def timestep_embedding(
    t: np.ndarray,
    dim: int,
    *,
    flip_sin_to_cos: bool = True,
    freq_shift: float = 0.0,
    max_period: float = 10_000.0,
    dtype: np.dtype | type = np.float32,
) -> np.ndarray:
    r"""Sinusoidal embedding of timesteps: `(N,) -> (N, dim)`.

    $$\omega_k = \mathrm{max\_period}^{-k / (d/2 - \mathrm{freq\_shift})}, \quad
      \mathrm{emb}(t) = (\sin \omega_k t \;|\; \cos \omega_k t), \quad k = 0 \dots d/2 - 1$$

    with `flip_sin_to_cos` the cosines come first (as in the published Stable Diffusion). An odd `dim` ends in a zero.
    `t` in steps of the noise schedule, whole or fractional. Angles are computed in float64 and the result rounded once.

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.5; Ho et al. 2020, arXiv:2006.11239, appendix B.

    Raises `InputError` where `freq_shift` leaves no frequencies to space: it must be below d/2.
    """
    half = dim // 2
    if half and freq_shift >= half:
        raise InputError(f"timestep_embedding: freq_shift {freq_shift} must be below dim / 2 = {half}")
    omega = np.exp(-math.log(max_period) * np.arange(half, dtype=np.float64) / (half - freq_shift))
    times = np.asarray(t, np.float64)
    if times.ndim != 1:
        raise InputError(f"timestep_embedding: the timesteps must be (N,), not of the shape {times.shape}")
    angles = times[:, None] * omega
    parts = [np.cos(angles), np.sin(angles)] if flip_sin_to_cos else [np.sin(angles), np.cos(angles)]
    return np.concatenate([*parts, np.zeros((len(angles), dim % 2))], axis=1).astype(dtype)
