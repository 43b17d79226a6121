"""Normalisation: zero mean and unit variance over part of the axes, then a learned gain and bias."""

from __future__ import annotations

import functools
import math

import numpy as np

from tinyldm.errors import InputError


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


def check_affine(operator: str, x: np.ndarray, gain: np.ndarray, shift: np.ndarray) -> None:
    """Raise `InputError` unless gain and shift are one number for each sample and channel of x."""
    for name, array in (("gain", gain), ("shift", shift)):
        if array.shape != (len(x), x.shape[-1]):
            raise InputError(f"{operator}: the {name} of x {x.shape} has the shape {array.shape}")


def group_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, groups: int, eps: float) -> np.ndarray:
    r"""Normalise each sample over its pixels and each group of neighbouring channels: `(N, …, C) -> (N, …, C)`.

    $$y = \frac{x - \mathrm E[x]}{\sqrt{\mathrm{Var}[x] + \epsilon}} \cdot \gamma + \beta$$

    with mean and variance over all pixels and the $C / G$ channels of a group; $\gamma$ = `weight` and $\beta$ = `bias`
    are `(C,)`. Any number of pixel axes, so a sequence `(N, tokens, C)` works as well. The variance is the biased one,
    in a second pass over x. The means are summed in float64 whatever the dtype: in float32, that of a constant would
    not be the constant.

    Source: Wu and He 2018, arXiv:1803.08494, section 3.1.

    Raises `InputError` where `groups` does not divide the channels, or weight or bias does not fit them.
    """
    check_norm("group_norm", x, weight, bias, groups)
    if x.size == 0:
        return x.copy()
    grouped = x.reshape(x.shape[0], -1, groups, x.shape[-1] // groups)
    mean = functools.partial(np.mean, axis=(1, 3), keepdims=True, dtype=np.float64)
    centred = grouped - mean(grouped).astype(x.dtype)
    variance = mean(np.square(centred)).astype(x.dtype)
    standard = centred / np.sqrt(variance + x.dtype.type(eps))
    y: np.ndarray = standard.reshape(x.shape) * weight + bias
    return y


def moments(x: np.ndarray) -> np.ndarray:
    """Sum and sum of squares of every sample's channels, in float64: `(N, …, C) -> (N, 2, C)`.

    Those of an image are the sums of those of its parts.
    """
    wide = x.reshape(len(x), math.prod(x.shape[1:-1]), x.shape[-1]).astype(np.float64)
    return np.stack([wide.sum(axis=1), np.square(wide).sum(axis=1)], axis=1)


def gain_and_shift(
    sums: np.ndarray, pixels: int, weight: np.ndarray, bias: np.ndarray, groups: int, eps: float
) -> tuple[np.ndarray, np.ndarray]:
    r"""Group norm as one gain and one shift for each sample and channel, `(N, C)` float64 each, from `moments`.

    $$y = x \cdot g_c + s_c, \quad g_c = \gamma_c / \sqrt{\mathrm{Var} + \epsilon}, \quad s_c = \beta_c - \mathrm E[x]\,
    g_c$$

    `sums` `(N, 2, C)` are the moments of images of so many `pixels`; the rest is as `group_norm` takes it.
    """
    n, _, channels = sums.shape
    each = channels // groups
    mean, square = np.moveaxis(sums.reshape(n, 2, groups, each).sum(axis=3) / max(1, pixels * each), 1, 0)
    inverse = 1 / np.sqrt(np.maximum(square - mean * mean, 0) + eps)
    gain = np.repeat(inverse, each, axis=1) * weight
    return gain, bias - np.repeat(mean, each, axis=1) * gain


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float) -> np.ndarray:
    r"""Normalise each token over its channels: `(…, C) -> (…, C)`.

    That is `group_norm` of every token as a sample of its own, whose channels are one group.

    Source: Ba et al. 2016, arXiv:1607.06450, equation 4.

    Raises `InputError` where weight or bias does not fit the channels.
    """
    check_norm("layer_norm", x, weight, bias)
    tokens = x.reshape(math.prod(x.shape[:-1]), 1, x.shape[-1])
    return group_norm(tokens, weight, bias, 1, eps).reshape(x.shape)
