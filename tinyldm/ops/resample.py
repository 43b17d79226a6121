"""Changing the number of pixels without weights."""

from __future__ import annotations

import numpy as np

from tinyldm.errors import InputError
from tinyldm.ops.shapes import image_of


def enlarged_size(operator: str, x: np.ndarray, size: tuple[int, int] | None) -> tuple[int, int]:
    """Height and width after enlarging `x (N, H, W, C)`, by default twice its own.

    Raises `InputError` for a size that is not positive, or pixels asked of an image without any.
    """
    _, height, width, _ = image_of(operator, x)
    if size is None:
        return 2 * height, 2 * width
    if min(size) < 1:
        raise InputError(f"{operator}: the size {size} must be positive")
    if min(height, width) < 1:
        raise InputError(f"{operator}: x of shape {x.shape} has no pixels to enlarge to {size}")
    return size


def pooled_size(x: np.ndarray, kernel: int) -> tuple[int, int]:
    """Height and width after pooling. Raises `InputError` for a kernel that is not positive."""
    if kernel < 1:
        raise InputError(f"avg_pool2d: the kernel must be positive, not {kernel}")
    _, height, width, _ = image_of("avg_pool2d", x)
    return height // kernel, width // kernel


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


def avg_pool2d(x: np.ndarray, kernel: int = 2) -> np.ndarray:
    """Mean over `kernel` × `kernel` pixels, windows side by side: `(N, H, W, C) -> (N, H//kernel, W//kernel, C)`.

    Rows and columns that do not fill a window are left out. Raises `InputError` for a kernel that is not positive.
    """
    rows, columns = pooled_size(x, kernel)
    n, _, _, channels = x.shape
    windows = x[:, : rows * kernel, : columns * kernel].reshape(n, rows, kernel, columns, kernel, channels)
    return np.asarray(np.mean(windows, axis=(2, 4)))
