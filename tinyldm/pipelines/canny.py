r"""Edges of a picture, white on black: what ControlNets and T2I-Adapters of the kind "canny" read.

Source: Canny 1986, "A computational approach to edge detection", IEEE PAMI 8(6). Done here as those networks were
trained, with OpenCV's `Canny`, in its integers, so that the edges are the same to the last pixel:

1. the gradient $(g_x, g_y)$ by Sobel's 3×3 filters, the border repeated; of several channels that of the strongest;
2. its strength $m = |g_x| + |g_y|$, nothing outside the picture;
3. a pixel stays where its strength is above `low` and is the largest of three across the edge, whose direction is
   rounded to 45°;
4. and where it hangs together, over any of eight neighbours, with one whose strength is above `high`.

OpenCV smooths nothing beforehand. `sigma` does, for pictures with noise: by a Gaussian, as Canny's paper has it.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from tinyldm.errors import InputError
from tinyldm.pipelines.pictures import as_rgb
from tinyldm.typing import Array

LOW, HIGH = 100.0, 200.0  # the thresholds that published examples take
SHIFT = 15  # fraction bits of the tangent below
TAN_22 = round(math.tan(math.pi / 8) * (1 << SHIFT))  # directions are told apart at 22.5° and 67.5°


def canny(image: Image.Image | Array, low: float = LOW, high: float = HIGH, sigma: float = 0.0) -> Image.Image:
    """The edges of a picture as a picture of its size, white on black, RGB.

    `image` is a picture, or 8-bit levels `(H, W)` or `(H, W, C)`. `low` and `high` bound the gradient's strength, which
    goes up to 2040: what is above `high` is an edge, and what is above `low` where it hangs together with one. `sigma`
    is the standard deviation in pixels of a Gaussian that smooths the picture first; 0, none.

    Raises `InputError` for thresholds that are not 0 ≤ low ≤ high, and for an array of another shape or type.
    """
    if not 0 <= low <= high < math.inf:
        raise InputError(f"canny: the thresholds must be 0 ≤ low ≤ high, not {low:g} and {high:g}")
    if not 0 <= sigma < math.inf:
        raise InputError(f"canny: sigma must be a number of pixels from 0, not {sigma:g}")
    levels = np.asarray(as_rgb(image)[0] if isinstance(image, Image.Image) else image)
    if levels.dtype != np.uint8 or levels.ndim not in (2, 3) or 0 in levels.shape:
        raise InputError(
            f"canny: wanted a picture or 8-bit levels (H, W) or (H, W, C), not {levels.dtype} of shape {levels.shape}"
        )
    levels = levels.reshape(*levels.shape[:2], -1)
    if sigma:
        smooth = ndimage.gaussian_filter(levels.astype(np.float32), (sigma, sigma, 0), mode="mirror")
        levels = np.round(smooth).astype(np.uint8)
    edges = hysteresis(*thinned(*gradient(levels)), math.floor(low), math.floor(high))
    return Image.fromarray(np.where(edges, 255, 0).astype(np.uint8)).convert("RGB")


def gradient(levels: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sobel's gradient of the channel where it is strongest: `(H, W, C) -> g_x (H, W), g_y (H, W)`."""
    wide = levels.astype(np.int64)

    def sobel(along: int, across: int) -> NDArray[np.int64]:
        smoothed = ndimage.correlate1d(wide, [1, 2, 1], axis=across, mode="nearest")
        slope: NDArray[np.int64] = ndimage.correlate1d(smoothed, [-1, 0, 1], axis=along, mode="nearest")
        return slope

    gx, gy = sobel(1, 0), sobel(0, 1)
    strongest = (np.abs(gx) + np.abs(gy)).argmax(axis=-1)[..., None]
    return np.take_along_axis(gx, strongest, -1)[..., 0], np.take_along_axis(gy, strongest, -1)[..., 0]


def thinned(gx: NDArray[np.int64], gy: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The gradient's strength `(H, W)`, and where it is the largest of three across the edge.

    Of two that are equal the upper or the left one stays; on a diagonal neither does.
    """
    strength = np.abs(gx) + np.abs(gy)
    around, (height, width) = np.pad(strength, 1), strength.shape

    def beside(dy: int, dx: int) -> NDArray[np.int64]:
        return around[1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]

    x, y = np.abs(gx) * TAN_22, np.abs(gy) << SHIFT
    flat, steep = y < x, y > x + (np.abs(gx) << (SHIFT + 1))  # tan 67.5° = 2 + tan 22.5°
    falling = (gx < 0) == (gy < 0)
    diagonal = np.where(
        falling,
        (strength > beside(-1, -1)) & (strength > beside(1, 1)),
        (strength > beside(-1, 1)) & (strength > beside(1, -1)),
    )
    across = (strength > beside(0, -1)) & (strength >= beside(0, 1))
    upright = (strength > beside(-1, 0)) & (strength >= beside(1, 0))
    return strength, np.where(flat, across, np.where(steep, upright, diagonal))


def hysteresis(
    strength: NDArray[np.int64], largest: NDArray[np.bool_], low: int, high: int
) -> NDArray[np.bool_]:  # (H, W) each
    """Those of the `largest` above `low` that hang together with one above `high`, over any of eight neighbours."""
    candidates = largest & (strength > low)
    labels, count = ndimage.label(candidates, np.ones((3, 3)))
    kept = np.zeros(count + 1, bool)
    kept[labels[candidates & (strength > high)]] = True
    edges: NDArray[np.bool_] = kept[labels]
    return edges
