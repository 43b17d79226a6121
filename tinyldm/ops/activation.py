"""Activations: element by element, the non-linearity between the matrix products."""

from __future__ import annotations

import numpy as np
import scipy  # which imports scipy.special when it is first used: the Numba backend never does

from tinyldm.errors import InputError


def _times(x: np.ndarray, share: np.ndarray) -> np.ndarray:
    """`x * share`, and at x = -inf, where the share is 0, the limit: -0."""
    y: np.ndarray = np.maximum(x, np.finfo(x.dtype).min) * share.astype(x.dtype, copy=False)
    return y


def silu(x: np.ndarray) -> np.ndarray:
    r"""SiLU (swish): $x \cdot \sigma(x) = x / (1 + e^{-x})$, element by element.

    Source: Elfwing et al. 2017, arXiv:1702.03118, equation 5.
    """
    return _times(x, scipy.special.expit(x))


def gelu(x: np.ndarray) -> np.ndarray:
    r"""GELU, the exact one: $x \cdot \Phi(x) = \tfrac{x}{2} (1 + \mathrm{erf}(x / \sqrt 2))$.

    The tanh formula of the same paper is an approximation, off by up to 5e-4; the published models use this one.

    Source: Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2.
    """
    # ndtr(x) is Φ(x); unlike 1 + erf it does not cancel for x far below zero.
    return _times(x, scipy.special.ndtr(x))


def quick_gelu(x: np.ndarray) -> np.ndarray:
    r"""The sigmoid approximation of GELU, $x \cdot \sigma(1.702\, x)$, with which OpenAI trained CLIP.

    Source: Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2.
    """
    return _times(x, scipy.special.expit(x * x.dtype.type(1.702)))


def gated_size(x: np.ndarray) -> int:
    """Half the size of the last axis. Raises `InputError` where that is odd, or x has no axes."""
    if x.ndim == 0:
        raise InputError("geglu: x is a single number, and must have a last axis of channels")
    channels: int = x.shape[-1]
    if channels % 2:
        raise InputError(f"geglu: the last axis holds two halves, so its size must be even, not {channels}")
    return channels // 2


def geglu(x: np.ndarray) -> np.ndarray:
    r"""Gated GELU: the last axis `(a | g)` of size 2·C becomes $a \cdot \mathrm{GELU}(g)$ of size C.

    Source: Shazeer 2020, arXiv:2002.05202, equation 6 (the halves in the order of the published checkpoints).

    Raises `InputError` where the last axis is odd, or x has no axes.
    """
    gated_size(x)
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
