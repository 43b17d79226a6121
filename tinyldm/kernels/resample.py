"""Nearest upsampling and average pooling: NumPy copies memory as fast as memory goes.

Why it is fast: doubling is one broadcast copy; a mean adds whole strided images, one for each pixel of a window, and
touches no value twice.

Error: none of an upsampling, which copies; of a mean, at most kernel² · 2^-24 · mean |x|, always added in one order.

Odena et al. 2016, "Deconvolution and checkerboard artifacts" (why models enlarge by copying).
"""

from __future__ import annotations

import numpy as np

from tinyldm import ops
from tinyldm.ops.conv import enlarged_size, pooled_size


def upsample_nearest(x: np.ndarray, size: tuple[int, int] | None = None) -> np.ndarray:
    """Enlarge by repeating pixels, to twice the height and width or to `size`: `(N, H, W, C) -> (N, H', W', C)`."""
    to = enlarged_size("upsample_nearest", x, size)
    n, height, width, channels = x.shape
    if to == (2 * height, 2 * width):
        y = np.empty((n, height, 2, width, 2, channels), x.dtype)
        y[:] = x[:, :, None, :, None]
        return y.reshape(n, 2 * height, 2 * width, channels)
    return np.ascontiguousarray(ops.upsample_nearest(x, to))


def avg_pool2d(x: np.ndarray, kernel: int = 2) -> np.ndarray:
    """Mean over `kernel` × `kernel` pixels, windows side by side; rows and columns left over are dropped."""
    rows, columns = pooled_size(x, kernel)
    total = np.zeros((x.shape[0], rows, columns, x.shape[3]), x.dtype)
    for u in range(kernel):
        for v in range(kernel):
            total += x[:, u : rows * kernel : kernel, v : columns * kernel : kernel]
    total /= x.dtype.type(kernel * kernel)
    return total
