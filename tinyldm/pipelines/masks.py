"""Masks of inpainting: read, brought to the latent's size, and what is done with pictures under them.

White is what is to be painted anew, black is kept. A mask is an 8-bit grey picture as large as the picture it is of.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops, ImageFilter, ImageOps

from tinyldm.errors import InputError
from tinyldm.pipelines.pictures import as_rgb
from tinyldm.typing import Array


def as_mask(mask: Image.Image | Array | None, image: Image.Image) -> Image.Image:
    """The mask of a picture, black and white, parted at half grey; without one, what is not opaque in the picture.

    `mask` is a picture, or an array `(H, W)` from 0 to 1. Raises `InputError` for one of another size than the picture,
    for one that is partly transparent itself, and where there is nothing to paint.
    """
    if mask is None:
        if not image.has_transparency_data:
            raise InputError("mask: there is none, and nothing in the picture is transparent; wanted one of the two")
        opaque = np.asarray(ImageOps.exif_transpose(image).convert("RGBA").getchannel("A")) == 255
        levels = np.where(opaque, 0.0, 255.0)
    else:
        levels = mask_levels(mask)
    upright = as_rgb(image)[0]
    if levels.shape[::-1] != upright.size:
        found, wanted = (f"{width}×{height}" for width, height in (levels.shape[::-1], upright.size))
        raise InputError(f"mask: its size {found} must be that of the picture, {wanted}")
    white = levels >= 128
    if not white.any():
        raise InputError("mask: nothing in it is white; wanted white where the picture is to be painted anew")
    return Image.fromarray(np.where(white, 255, 0).astype(np.uint8))


def mask_levels(mask: Image.Image | Array) -> Array:  # -> (H, W) from 0 to 255
    """The grey levels of a mask. Raises `InputError` for an array of another shape, and for what is transparent."""
    if not isinstance(mask, Image.Image):
        values = np.asarray(mask, np.float64)
        if values.ndim != 2 or not (
            values.size and np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1
        ):
            raise InputError(f"mask: an array must have the shape (H, W) and values from 0 to 1, not {values.shape}")
        return np.round(255 * values)
    if mask.has_transparency_data and mask.convert("RGBA").getchannel("A").getextrema() != (255, 255):
        raise InputError(
            "mask: is partly transparent; wanted black and white, or no mask and a picture that is transparent itself"
        )
    return np.asarray(as_rgb(mask)[0].convert("L"), np.float64)


def padded(image: Image.Image, factor: int, *, edge: bool) -> Image.Image:
    """A picture whose sides are multiples of `factor`, extended to the right and below: by its edge, or by black."""
    right, below = -image.width % factor, -image.height % factor
    levels = np.asarray(image)
    more = ((0, below), (0, right), (0, 0))[: levels.ndim]
    return Image.fromarray(np.pad(levels, more, mode="edge" if edge else "constant"))


def softened(mask: Image.Image, blur: float) -> Image.Image:
    """The mask fading out over `blur` pixels outside its edge; what was white stays white: nothing old shows there."""
    wide = mask
    for _ in range(math.ceil(blur / 2)):
        wide = wide.filter(ImageFilter.MaxFilter(3))
    return ImageChops.lighter(wide.filter(ImageFilter.BoxBlur(math.ceil(blur / 2))), mask)


def masked(image: Image.Image, mask: Image.Image | Array | None) -> tuple[Image.Image, Image.Image]:
    """A picture in RGB and its mask; without one it is what is transparent, which is filled with what is around it."""
    upright, area = as_rgb(image)[0], as_mask(mask, image)
    return filled(upright, area) if mask is None else upright, area


def filled(image: Image.Image, mask: Image.Image) -> Image.Image:
    """The picture with the colours of its surroundings where the mask is white: near the edge those that are near.

    Blurs of the known part alone, each smaller one laid over the larger ones.
    """
    known = image.convert("RGBA")
    known.putalpha(ImageOps.invert(mask))
    left = np.asarray(image)[np.asarray(mask) < 128]
    mean = left.mean(axis=0) if len(left) else np.full(3, 128.0)
    filling = Image.new("RGBA", image.size, tuple(round(float(colour)) for colour in mean))
    for part in (2, 6, 18, 54):
        blurred = known.convert("RGBa").filter(ImageFilter.GaussianBlur(max(image.size) / part)).convert("RGBA")
        filling = Image.alpha_composite(filling, blurred)
    return Image.composite(filling.convert("RGB"), image, mask)


def latent_mask(mask: Image.Image, factor: int) -> Array:  # -> (1, 1, h, w), 0 or 1
    """The mask for latents: a latent is painted anew where any of its `factor` × `factor` pixels is."""
    levels = np.asarray(padded(mask, factor, edge=False))
    cells = levels.reshape(levels.shape[0] // factor, factor, -1, factor).max(axis=(1, 3))
    return np.asarray(cells >= 128, np.float64)[None, None]


def composite(new: Image.Image, old: Image.Image, mask: Image.Image) -> Image.Image:
    """The new picture where the mask is white, the old one where it is black: there its pixels are exactly the old.

    `new` may be larger to the right and below.
    """
    return Image.composite(new.crop((0, 0, *old.size)), old, mask)


class Margins(NamedTuple):
    """How many pixels a picture grows on each side."""

    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0


def outpainted(
    image: Image.Image, margins: Margins, mask: Image.Image | None = None
) -> tuple[Image.Image, Image.Image]:
    """A picture extended on its sides, with the mask of what is new, beside what a `mask` has already.

    The new area has the colours of the edges. Raises `InputError` unless some margin is positive and none negative.
    """
    if min(margins) < 0 or not any(margins):
        raise InputError(f"outpaint: wanted at least one side with a number of pixels above 0, not {margins}")
    levels = np.asarray(as_rgb(image)[0])
    edges = ((margins.top, margins.bottom), (margins.left, margins.right))
    inside = np.zeros(levels.shape[:2], np.uint8)
    outside = Image.fromarray(np.pad(inside, edges, constant_values=255))
    new = np.pad(inside if mask is None else np.asarray(mask), edges, constant_values=255)
    return filled(Image.fromarray(np.pad(levels, (*edges, (0, 0)))), outside), Image.fromarray(new)
