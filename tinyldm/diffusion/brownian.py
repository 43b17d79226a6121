r"""A Brownian path that can be asked for any of its increments: the same whatever is asked, and in what order.

An interval is halved until its halves are those asked for; the value in the middle of an interval, given its increment
$W$ over the length $h$, is $N(W / 2, h / 4)$ (Lévy's construction). Each interval has a seed of its own, from its place
in the tree, so that the path does not depend on the questions. Source: Li et al. (2020), "Scalable Gradients for
Stochastic Differential Equations", arXiv 2001.01328, section 4; the seeds are those of the library torchsde, and so are
the bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from tinyldm.diffusion.random import TorchGenerator
from tinyldm.diffusion.types import Array

DIGITS = 6  # times are rounded to this many digits
POOL = 24  # words of the seeds' entropy pool


class BrownianTree:
    """A Brownian path on [start, end] for every element of an array: `tree(a, b)` is its increment from a to b.

    `entropy` is the seed, a non-negative integer; normals are drawn in float32, the arithmetic is of `dtype`.
    """

    def __init__(self, start: float, end: float, shape: tuple[int, ...], entropy: int, dtype: np.dtype):
        self.start, self.end = round(start, DIGITS), round(end, DIGITS)
        self.shape, self.entropy, self.dtype = shape, entropy, dtype
        self.values: dict[tuple[int, int], Array] = {}  # at the middle of the intervals of the latest question
        self.whole = self.normals(()) * math.sqrt(end - start)

    def normals(self, place: tuple[int, ...]) -> Array:
        """The normals of an interval by its place in the tree."""
        seed = np.random.SeedSequence(self.entropy, spawn_key=place, pool_size=POOL).generate_state(4)[0]
        return TorchGenerator(int(seed)).randn(self.shape).astype(self.dtype)

    def __call__(self, a: float, b: float) -> Array:  # -> shape
        """The increment from `a` to `b`, both within the path, `a` first; times have six digits."""
        a, b = (min(max(round(t, DIGITS), self.start), self.end) for t in (a, b))
        if a == b:
            return np.zeros(self.shape, self.dtype)
        kept, self.values = self.values, {}
        first, *rest = self.parts(self.start, self.end, self.whole, (0, 0), a, b, kept)
        for part in rest:
            first = first + part
        return first

    def parts(
        self,
        start: float,
        end: float,
        w: Array,
        place: tuple[int, int],
        a: float,
        b: float,
        kept: dict[tuple[int, int], Array],
    ) -> Iterator[Array]:
        """The increments of the largest intervals of the tree that make up [a, b], in order."""
        if (a, b) == (start, end):
            yield w
            return
        middle = round(0.5 * (end + start), DIGITS)
        left, right, reciprocal = middle - start, end - middle, 1 / (end - start)
        if place not in kept:
            kept[place] = self.normals(place)
        self.values[place] = kept[place]
        w_left = left * w * reciprocal + math.sqrt(left * right * reciprocal) * kept[place]
        number, depth = place
        if a < middle:
            yield from self.parts(start, middle, w_left, (2 * number, depth + 1), a, min(b, middle), kept)
        if b > middle:
            yield from self.parts(middle, end, w - w_left, (2 * number + 1, depth + 1), max(a, middle), b, kept)
