"""Changing the number of pixels without weights."""

from __future__ import annotations

import numpy as np

from tinyldm.errors import InputError


def upsample_nearest(x: np.ndarray, size: tuple[int, int] | None = None) -> np.ndarray:
    r"""Enlarge by repeating pixels: `(N, H, W, C) -> (N, H', W', C)`, by default to twice the height and width.

    $$y_{i,j} = x_{\lfloor i H / H' \rfloor,\; \lfloor j W / W' \rfloor}$$

    `size` is `(H', W')`. Raises `InputError` for a size that is not positive, or pixels asked of an image without any.
    """
    height, width = x.shape[1:3]
    out_h, out_w = (2 * height, 2 * width) if size is None else size
    if size is not None and min(size) < 1:
        raise InputError(f"upsample_nearest: the size {size} must be positive")
    if size is not None and min(height, width) < 1:
        raise InputError(f"upsample_nearest: x of shape {x.shape} has no pixels to enlarge to {size}")
    rows = np.arange(out_h) * height // max(out_h, 1)
    columns = np.arange(out_w) * width // max(out_w, 1)
    return x[:, rows[:, None], columns]


def avg_pool2d(x: np.ndarray, kernel: int = 2) -> np.ndarray:
    """Mean over `kernel` × `kernel` pixels, windows side by side: `(N, H, W, C) -> (N, H//kernel, W//kernel, C)`.

    Rows and columns that do not fill a window are left out. Raises `InputError` for a kernel that is not positive.
    """
    if kernel < 1:
        raise InputError(f"avg_pool2d: the kernel must be positive, not {kernel}")
    n, height, width, channels = x.shape
    rows, columns = height // kernel, width // kernel
    windows = x[:, : rows * kernel, : columns * kernel].reshape(n, rows, kernel, columns, kernel, channels)
    return np.mean(windows, axis=(2, 4))
