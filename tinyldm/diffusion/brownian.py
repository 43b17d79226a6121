r"""A Brownian path that can be asked for any of its increments: the same whatever is asked, and in what order.

An interval is halved until its halves are those asked for; the value in the middle of an interval, given its increment
$W$ over the length $h$, is $N(W / 2, h / 4)$ (Lévy's construction). Each interval has a seed of its own, from its place
in the tree, so that the path does not depend on the questions. Source: Li et al. (2020), "Scalable Gradients for
Stochastic Differential Equations", arXiv 2001.01328, section 4; the seeds are those of the library torchsde, and so are
the bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tinyldm.diffusion.random import torch_randn_each
from tinyldm.diffusion.types import Array

DIGITS = 6  # times are rounded to this many digits
POOL = 24  # words of the seeds' entropy pool
Place = tuple[int, int]


class BrownianTree:
    """A Brownian path on [start, end] for every element of an array: `tree(a, b)` is its increment from a to b.

    `entropy` is the seed, a non-negative integer; normals are drawn in float32, the arithmetic is of `dtype`.
    """

    def __init__(self, start: float, end: float, shape: tuple[int, ...], entropy: int, dtype: np.dtype):
        self.start, self.end = round(start, DIGITS), round(end, DIGITS)
        self.shape, self.entropy, self.dtype = shape, entropy, dtype
        self.values: dict[Place, Array] = {}  # normals at the middle of the intervals of the latest question
        self.whole = self.normals([()])[0] * math.sqrt(end - start)

    def normals(self, places: Sequence[tuple[int, ...]]) -> Array:  # -> (len(places), *shape)
        """The normals of intervals by their places in the tree."""
        pools = [np.random.SeedSequence(self.entropy, spawn_key=place, pool_size=POOL) for place in places]
        return torch_randn_each(self.shape, [int(pool.generate_state(4)[0]) for pool in pools]).astype(self.dtype)

    def __call__(self, a: float, b: float) -> Array:  # -> shape
        """The increment from `a` to `b`, both within the path, `a` first; times have six digits."""
        a, b = (min(max(round(t, DIGITS), self.start), self.end) for t in (a, b))
        if a == b:
            return np.zeros(self.shape, self.dtype)
        places: list[Place] = []
        self.split(self.start, self.end, (0, 0), a, b, places)
        missing = [place for place in places if place not in self.values]
        drawn = dict(zip(missing, self.normals(missing), strict=True)) if missing else {}
        self.values = {place: drawn[place] if place in drawn else self.values[place] for place in places}
        parts: list[Array] = []
        self.part(self.start, self.end, self.whole, (0, 0), a, b, parts)
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    def split(self, start: float, end: float, place: Place, a: float, b: float, places: list[Place]) -> None:
        """Append the intervals that have to be halved to find [a, b]."""
        if (a, b) == (start, end):
            return
        places.append(place)
        middle, (left, right) = round(0.5 * (end + start), DIGITS), halves(place)
        if a < middle:
            self.split(start, middle, left, a, min(b, middle), places)
        if b > middle:
            self.split(middle, end, right, max(a, middle), b, places)

    def part(self, start: float, end: float, w: Array, place: Place, a: float, b: float, parts: list[Array]) -> None:
        """Append the increments of the largest intervals of the tree that make up [a, b], in order."""
        if (a, b) == (start, end):
            parts.append(w)
            return
        middle = round(0.5 * (end + start), DIGITS)
        before, after, reciprocal = middle - start, end - middle, 1 / (end - start)
        w_left = before * w * reciprocal + math.sqrt(before * after * reciprocal) * self.values[place]
        left, right = halves(place)
        if a < middle:
            self.part(start, middle, w_left, left, a, min(b, middle), parts)
        if b > middle:
            self.part(middle, end, w - w_left, right, max(a, middle), b, parts)


def halves(place: Place) -> tuple[Place, Place]:
    """The places of an interval's halves: number and depth."""
    number, depth = place
    return (2 * number, depth + 1), (2 * number + 1, depth + 1)
