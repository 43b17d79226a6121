"""Layouts: which kinds of things stand where in a picture, as tokens for the models that take them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tinyldm.errors import InputError
from tinyldm.typing import Integers


class Box(NamedTuple):
    """A thing: the number of its class, and its box in parts of the picture's width and height, from 0 to 1."""

    number: int
    left: float
    top: float
    right: float
    bottom: float


def read_layout(text: str) -> list[Box]:
    """The boxes of a JSON list `[[class, left, top, right, bottom], …]`. Raises `InputError` for another form."""
    try:
        boxes = [Box(*row) for row in json.loads(text)]
    except (ValueError, TypeError):
        raise InputError(
            f"layout: wanted JSON such as [[12, 0.1, 0.2, 0.6, 0.9]], a row for each thing: the number of its class, "
            f"left, top, right, bottom in parts of the picture; not {text[:60]!r}"
        ) from None
    for box in boxes:
        fits = all(isinstance(side, int | float) and 0 <= side <= 1 for side in box[1:])
        if not fits or box.left > box.right or box.top > box.bottom:
            raise InputError(f"layout: left, top, right, bottom must be from 0 to 1 in this order, not {list(box[1:])}")
    return boxes


def layout_tokens(boxes: Sequence[Box], length: int, vocabulary: int) -> Integers:  # -> (length,)
    """A layout as the tokens that the encoder was trained on: of each thing its class and two corners.

    A corner is the number of its cell in a grid of as many cells as there are tokens. The last token stands for no
    thing, and the two corners of the whole picture end the list. Raises `InputError` for too many things, and for a
    class that is none. Source: Rombach et al. 2022, arXiv:2112.10752, section 4.3.1 and appendix D.1.
    """
    side, most = math.isqrt(vocabulary), (length - 2) // 3
    if len(boxes) > most:
        raise InputError(f"layout: {len(boxes)} things; the model takes {most} at most")

    def corner(x: float, y: float) -> int:
        return round(y * (side - 1)) * side + round(x * (side - 1))

    tokens: list[int] = []
    for box in boxes:
        if isinstance(box.number, bool) or not isinstance(box.number, int) or not 0 <= box.number < vocabulary - 1:
            raise InputError(f"layout: a class must be a number from 0 to {vocabulary - 2}, not {box.number!r}")
        tokens += [box.number, corner(box.left, box.top), corner(box.right, box.bottom)]
    tokens += [vocabulary - 1] * (3 * most - len(tokens))
    return np.array([*tokens, corner(0, 0), corner(1, 1)], np.int64)
