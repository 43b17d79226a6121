"""What operators and kernels ask of shapes before they compute: said once, with the same words in both."""

from __future__ import annotations

import numpy as np

from tinyldm.errors import InputError


def channels_of(operator: str, x: np.ndarray) -> int:
    """The size of the last axis, `(…, C)`. Raises `InputError` where x has no axes."""
    if x.ndim == 0:
        raise InputError(f"{operator}: x is a single number, and must have a last axis of channels")
    return int(x.shape[-1])


def image_of(operator: str, x: np.ndarray) -> tuple[int, int, int, int]:
    """`(N, H, W, C)` of images. Raises `InputError` where x has other than four axes."""
    if x.ndim != 4:
        raise InputError(f"{operator}: x must be images (N, H, W, C), not of the shape {x.shape}")
    return x.shape
