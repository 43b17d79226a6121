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
from typing import NamedTuple

import numpy as np

from tinyldm.diffusion.random import TorchGenerator
from tinyldm.diffusion.types import Array

DIGITS = 6  # times are rounded to this many digits
POOL = 24  # words of the seeds' entropy pool
WORD = 2**32
# Of NumPy's `SeedSequence`: the first constant of a hash and what it is multiplied by, and how two words are mixed.
HASH_IN, HASH_OUT, MIX = (0x43B0D7E5, 0x931E8875), (0x8B51F9DD, 0x58F38DED), (0xCA01F9DD, 0x4973F715)


class Seeds:
    """The seeds of a tree's intervals: of the one with a number at a depth that of NumPy's `SeedSequence`,

        SeedSequence(entropy, spawn_key=(number, depth), pool_size=POOL).generate_state(4)[0]

    Only one word of the pool is in that; and what entropy does to the pool is the same for all intervals, whose two
    numbers are mixed in last. So little is left to do for each.
    """

    def __init__(self, entropy: int):
        self.entropy = entropy
        root = np.random.SeedSequence(entropy, pool_size=POOL)
        self.of_all = int(root.generate_state(4)[0])  # of the whole path, which has no numbers
        self.first = root.pool[:1]
        self.calls = POOL * max(POOL, -(-entropy.bit_length() // 32))  # of the hash, so far: each changes its constant

    def __call__(self, intervals: Sequence[int]) -> list[int]:
        """The seeds of intervals by their places in the tree."""
        depths = [place.bit_length() - 1 for place in intervals]
        numbers = [place - (1 << depth) for place, depth in zip(intervals, depths, strict=True)]
        if max(numbers) >= WORD:  # of two words
            return [self.by_numpy(number, depth) for number, depth in zip(numbers, depths, strict=True)]
        first: np.ndarray = self.first
        for k, part in enumerate((numbers, depths)):
            constant = HASH_IN[0] * pow(HASH_IN[1], self.calls + k * POOL, WORD)
            value = hashed(np.array(part, np.uint32), constant, HASH_IN[1])
            first = MIX[0] * first - MIX[1] * value
            first = first ^ (first >> 16)
        return [int(seed) for seed in hashed(first, *HASH_OUT)]

    def by_numpy(self, number: int, depth: int) -> int:
        """The seed of an interval, as it is defined."""
        sequence = np.random.SeedSequence(self.entropy, spawn_key=(number, depth), pool_size=POOL)
        return int(sequence.generate_state(4)[0])


def hashed(words: np.ndarray, constant: int, factor: int) -> np.ndarray:
    """Words of 32 bits, hashed; products are modulo 2**32."""
    words = (words ^ constant % WORD) * (constant * factor % WORD)
    return words ^ (words >> 16)


class Interval(NamedTuple):
    """An interval of the tree that has been halved: its times, and its halves' increments once they are drawn."""

    start: float
    middle: float
    end: float
    halves: list[Array]


class BrownianTree:
    """A Brownian path on [start, end] for every element of an array: `tree(a, b)` is its increment from a to b.

    `entropy` is the seed, a non-negative integer; normals are drawn in float32, the arithmetic is of `dtype`.
    Intervals have places: 1 is the whole path, 2 n and 2 n + 1 are the halves of n.
    """

    def __init__(self, start: float, end: float, shape: tuple[int, ...], entropy: int, dtype: np.dtype):
        self.start, self.end = round(start, DIGITS), round(end, DIGITS)
        self.shape, self.dtype = shape, dtype
        self.seeds, self.generator = Seeds(entropy), TorchGenerator()
        self.whole = self.normals([self.seeds.of_all])[0] * math.sqrt(end - start)
        self.halved: dict[int, Interval] = {}  # by their places, those of the latest question

    def normals(self, seeds: Sequence[int]) -> Array:  # -> (len(seeds), *shape)
        """The normals of intervals by their seeds."""
        return self.generator.randn_each(self.shape, seeds).astype(self.dtype, copy=False)

    def __call__(self, a: float, b: float) -> Array:  # -> shape
        """The increment from `a` to `b`, both within the path, `a` first; times have six digits."""
        a, b = (min(max(round(t, DIGITS), self.start), self.end) for t in (a, b))
        if a == b:
            return np.zeros(self.shape, self.dtype)
        first, *others = self.parts(a, b)
        total = self.increment(first)
        for place in others:
            total = total + self.increment(place)
        return total

    def parts(self, a: float, b: float) -> list[int]:
        """The places of the largest intervals of the tree that make up [a, b], in order; what lies above is halved."""
        known, self.halved = self.halved, {}
        parts: list[int] = []
        waiting = [(1, self.start, self.end, a, b)]
        while waiting:
            place, start, end, a, b = waiting.pop()
            if a == start and b == end:
                parts.append(place)
                continue
            interval = known.get(place) or Interval(start, round(0.5 * (end + start), DIGITS), end, [])
            self.halved[place], middle = interval, interval.middle
            if b > middle:
                waiting.append((2 * place + 1, middle, end, max(a, middle), b))
            if a < middle:
                waiting.append((2 * place, start, middle, a, min(b, middle)))
        self.draw([place for place in self.halved if place not in known])
        return parts

    def draw(self, places: list[int]) -> None:
        """Draw the increments of the halves of intervals, each of which stands behind its parent."""
        if not places:
            return
        times = [self.halved[place][:3] for place in places]
        lengths = [(middle - start, end - middle, 1 / (end - start)) for start, middle, end in times]
        deviations = [math.sqrt(before * after * reciprocal) for before, after, reciprocal in lengths]
        noises = self.normals(self.seeds(places))
        noises *= np.array(deviations, self.dtype).reshape(-1, *[1] * len(self.shape))
        for place, (before, _, reciprocal), noise in zip(places, lengths, noises, strict=True):
            w = self.increment(place)
            left = before * w * reciprocal + noise
            self.halved[place].halves.extend((left, w - left))

    def increment(self, place: int) -> Array:
        """The increment over an interval whose parent has been halved."""
        return self.whole if place == 1 else self.halved[place >> 1].halves[place & 1]
