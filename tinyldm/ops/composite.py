"""Named composites: what a fast kernel computes in one pass, written here as the plain operators that it stands for.

A composite adds no math. It exists so that a kernel may fuse it (a normalisation into the convolution that follows, a
bias and a residual into a matrix product) while the models keep reading like the paper. `operators` are the plain ones
that it is composed of: those of this package, or others of the same names (a trace gives ones that tell it).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tinyldm.errors import InputError
from tinyldm.ops.conv import Padding, conv2d, conv2d_sizes, upsample_nearest
from tinyldm.ops.norm import check_affine, group_norm
from tinyldm.ops.vectors import geglu, gelu, linear, quick_gelu, silu
from tinyldm.typing import Array

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"silu": silu, "gelu": gelu, "quick_gelu": quick_gelu}


class Operators:
    """The plain operators that a composite is composed of; those of this package, unless a subclass has others."""

    conv2d = staticmethod(conv2d)
    geglu = staticmethod(geglu)
    group_norm = staticmethod(group_norm)
    linear = staticmethod(linear)
    upsample_nearest = staticmethod(upsample_nearest)
    activations: Mapping[str, Callable[[Array], Array]] = ACTIVATIONS


PLAIN = Operators()


def norm_silu(x: Array, weight: Array, bias: Array, groups: int, eps: float, *, operators: Operators = PLAIN) -> Array:
    """`silu(group_norm(x))`: `(N, H, W, C) -> (N, H, W, C)`."""
    return operators.activations["silu"](operators.group_norm(x, weight, bias, groups, eps))


def norm_silu_conv2d(
    x: Array,
    norm_weight: Array,
    norm_bias: Array,
    groups: int,
    eps: float,
    weight: Array,
    bias: Array | None = None,
    *,
    stride: int = 1,
    padding: Padding = 1,
    shift: Array | None = None,
    residual: Array | None = None,
    operators: Operators = PLAIN,
) -> Array:
    """Half of a residual block: `conv2d(silu(group_norm(x))) + shift + residual`.

    `(N, H, W, C_in) -> (N, H', W', C_out)`;
    `shift` is `(N, C_out)`, one number per sample and channel (the time embedding); `residual` has the result's shape.
    """
    h = operators.activations["silu"](operators.group_norm(x, norm_weight, norm_bias, groups, eps))
    h = operators.conv2d(h, weight, bias, stride=stride, padding=padding)
    if shift is not None:
        h = h + shift[:, None, None, :]
    return h if residual is None else h + residual


def affine_silu_conv2d(
    x: Array,
    gain: Array,
    shift: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    padding: Padding = 1,
    residual: Array | None = None,
) -> Array:
    """`conv2d(silu(x · gain + shift)) + residual`: `norm_silu_conv2d` of a part of an image, whose norm is the whole's.

    `(N, H, W, C_in) -> (N, H', W', C_out)`; `gain` and `shift` `(N, C_in)` come from `gain_and_shift`. Raises
    `InputError` where they do not fit `x`, and as `conv2d` does.
    """
    conv2d_sizes("affine_silu_conv2d", x, weight.shape, 1, padding)
    check_affine("affine_silu_conv2d", x, gain, shift)
    affine = (x * gain[:, None, None, :] + shift[:, None, None, :]).astype(x.dtype, copy=False)
    h = conv2d(silu(affine), weight, bias, padding=padding)
    return h if residual is None else h + residual


def conv2d_residual(
    x: Array,
    weight: Array,
    bias: Array | None,
    residual: Array | None,
    *,
    stride: int = 1,
    padding: Padding = 0,
    relu: bool = False,
    operators: Operators = PLAIN,
) -> Array:
    """`conv2d(x) + residual`, with `relu` the larger of that and 0: `(N, H, W, C_in) -> (N, H', W', C_out)`.

    `residual` has the result's shape; None is nothing to add.
    """
    h = operators.conv2d(x, weight, bias, stride=stride, padding=padding)
    h = h if residual is None else h + residual
    return np.maximum(h, 0) if relu else h


def upsample_conv2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    size: tuple[int, int] | None = None,
    inner: slice = slice(None),
    *,
    operators: Operators = PLAIN,
) -> Array:
    """`conv2d(upsample_nearest(x, size), padding=1)`: `(N, H, W, C_in) -> (N, 2H, 2W, C_out)` or to `size`.

    Of that, the rows `inner`: where `x` is a part of an image, those that zeros around it do not reach.
    """
    return operators.conv2d(operators.upsample_nearest(x, size), weight, bias, padding=1)[:, inner]


def linear_residual(
    x: Array, weight: Array, bias: Array | None, residual: Array, *, operators: Operators = PLAIN
) -> Array:
    """`linear(x) + residual`: `(…, C_in), (…, C_out) -> (…, C_out)`."""
    return operators.linear(x, weight, bias) + residual


def linears(
    x: Array,
    weights: Sequence[Array],
    biases: Sequence[Array | None],
    *,
    operators: Operators = PLAIN,
) -> list[Array]:
    """Several linear layers of the same `x`, such as an attention's queries, keys and values: a `linear` of each.

    `(…, C_in) -> [(…, C_out), …]`.
    """
    return [operators.linear(x, weight, bias) for weight, bias in zip(weights, biases, strict=True)]


def linear_geglu(x: Array, weight: Array, bias: Array | None = None, *, operators: Operators = PLAIN) -> Array:
    """`geglu(linear(x))`: `(…, C_in) -> (…, C_out)`; the weight is `(2·C_out, C_in)`, values first, gates second."""
    return operators.geglu(operators.linear(x, weight, bias))


def linear_activation(
    x: Array, weight: Array, bias: Array | None, activation: str, *, operators: Operators = PLAIN
) -> Array:
    """`activation(linear(x))`, with one of `silu`, `gelu`, `quick_gelu`: `(…, C_in) -> (…, C_out)`.

    Raises `InputError` for another activation.
    """
    if activation not in ACTIVATIONS:
        raise InputError(f"linear_activation: unknown activation {activation!r}; known are {', '.join(ACTIVATIONS)}")
    return operators.activations[activation](operators.linear(x, weight, bias))
