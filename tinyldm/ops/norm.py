"""Normalisation: zero mean and unit variance over part of the axes, then a learned gain and bias."""

from __future__ import annotations

import functools

import numpy as np

from tinyldm.errors import InputError


def _standardise(x: np.ndarray, axes: tuple[int, ...], eps: float) -> np.ndarray:
    """(x - mean) / sqrt(variance + eps) over `axes`; the variance is the biased one, in a second pass over x.

    The means are summed in float64 whatever the dtype: in float32, that of a constant would not be the constant.
    """
    mean = functools.partial(np.mean, axis=axes, keepdims=True, dtype=np.float64)
    centred = x - mean(x).astype(x.dtype)
    variance = mean(np.square(centred)).astype(x.dtype)
    standard: np.ndarray = centred / np.sqrt(variance + x.dtype.type(eps))
    return standard


def check_norm(operator: str, x: np.ndarray, weight: np.ndarray, bias: np.ndarray, groups: int | None = None) -> None:
    """Raise `InputError` where the groups do not divide the channels, or gain or bias is not one number a channel."""
    if x.ndim == 0:
        raise InputError(f"{operator}: x is a single number, and must have a last axis of channels")
    channels = x.shape[-1]
    if groups is not None and x.ndim < 2:
        raise InputError(f"{operator}: x must be samples, pixels and channels, (N, …, C), not of the shape {x.shape}")
    if groups is not None and (groups < 1 or channels % groups):
        raise InputError(f"{operator}: {channels} channels can't be split into {groups} groups of equal size")
    for name, array in (("weight", weight), ("bias", bias)):
        if array.shape != (channels,):
            raise InputError(f"{operator}: x has {channels} channels, the {name} has the shape {array.shape}")


def group_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, groups: int, eps: float) -> np.ndarray:
    r"""Normalise each sample over its pixels and each group of neighbouring channels: `(N, …, C) -> (N, …, C)`.

    $$y = \frac{x - \mathrm E[x]}{\sqrt{\mathrm{Var}[x] + \epsilon}} \cdot \gamma + \beta$$

    with mean and variance over all pixels and the $C / G$ channels of a group; $\gamma$ = `weight` and $\beta$ = `bias`
    are `(C,)`. Any number of pixel axes, so a sequence `(N, tokens, C)` works as well.

    Source: Wu and He 2018, arXiv:1803.08494, section 3.1.

    Raises `InputError` where `groups` does not divide the channels, or weight or bias does not fit them.
    """
    check_norm("group_norm", x, weight, bias, groups)
    if x.size == 0:
        return x.copy()
    grouped = x.reshape(x.shape[0], -1, groups, x.shape[-1] // groups)
    y: np.ndarray = _standardise(grouped, (1, 3), eps).reshape(x.shape) * weight + bias
    return y


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float) -> np.ndarray:
    r"""Normalise each token over its channels: `(…, C) -> (…, C)`.

    The equation is that of `group_norm`, with mean and variance over the last axis alone.

    Source: Ba et al. 2016, arXiv:1607.06450, equation 4.

    Raises `InputError` where weight or bias does not fit the channels.
    """
    check_norm("layer_norm", x, weight, bias)
    if x.size == 0:
        return x.copy()
    y: np.ndarray = _standardise(x, (-1,), eps) * weight + bias
    return y
