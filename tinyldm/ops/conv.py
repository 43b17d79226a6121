"""Images: convolution (in the sense of deep learning: cross-correlation), and resampling, which has no weights."""

from __future__ import annotations

import numpy as np

from tinyldm.errors import InputError

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

    `size` is the height and width to which `x (N, H, W, C_in)` is enlarged first. Raises `InputError` where x is not
    images, the channels do not agree or the padded image is smaller than the filter.
    """
    sides = (padding,) * 4 if isinstance(padding, int) else padding
    if x.ndim != 4:
        raise InputError(f"{operator}: x must be images (N, H, W, C), not of the shape {x.shape}")
    n, height, width, channels = x.shape
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


def enlarged_size(operator: str, x: np.ndarray, size: tuple[int, int] | None) -> tuple[int, int]:
    """Height and width after enlarging `x (N, H, W, C)`, by default twice its own.

    Raises `InputError` for a size that is not positive, or pixels asked of an image without any.
    """
    if x.ndim != 4:
        raise InputError(f"{operator}: x must be images (N, H, W, C), not of the shape {x.shape}")
    height, width = x.shape[1:3]
    if size is None:
        return 2 * height, 2 * width
    if min(size) < 1:
        raise InputError(f"{operator}: the size {size} must be positive")
    if min(height, width) < 1:
        raise InputError(f"{operator}: x of shape {x.shape} has no pixels to enlarge to {size}")
    return size


def upsample_nearest(x: np.ndarray, size: tuple[int, int] | None = None) -> np.ndarray:
    r"""Enlarge by repeating pixels: `(N, H, W, C) -> (N, H', W', C)`, by default to twice the height and width.

    $$y_{i,j} = x_{\lfloor i H / H' \rfloor,\; \lfloor j W / W' \rfloor}$$

    `size` is `(H', W')`. Raises `InputError` for a size that is not positive, or pixels asked of an image without any.
    """
    out_h, out_w = enlarged_size("upsample_nearest", x, size)
    height, width = x.shape[1:3]
    rows = np.arange(out_h) * height // max(out_h, 1)
    columns = np.arange(out_w) * width // max(out_w, 1)
    y: np.ndarray = x[:, rows[:, None], columns]
    return y


def pooled_size(x: np.ndarray, kernel: int) -> tuple[int, int]:
    """Height and width after pooling. Raises `InputError` for a kernel that is not positive."""
    if kernel < 1:
        raise InputError(f"avg_pool2d: the kernel must be positive, not {kernel}")
    if x.ndim != 4:
        raise InputError(f"avg_pool2d: x must be images (N, H, W, C), not of the shape {x.shape}")
    return x.shape[1] // kernel, x.shape[2] // kernel


def avg_pool2d(x: np.ndarray, kernel: int = 2) -> np.ndarray:
    """Mean over `kernel` × `kernel` pixels, windows side by side: `(N, H, W, C) -> (N, H//kernel, W//kernel, C)`.

    Rows and columns that do not fill a window are left out. Raises `InputError` for a kernel that is not positive.
    """
    rows, columns = pooled_size(x, kernel)
    n, _, _, channels = x.shape
    windows = x[:, : rows * kernel, : columns * kernel].reshape(n, rows, kernel, columns, kernel, channels)
    return np.asarray(np.mean(windows, axis=(2, 4)))
