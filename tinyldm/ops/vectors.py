"""Vectors, each on its own: the linear layer, the activations, and how numbers become vectors.

Everything here works along the last axis, or element by element, and leaves the other axes as they are.
"""

from __future__ import annotations

import math

import numpy as np
import scipy  # which imports scipy.special when it is first used: the Numba backend never does

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


# Activations: the non-linearity between the matrix products ---------------------------------------------------------
#
# Each is x times a share of it. At x = -inf the share is 0; the lowest finite x gives the limit, -0.


def silu(x: np.ndarray) -> np.ndarray:
    r"""SiLU (swish): $x \cdot \sigma(x) = x / (1 + e^{-x})$, element by element.

    Source: Elfwing et al. 2017, arXiv:1702.03118, equation 5.
    """
    share = scipy.special.expit(x).astype(x.dtype, copy=False)
    y: np.ndarray = np.maximum(x, np.finfo(x.dtype).min) * share
    return y


def gelu(x: np.ndarray) -> np.ndarray:
    r"""GELU, the exact one: $x \cdot \Phi(x) = \tfrac{x}{2} (1 + \mathrm{erf}(x / \sqrt 2))$.

    The tanh formula of the same paper is an approximation, off by up to 5e-4; the published models use this one.

    Source: Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2.
    """
    # ndtr(x) is Φ(x); unlike 1 + erf it does not cancel for x far below zero.
    share = scipy.special.ndtr(x).astype(x.dtype, copy=False)
    y: np.ndarray = np.maximum(x, np.finfo(x.dtype).min) * share
    return y


def quick_gelu(x: np.ndarray) -> np.ndarray:
    r"""The sigmoid approximation of GELU, $x \cdot \sigma(1.702\, x)$, with which OpenAI trained CLIP.

    Source: Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2.
    """
    share = scipy.special.expit(x * x.dtype.type(1.702)).astype(x.dtype, copy=False)
    y: np.ndarray = np.maximum(x, np.finfo(x.dtype).min) * share
    return y


def geglu(x: np.ndarray) -> np.ndarray:
    r"""Gated GELU: the last axis `(a | g)` of size 2·C becomes $a \cdot \mathrm{GELU}(g)$ of size C.

    Source: Shazeer 2020, arXiv:2002.05202, equation 6 (the halves in the order of the published checkpoints).

    Raises `InputError` where the last axis is odd, or x has no axes.
    """
    if x.ndim == 0:
        raise InputError("geglu: x is a single number, and must have a last axis of channels")
    if x.shape[-1] % 2:
        raise InputError(f"geglu: the last axis holds two halves, so its size must be even, not {x.shape[-1]}")
    a, g = np.split(x, 2, axis=-1)
    y: np.ndarray = a * gelu(g)
    return y


def softmax(x: np.ndarray, axis: int = -1) -> np.ndarray:
    r"""Softmax along `axis`: $e^{x_i} / \sum_j e^{x_j}$.

    The largest value is subtracted first, which changes nothing but keeps $e^{x}$ from overflowing. Raises `InputError`
    where x has no axes.
    """
    if x.ndim == 0:
        raise InputError("softmax: x is a single number, and must have a last axis of channels")
    e = np.exp(x - np.max(x, axis=axis, keepdims=True, initial=-np.inf))
    y: np.ndarray = e / np.sum(e, axis=axis, keepdims=True)
    return y


# Numbers as vectors -------------------------------------------------------------------------------------------------


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
