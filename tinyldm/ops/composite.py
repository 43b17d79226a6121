"""Named composites: what a fast kernel computes in one pass, written here as the plain operators that it stands for.

A composite adds no math. It exists so that a kernel may fuse it (a normalisation into the convolution that follows, a
bias and a residual into a matrix product) while the models keep reading like the paper.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinyldm.errors import InputError
from tinyldm.ops.activation import geglu, gelu, quick_gelu, silu
from tinyldm.ops.conv import Padding, conv2d
from tinyldm.ops.linear import linear
from tinyldm.ops.norm import group_norm
from tinyldm.ops.resample import upsample_nearest

ACTIVATIONS = {"silu": silu, "gelu": gelu, "quick_gelu": quick_gelu}


def norm_silu(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, groups: int, eps: float) -> np.ndarray:
    """`silu(group_norm(x))`: `(N, H, W, C) -> (N, H, W, C)`."""
    return silu(group_norm(x, weight, bias, groups, eps))


def norm_silu_conv2d(
    x: np.ndarray,
    norm_weight: np.ndarray,
    norm_bias: np.ndarray,
    groups: int,
    eps: float,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    *,
    stride: int = 1,
    padding: Padding = 1,
    shift: np.ndarray | None = None,
    residual: np.ndarray | None = None,
) -> np.ndarray:
    """Half of a residual block: `conv2d(silu(group_norm(x))) + shift + residual`.

    `(N, H, W, C_in) -> (N, H', W', C_out)`;
    `shift` is `(N, C_out)`, one number per sample and channel (the time embedding); `residual` has the result's shape.
    """
    h = conv2d(norm_silu(x, norm_weight, norm_bias, groups, eps), weight, bias, stride=stride, padding=padding)
    if shift is not None:
        h = h + shift[:, None, None, :]
    return h if residual is None else h + residual


def conv2d_residual(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    residual: np.ndarray,
    *,
    stride: int = 1,
    padding: Padding = 0,
) -> np.ndarray:
    """`conv2d(x) + residual`."""
    y: np.ndarray = conv2d(x, weight, bias, stride=stride, padding=padding) + residual
    return y


def upsample_conv2d(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None, size: tuple[int, int] | None = None
) -> np.ndarray:
    """`conv2d(upsample_nearest(x, size), padding=1)`: `(N, H, W, C_in) -> (N, 2H, 2W, C_out)` or to `size`."""
    return conv2d(upsample_nearest(x, size), weight, bias, padding=1)


def linear_residual(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, residual: np.ndarray) -> np.ndarray:
    """`linear(x) + residual`."""
    y: np.ndarray = linear(x, weight, bias) + residual
    return y


def linears(x: np.ndarray, weights: Sequence[np.ndarray], biases: Sequence[np.ndarray | None]) -> list[np.ndarray]:
    """Several linear layers of the same `x`, such as an attention's queries, keys and values: a `linear` of each."""
    return [linear(x, weight, bias) for weight, bias in zip(weights, biases, strict=True)]


def linear_geglu(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    """`geglu(linear(x))`: the weight is `(2·C_out, C_in)`, values first and gates second."""
    return geglu(linear(x, weight, bias))


def linear_activation(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, activation: str) -> np.ndarray:
    """`activation(linear(x))`, with one of `silu`, `gelu`, `quick_gelu`.

    Raises `InputError` for another activation.
    """
    if activation not in ACTIVATIONS:
        raise InputError(f"linear_activation: unknown activation {activation!r}; known are {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[activation](linear(x, weight, bias))
