"""Maps that stand for a picture: of depth, and of segments; what their files and arrays say."""

from __future__ import annotations

import numpy as np
from PIL import Image

from tinyldm.errors import InputError
from tinyldm.typing import Array, Integers


def depth_levels(depth: Image.Image | Array | None) -> Array:  # -> (H, W) float64
    """The numbers of a map of depth: an array `(H, W)`, or a grey picture of 8 or 16 bits or of floats.

    What is near is large (a disparity, as networks that estimate depth give it). Raises `InputError` for another
    shape, and where all is equally far.
    """
    if isinstance(depth, Image.Image):
        depth = np.asarray(depth if depth.mode == "F" or depth.mode.startswith("I") else depth.convert("L"))
    levels = np.asarray(depth, np.float64)
    if levels.ndim != 2 or not np.isfinite(levels).all():
        raise InputError(f"depth: wanted a grey picture or an array (H, W) of finite numbers, not {levels.shape}")
    if not levels.size or levels.min() == levels.max():
        raise InputError("depth: everything in it is equally far; wanted a map with near (white) and far (black)")
    return levels


def resized_bicubic(x: Array, height: int, width: int) -> Array:  # (H, W) -> (height, width)
    """Cubic convolution with a = -0.75 at the centres of the new pixels, from the 4 × 4 nearest, edges repeated.

    Not smoothed where it gets smaller: so the model was trained. Source: Keys 1981, "Cubic convolution interpolation
    for digital image processing", eq. 8.
    """
    return cubic_weights(x.shape[0], height) @ x @ cubic_weights(x.shape[1], width).T


def cubic_weights(old: int, new: int) -> Array:  # -> (new, old)
    """What each of `old` pixels in a row gives to each of `new`."""
    a, places = -0.75, (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(places).astype(int)
    weights = np.zeros((new, old))
    for offset in range(-1, 3):
        d = np.abs(places - first - offset)
        near = (a + 2) * d**3 - (a + 3) * d**2 + 1
        far = a * (d**3 - 5 * d**2 + 8 * d - 4)
        pixel = np.clip(first + offset, 0, old - 1)
        np.add.at(weights, (np.arange(new), pixel), np.where(d <= 1, near, far))
    return weights


def segment_classes(segments: Image.Image | Integers | None) -> Integers:  # -> (H, W)
    """The class of every pixel: an array `(H, W)` of integers, or a picture whose grey or palette number it is.

    Raises `InputError` for colours, which have no number, and for another shape.
    """
    if isinstance(segments, Image.Image) and segments.mode not in ("L", "P", "I", "I;16"):
        raise InputError(
            f"segments: a picture of {segments.mode} has colours; wanted one whose grey or palette number is the class"
        )
    classes = np.asarray(segments)
    if classes.ndim != 2 or classes.dtype.kind not in "iu":
        raise InputError(f"segments: wanted an array (H, W) of integers, not {classes.dtype} of {classes.shape}")
    return classes
