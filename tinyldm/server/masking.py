"""Masks as clients send them, and the part of a picture around one, painted in a size of its own ("only masked")."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from tinyldm.pipelines.masks import as_mask, composite, softened
from tinyldm.server.uploads import resized

Box = tuple[int, int, int, int]  # left, top, right, bottom


def mask_of(image: Image.Image) -> Image.Image:
    """A mask of white on black: the opacity of what is partly transparent, else the brightness."""
    if image.has_transparency_data:
        alpha = image.convert("RGBA").getchannel("A")
        if alpha.getextrema() != (255, 255):
            return alpha
    return image.convert("L")


def transparent(image: Image.Image) -> Image.Image:
    """The mask of a picture that is transparent where it is to be painted."""
    return ImageOps.invert(image.convert("RGBA").getchannel("A"))


def is_transparent(image: Image.Image) -> bool:
    """Whether a picture is transparent anywhere, so that it has a mask in itself."""
    return bool(np.asarray(transparent(image)).max() >= 128)


@dataclass(frozen=True)
class Closer:
    """The part of a picture around its mask; `painted`, it is laid back into the picture by `back`."""

    whole: Image.Image
    mask: Image.Image
    box: Box
    blur: float

    @classmethod
    def of(cls, image: Image.Image, mask: Image.Image, padding: int, size: tuple[int, int], blur: float) -> Closer:
        """The part that has the mask with `padding` pixels about it, in the shape of `size` as far as the picture goes.

        Raises `InputError` where the mask is not of the picture, or nothing in it is white.
        """
        white = as_mask(mask, image)
        return cls(image, white, around(white, padding, size), blur)

    def part(self, size: tuple[int, int]) -> tuple[Image.Image, Image.Image]:
        """Picture and mask of the part in the size in which it is painted."""
        picture, mask = (resized(image.crop(self.box), *size, "pad") for image in (self.whole, self.mask))
        return picture, mask

    def back(self, painted: Image.Image) -> Image.Image:
        """The whole picture with the painted part in it; outside the mask and its soft edge its pixels are the old."""
        new = self.whole.copy()
        size = (self.box[2] - self.box[0], self.box[3] - self.box[1])
        new.paste(ImageOps.fit(painted, size, Image.Resampling.LANCZOS), self.box)
        return composite(new, self.whole, softened(self.mask, self.blur))


def around(mask: Image.Image, padding: int, shape: tuple[int, int]) -> Box:
    """The box about what is white with its padding, grown to the shape (width, height) as far as the picture goes."""
    levels = np.asarray(mask)
    spans = []
    for axis, side in ((0, mask.width), (1, mask.height)):
        (white,) = np.nonzero(levels.any(axis=axis))
        spans.append((max(0, int(white[0]) - padding), min(side, int(white[-1]) + 1 + padding)))
    (left, right), (top, bottom) = spans
    width, height = right - left, bottom - top
    wanted = (max(width, round(height * shape[0] / shape[1])), max(height, round(width * shape[1] / shape[0])))
    left, right = grown(left, right, wanted[0], mask.width)
    top, bottom = grown(top, bottom, wanted[1], mask.height)
    return left, top, right, bottom


def grown(start: int, stop: int, length: int, side: int) -> tuple[int, int]:
    """A span of at least `length`, about the middle of this one, within `side`."""
    length = min(length, side)
    start = min(max(0, start - (length - (stop - start)) // 2), side - length)
    return start, start + length
