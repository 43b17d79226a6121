"""A conditioner that keeps what it has made of the last prompts, for the rows that share them."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tinyldm.pipelines.conditioners import Conditioner, Conditioning, Prompts
from tinyldm.typing import Array

KEPT = 32  # conditions; of Stable Diffusion 1 half a megabyte each


class Remembered:
    """`Conditioner.encode`, asked once for each prompt of the last few.

    Each is read alone, as for a picture alone: what is made of it depends on the prompt, its negative one, and what the
    pictures of a request share (guidance scale, size), and on no other prompt.
    """

    def __init__(self, encode: Callable[..., Conditioning]) -> None:
        self.encode = encode
        self.kept: OrderedDict[Any, Conditioning] = OrderedDict()

    def __call__(self, prompts: Prompts, negatives: Sequence[str], *shared: Any) -> Conditioning:
        """The condition of the pictures of these prompts."""
        found = []
        for prompt, negative in zip(prompts, negatives, strict=True):
            key = (prompt, negative, shared)
            if key not in self.kept:
                self.kept[key] = self.encode([prompt], [negative], *shared)
            self.kept.move_to_end(key)
            found.append(self.kept[key])
            if len(self.kept) > KEPT:
                self.kept.popitem(last=False)
        return joined(found)


def remembering(conditioner: Conditioner) -> Conditioner:
    """The same conditioner, with an `encode` that remembers."""
    again = copy.copy(conditioner)
    vars(again)["encode"] = Remembered(conditioner.encode)
    return again


def joined(conditions: Sequence[Conditioning]) -> Conditioning:
    """The condition of several pictures, from that of each: the unconditional halves of all come first."""
    first = conditions[0]

    def rows(arrays: Sequence[Array]) -> Array:
        halves = zip(*(np.split(array, 1 + first.guided) for array in arrays), strict=True)
        return np.concatenate([array for half in halves for array in half])

    return replace(
        first,
        context=None if first.context is None else rows([c.context for c in conditions if c.context is not None]),
        arrays={name: rows([c.arrays[name] for c in conditions]) for name in first.arrays},
        concat=None if first.concat is None else rows([c.concat for c in conditions if c.concat is not None]),
    )
