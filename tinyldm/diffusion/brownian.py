r"""A Brownian path that can be asked for any of its increments: the same whatever is asked, and in what order.

An interval is halved until its halves are those asked for; the value in the middle of an interval, given its increment
$W$ over the length $h$, is $N(W / 2, h / 4)$ (Lévy's construction). Each interval has a seed of its own, from its place
in the tree, so that the path does not depend on the questions. Source: Li et al. (2020), "Scalable Gradients for
Stochastic Differential Equations", arXiv 2001.01328, section 4; the seeds are those of the library torchsde, and so are
the bits.

A time is found by halving some twenty intervals, each a half of the one before, and each takes normals of its own: that
is what a path costs. `BrownianTree` says which intervals, and `brownian_halves` computes; `tinyldm.kernels` has a
compiled one, with the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from tinyldm.diffusion.random import BLOCK, torch_randn
from tinyldm.diffusion.types import Array

DIGITS = 6  # times are rounded to this many digits
POOL = 24  # words of the seeds' entropy pool
WORD = 2**32
# Of NumPy's `SeedSequence`: the first constant of a hash and what it is multiplied by, and how two words are mixed.
HASH_IN, HASH_OUT, MIX = (0x43B0D7E5, 0x931E8875), (0x8B51F9DD, 0x58F38DED), (0xCA01F9DD, 0x4973F715)

# `brownian_halves`, or what computes the same.
Halving = Callable[[Array, np.ndarray, Array, Sequence[int]], Array]


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
        calls = POOL * max(POOL, -(-entropy.bit_length() // 32))  # of the hash, so far: each changes its constant
        self.constants = [HASH_IN[0] * pow(HASH_IN[1], calls + k * POOL, WORD) for k in (0, 1)]

    def __call__(self, intervals: Sequence[int]) -> np.ndarray:  # -> (len(intervals),) uint32
        """The seeds of intervals by their places in the tree."""
        depths = [place.bit_length() - 1 for place in intervals]
        numbers = [place - (1 << depth) for place, depth in zip(intervals, depths, strict=True)]
        if max(numbers) >= WORD:  # of two words
            places = zip(numbers, depths, strict=True)
            return np.array([self.by_numpy(number, depth) for number, depth in places], np.uint32)
        first: np.ndarray = self.first
        for part, constant in zip((numbers, depths), self.constants, strict=True):
            value = hashed(np.array(part, np.uint32), constant, HASH_IN[1])
            first = MIX[0] * first - MIX[1] * value
            first = first ^ (first >> 16)
        return hashed(first, *HASH_OUT)

    def by_numpy(self, number: int, depth: int) -> int:
        """The seed of an interval, as it is defined."""
        sequence = np.random.SeedSequence(self.entropy, spawn_key=(number, depth), pool_size=POOL)
        return int(sequence.generate_state(4)[0])


def hashed(words: np.ndarray, constant: int, factor: int) -> np.ndarray:
    """Words of 32 bits, hashed; products are modulo 2**32."""
    words = (words ^ constant % WORD) * (constant * factor % WORD)
    return words ^ (words >> 16)


def brownian_halves(
    increment: Array, seeds: np.ndarray, scales: Array, sides: Sequence[int]
) -> Array:  # -> (n, 2, size)
    """The increments of the halves of n intervals, of which each is a half of the one before.

    `increment` `(size,)` is that of the first; the next interval is its half `sides[0]`, the left one being 0, and so
    on. `seeds` `(n,)` uint32 are those of the normals; `scales` `(n, 3)` are, of every interval, the length of its left
    half, the reciprocal of its own, and the deviation of its middle.
    """
    halves = np.empty((len(seeds), 2, len(increment)), increment.dtype)
    for (left, right), seed, (length, reciprocal, deviation), side in zip(halves, seeds, scales, sides, strict=True):
        normals = torch_randn(len(increment), int(seed)).astype(increment.dtype, copy=False)
        left[:] = length * increment * reciprocal + deviation * normals
        right[:] = increment - left
        increment = (left, right)[side]
    return halves


class Halved(NamedTuple):
    """What is known of an interval that has been halved: its middle, and the increments of its halves, (2, size)."""

    middle: float
    halves: Array


class BrownianTree:
    """A Brownian path on [start, end] for every element of an array: `tree(a, b)` is its increment from a to b.

    `entropy` is the seed, a non-negative integer; normals are drawn in float32, the arithmetic is of `dtype`.
    Intervals have places: 1 is the whole path, 2 n and 2 n + 1 are the halves of n. `halving` computes those of float32
    where there are 16 elements or more.
    """

    def __init__(
        self,
        start: float,
        end: float,
        shape: tuple[int, ...],
        entropy: int,
        dtype: np.dtype,
        halving: Halving = brownian_halves,
    ):
        self.start, self.end = round(start, DIGITS), round(end, DIGITS)
        self.shape, self.dtype, self.seeds = shape, dtype, Seeds(entropy)
        normals = torch_randn(math.prod(shape), self.seeds.of_all).astype(dtype, copy=False)
        self.whole = normals * math.sqrt(end - start)
        self.halving = brownian_halves if len(normals) < BLOCK or dtype != np.float32 else halving
        self.halved: dict[int, Halved] = {}  # by their places, those of the latest question
        self.ways: dict[float, list[int]] = {}  # to the two times of the latest question

    def __call__(self, a: float, b: float) -> Array:  # -> shape
        """The increment from `a` to `b`, both within the path, `a` first; times have six digits."""
        a, b = (min(max(round(t, DIGITS), self.start), self.end) for t in (a, b))
        if a == b:
            return np.zeros(self.shape, self.dtype)
        self.ways = {t: self.ways.get(t) or self.way(t) for t in (a, b)}
        to_a, to_b = self.ways[a], self.ways[b]
        above_a, above_b = set(to_a[:-1]), set(to_b[:-1])
        self.halved = {place: self.halved[place] for place in above_a | above_b}
        # The largest intervals that make up [a, b], in order: from below the last place that lies on both ways.
        parts = [place + 1 for place in reversed(to_a) if place % 2 == 0 and place >> 1 not in above_b]
        parts += [place - 1 for place in to_b[1:] if place % 2 and place >> 1 not in above_a]
        parts += [place for place in to_b[-1:] if place not in above_a]
        total = self.increment(parts[0]).copy()
        for place in parts[1:]:
            total += self.increment(place)
        return total.reshape(self.shape)

    def way(self, t: float) -> list[int]:
        """The places of the intervals from the whole path down to the one that ends at `t`; those above are halved."""
        place, start, end = 1, self.start, self.end
        way, new, middles, scales = [place], [], [], []
        while start < t < end:
            known = self.halved.get(place)
            middle = round(0.5 * (end + start), DIGITS) if known is None else known.middle
            if known is None:
                before, reciprocal = middle - start, 1 / (end - start)
                new.append(place)
                middles.append(middle)
                scales.append((before, reciprocal, math.sqrt(before * (end - middle) * reciprocal)))
            place, start, end = (2 * place + 1, middle, end) if t > middle else (2 * place, start, middle)
            way.append(place)
        if new:
            sides = [place & 1 for place in way[-len(new) :]]
            first = self.increment(new[0])
            halves = self.halving(first, self.seeds(new), np.array(scales, self.dtype), sides)
            self.halved.update(zip(new, map(Halved, middles, halves), strict=True))
        return way

    def increment(self, place: int) -> Array:
        """The increment over an interval whose parent has been halved, `(size,)`."""
        return self.whole if place == 1 else self.halved[place >> 1].halves[place & 1]
