"""Two-dimensional convolution (in the sense of deep learning: cross-correlation)."""

from __future__ import annotations

import numpy as np

from tinyldm.errors import InputError
from tinyldm.ops.shapes import image_of

Padding = int | tuple[int, int, int, int]  # on every side, or (top, bottom, left, right)


def conv2d_sizes(
    operator: str,
    x: np.ndarray,
    weight_shape: tuple[int, ...],
    stride: int,
    padding: Padding,
    size: tuple[int, int] | None = None,
) -> tuple[tuple[int, int, int, int], tuple[int, int]]:
    """The padding as (top, bottom, left, right) and the height and width of the result.

    `size` is the height and width to which `x (N, H, W, C_in)` is enlarged first. Raises `InputError` where the
    channels do not agree or the padded image is smaller than the filter.
    """
    sides = (padding,) * 4 if isinstance(padding, int) else padding
    n, height, width, channels = image_of(operator, x)
    height, width = size or (height, width)
    _, c_in, k_h, k_w = weight_shape
    if channels != c_in:
        raise InputError(
            f"{operator}: x of shape {x.shape} has {channels} channels, weight {weight_shape} takes {c_in}"
        )
    if stride < 1 or min(sides) < 0:
        raise InputError(f"{operator}: stride {stride} must be positive and padding {padding} not negative")
    out_h = (height + sides[0] + sides[1] - k_h) // stride + 1
    out_w = (width + sides[2] + sides[3] - k_w) // stride + 1
    if out_h < 1 or out_w < 1:
        shape = (n, height, width, channels)
        raise InputError(
            f"{operator}: the padded image of x {shape} is smaller than the filter of weight {weight_shape}"
        )
    return sides, (out_h, out_w)


def conv2d(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    *,
    stride: int = 1,
    padding: Padding = 0,
) -> np.ndarray:
    r"""Convolve images with filters: `(N, H, W, C_in) -> (N, H', W', C_out)`.

    $$y_{n,i,j,o} = b_o + \sum_{u,v,c} x_{n,\; i s + u - p_t,\; j s + v - p_l,\; c}\; w_{o,c,u,v}$$

    with zeros outside the image, and $H' = \lfloor (H + p_t + p_b - k_h) / s \rfloor + 1$, $W'$ likewise.

    `weight` is `(C_out, C_in, k_h, k_w)`, `bias` is `(C_out,)`; `stride` in pixels, `padding` in pixels on every side
    or `(top, bottom, left, right)`: the downsampling convolutions of the autoencoder pad only below and to the right.

    The sum over the taps `(u, v)` stands outside: for one tap, the convolution is a matrix product of every
    pixel's channels with a `(C_in, C_out)` matrix, which is what channels-last is for.

    Raises `InputError` where the channels do not agree or the padded image is smaller than the filter.
    """
    sides, (out_h, out_w) = conv2d_sizes("conv2d", x, weight.shape, stride, padding)
    k_h, k_w = weight.shape[2:]
    x = np.pad(x, ((0, 0), sides[:2], sides[2:], (0, 0)))
    y = np.zeros((len(x), out_h, out_w, len(weight)), np.result_type(x, weight))
    for u in range(k_h):
        for v in range(k_w):
            pixels = x[:, u : u + stride * out_h : stride, v : v + stride * out_w : stride]
            y += pixels @ weight[:, :, u, v].T
    return y if bias is None else y + bias
