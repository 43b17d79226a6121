"""Normalisation: zero mean and unit variance over part of the axes, then a learned gain and bias."""

from __future__ import annotations

import numpy as np

from tinyldm.errors import InputError


def _standardise(x: np.ndarray, axes: tuple[int, ...], eps: float) -> np.ndarray:
    """(x - mean) / sqrt(variance + eps) over `axes`; the variance is the biased one, in a second pass over x."""
    centred = x - np.mean(x, axis=axes, keepdims=True)
    variance = np.mean(np.square(centred), axis=axes, keepdims=True)
    return centred / np.sqrt(variance + x.dtype.type(eps))


def check_parameters(operator: str, channels: int, weight: np.ndarray, bias: np.ndarray) -> None:
    """Raise `InputError` where gain or bias is not one number a channel."""
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
    channels = x.shape[-1]
    if groups < 1 or channels % groups:
        raise InputError(f"group_norm: {channels} channels can't be split into {groups} groups of equal size")
    check_parameters("group_norm", channels, weight, bias)
    if x.size == 0:
        return x.copy()
    grouped = x.reshape(x.shape[0], -1, groups, channels // groups)
    return _standardise(grouped, (1, 3), eps).reshape(x.shape) * weight + bias


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float) -> np.ndarray:
    r"""Normalise each token over its channels: `(…, C) -> (…, C)`.

    The equation is that of `group_norm`, with mean and variance over the last axis alone.

    Source: Ba et al. 2016, arXiv:1607.06450, equation 4.

    Raises `InputError` where weight or bias does not fit the channels.
    """
    check_parameters("layer_norm", x.shape[-1], weight, bias)
    if x.size == 0:
        return x.copy()
    return _standardise(x, (-1,), eps) * weight + bias
