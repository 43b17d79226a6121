"""Nearest upsampling and average pooling: NumPy copies memory as fast as memory goes.

Why it is fast: doubling is one broadcast copy; a mean adds whole strided images, one for each pixel of a window, and
touches no value twice.

Error: none of an upsampling, which copies; of a mean, at most kernel² · 2^-24 · mean |x|, always added in one order.

Odena et al. 2016, "Deconvolution and checkerboard artifacts" (why models enlarge by copying).
"""

from __future__ import annotations

import numpy as np

from tinyldm.errors import InputError


def upsample_nearest(x: np.ndarray, size: tuple[int, int] | None = None) -> np.ndarray:
    """Enlarge by repeating pixels, to twice the height and width or to `size`: `(N, H, W, C) -> (N, H', W', C)`."""
    n, height, width, channels = x.shape
    if size is None or size == (2 * height, 2 * width):
        y = np.empty((n, height, 2, width, 2, channels), x.dtype)
        y[:] = x[:, :, None, :, None]
        return y.reshape(n, 2 * height, 2 * width, channels)
    if min(size) < 1:
        raise InputError(f"upsample_nearest: the size {size} must be positive")
    rows = np.arange(size[0]) * height // size[0]
    columns = np.arange(size[1]) * width // size[1]
    return np.ascontiguousarray(x[:, rows[:, None], columns])


def avg_pool2d(x: np.ndarray, kernel: int = 2) -> np.ndarray:
    """Mean over `kernel` × `kernel` pixels, windows side by side; rows and columns left over are dropped."""
    if kernel < 1:
        raise InputError(f"avg_pool2d: the kernel must be positive, not {kernel}")
    rows, columns = x.shape[1] // kernel, x.shape[2] // kernel
    total = np.zeros((x.shape[0], rows, columns, x.shape[3]), x.dtype)
    for u in range(kernel):
        for v in range(kernel):
            total += x[:, u : rows * kernel : kernel, v : columns * kernel : kernel]
    return total / x.dtype.type(kernel * kernel)
