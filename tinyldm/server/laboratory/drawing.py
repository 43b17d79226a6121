"""Arrays as small pictures, and findings as JSON that a page can show."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
from PIL import Image

from tinyldm.pipelines.pictures import as_file
from tinyldm.server.uploads import png_link
from tinyldm.typing import Array

WIDEST = 3.0  # deviations from 0 that are drawn; a latent has few numbers beyond
# Blue below zero, white at it, red above, each in RGB.
BELOW, ZERO, ABOVE = (np.array(colour, float) for colour in ((33, 94, 168), (247, 247, 245), (186, 45, 37)))
HEAT = np.array([(10, 8, 40), (110, 25, 110), (215, 70, 65), (250, 165, 50), (252, 250, 190)], float)


def channels(z: Array, widest: float = WIDEST) -> Image.Image:  # (C, h, w) ->
    """The channels of a latent side by side in a square, as signed numbers up to `widest`: blue, white, red."""
    count, h, w = z.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    sheet = np.zeros((rows * (h + 1) - 1, columns * (w + 1) - 1, 4), np.uint8)  # a line of nothing between them
    for k, one in enumerate(z):
        top, left = (k // columns) * (h + 1), (k % columns) * (w + 1)
        sheet[top : top + h, left : left + w] = signed(one, widest)
    return Image.fromarray(sheet)


def signed(x: Array, widest: float) -> Array:  # (h, w) -> (h, w, 4)
    """Signed numbers as colours."""
    part = np.clip(np.nan_to_num(x.astype(np.float64)) / widest, -1, 1)[..., None]
    colours = ZERO + np.where(part < 0, -part * (BELOW - ZERO), part * (ABOVE - ZERO))
    opaque = np.full((*x.shape, 1), 255.0)
    return np.round(np.concatenate([colours, opaque], axis=-1)).astype(np.uint8)


def heat(x: Array, low: float | None = None, high: float | None = None) -> Image.Image:  # (h, w) ->
    """Numbers from `low` to `high`, by default their own least and largest, as heat: dark to bright."""
    low, high = float(x.min()) if low is None else low, float(x.max()) if high is None else high
    place = np.clip(np.nan_to_num(x - low) / max(high - low, 1e-12), 0, 1) * (len(HEAT) - 1)
    levels = [np.interp(place, np.arange(len(HEAT)), HEAT[:, c]) for c in range(3)]
    return Image.fromarray(np.round(np.stack(levels, axis=-1)).astype(np.uint8))


def plain(found: Any) -> Any:
    """A finding as JSON: pictures become links that carry them, arrays lists, what is not finite None."""
    if isinstance(found, Image.Image):
        return png_link(as_file(found))
    if is_dataclass(found) and not isinstance(found, type):
        return {field.name: plain(getattr(found, field.name)) for field in fields(found)}
    if isinstance(found, Mapping):
        return {str(key): plain(value) for key, value in found.items()}
    if isinstance(found, np.ndarray):
        return plain(found.tolist())
    if isinstance(found, list | tuple):
        return [plain(each) for each in found]
    if isinstance(found, float | np.floating):
        return float(found) if math.isfinite(found) else None
    return found.item() if isinstance(found, np.generic) else found
