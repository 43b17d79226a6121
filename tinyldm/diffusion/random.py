r"""The random stream of PyTorch on an x86 processor, from the seed: `torch.Generator("cpu")` and `torch.randn`.

Published pictures are named by their seed, and the seed means this stream. It has three layers:

1. **Words**: Mersenne Twister MT19937 (Matsumoto and Nishimura 1998), 32 bits each.
2. **Uniforms** in $[0, 1)$: the low 24 bits of a word times $2^{-24}$ (float32), or the low 53 bits of two words, the
   first on top, times $2^{-53}$ (float64).
3. **Normals** by Box and Muller (1958): $r = \sqrt{-2 \ln(1 - u_1)}$, $\theta = 2 \pi u_2$, and the pair
   $r \cos\theta$, $r \sin\theta$.

PyTorch makes the normals in two ways. An array of 16 values or more is filled with uniforms, then transformed in blocks
of 16, where elements $j$ and $j + 8$ are a pair; if the size is no multiple of 16, the last 16 elements are filled and
transformed anew. Smaller arrays take one value at a time in float64, from two uniforms in the opposite roles
($u_2$ gives the radius), and the second value of a pair is kept for the next call.

The blocks of float32 run in PyTorch's AVX2 code, on AVX-512 processors too; `cephes` has its polynomials. Bits are the
same as PyTorch 2.13's, except in the float64 blocks, whose last digit is the C library's.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tinyldm.diffusion import cephes
from tinyldm.errors import InputError

BLOCK = 16
TWO_PI_F32 = np.float32(2 * math.pi)


def mersenne_twister(seed: int) -> np.random.MT19937:
    r"""NumPy's MT19937 with the state that the reference implementation derives from a 32-bit seed.

    $s_0$ is the seed, $s_i = 1812433253\,(s_{i-1} \oplus \lfloor s_{i-1} / 2^{30} \rfloor) + i \bmod 2^{32}$
    (Matsumoto and Nishimura, `init_genrand` of 2002).
    """
    twister = np.random.MT19937(0)
    np.random.RandomState(twister).seed(seed)  # which is this
    return twister


def check_seed(seed: int) -> int:
    """The seed as an unsigned 64-bit number; negative ones count from $2^{64}$ down, as in PyTorch."""
    try:
        value = operator.index(seed)
    except TypeError:
        raise InputError(f"seed: {seed!r} is not an integer") from None
    if isinstance(seed, bool | np.bool_):
        raise InputError(f"seed: {seed!r} is not an integer")
    if not -(2**63) <= value < 2**64:
        raise InputError(f"seed: {value} is out of range; it must be at least -2**63 and less than 2**64")
    return value % 2**64


class TorchGenerator:
    """A stateful random stream, the twin of `torch.Generator("cpu").manual_seed(seed)`.

    `seed` is any integer from -2**63 to 2**64 - 1. PyTorch seeds the twister with its low 32 bits only, so seeds that
    are equal modulo 2**32 give the same stream.
    """

    def __init__(self, seed: int = 0):
        self._initial_seed = check_seed(seed)
        self._twister = mersenne_twister(self._initial_seed & 0xFFFFFFFF)
        self._kept: float | None = None  # the second normal of a pair, from the one-at-a-time path

    def manual_seed(self, seed: int) -> TorchGenerator:
        """Start the stream of `seed` from its beginning; returns the generator itself."""
        new = TorchGenerator(seed)
        self._initial_seed, self._twister, self._kept = new._initial_seed, new._twister, new._kept
        return self

    @property
    def initial_seed(self) -> int:
        """The seed that the stream began with, from 0 to 2**64 - 1."""
        return self._initial_seed

    @property
    def seeds(self) -> list[int]:
        """The seed, as a list: that of the one stream for a whole batch."""
        return [self._initial_seed]

    def rand(self, shape: int | tuple[int, ...], dtype: type | str | np.dtype = np.float32) -> np.ndarray:
        """Uniforms in [0, 1) of the shape, float32 or float64: `torch.rand(shape, generator=self, dtype=dtype)`."""
        shape, dtype = checked(shape, dtype)
        return self._uniforms(math.prod(shape), dtype).reshape(shape)

    def randn(self, shape: int | tuple[int, ...], dtype: type | str | np.dtype = np.float32) -> np.ndarray:
        """Standard normals of the shape, float32 or float64: `torch.randn(shape, generator=self, dtype=dtype)`."""
        shape, dtype = checked(shape, dtype)
        size = math.prod(shape)
        if size < BLOCK:
            return np.array([self._one_normal() for _ in range(size)], dtype).reshape(shape)
        values = self._uniforms(size, dtype)
        whole = size - size % BLOCK
        values[:whole] = box_muller(values[:whole])
        if whole < size:
            values[-BLOCK:] = box_muller(self._uniforms(BLOCK, dtype))
        return values.reshape(shape)

    def _uniforms(self, size: int, dtype: np.dtype) -> np.ndarray:  # -> (size,)
        if dtype == np.float32:
            words = self._twister.random_raw(size)
            return (words & np.uint64(2**24 - 1)).astype(np.float32) * np.float32(2**-24)
        words = self._twister.random_raw(2 * size)
        wide = (words[0::2] << np.uint64(32)) | words[1::2]
        return (wide & np.uint64(2**53 - 1)).astype(np.float64) * 2.0**-53

    def _one_normal(self) -> float:
        if self._kept is not None:
            value, self._kept = self._kept, None
            return value
        u1, u2 = self._uniforms(2, np.dtype(np.float64)).tolist()
        radius = math.sqrt(-2 * math.log1p(-u2))
        theta = 2 * math.pi * u1
        self._kept = radius * math.sin(theta)
        return radius * math.cos(theta)


def box_muller(uniforms: np.ndarray) -> np.ndarray:  # (16 k,) -> (16 k,)
    """Uniforms in [0, 1) to standard normals, in blocks of 16 whose elements j and j + 8 make a pair."""
    u1, u2 = np.split(uniforms.reshape(-1, BLOCK), 2, axis=1)
    if uniforms.dtype == np.float32:
        log = cephes.log(np.float32(1) - u1)
        sin, cos = cephes.sincos(TWO_PI_F32 * u2)
    else:
        theta = 2 * math.pi * u2
        log, sin, cos = np.log(1 - u1), np.sin(theta), np.cos(theta)
    radius = np.sqrt(-2 * log)
    return (
        np.concatenate([radius * cos, radius * sin], axis=1).ravel() + 0
    )  # adding 0 turns -0 into 0, as the mean does


def checked(
    shape: int | tuple[int, ...], dtype: type | str | np.dtype = np.float32
) -> tuple[tuple[int, ...], np.dtype]:
    """The shape as a tuple of integers that are not negative, and the dtype: float32 or float64."""
    try:
        sizes = (operator.index(shape),) if isinstance(shape, int | np.integer) else tuple(map(operator.index, shape))
    except TypeError:
        raise InputError(f"shape: {shape!r} is neither an integer nor a tuple of integers") from None
    if any(n < 0 for n in sizes):
        raise InputError(f"shape: {shape!r} has a negative size")
    dtype = np.dtype(dtype)
    if dtype not in (np.float32, np.float64):
        raise InputError(f"dtype: {dtype} has no random stream here; take float32 or float64")
    return sizes, dtype


def torch_randn(
    shape: int | tuple[int, ...], seed: int = 0, dtype: type | str | np.dtype = np.float32
) -> np.ndarray:  # -> shape
    """`torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed), dtype=dtype)`, without PyTorch."""
    return TorchGenerator(seed).randn(shape, dtype)


def torch_randn_each(shape: tuple[int, ...], seeds: Sequence[int]) -> np.ndarray:  # -> (len(seeds), *shape) float32
    """`torch_randn` of each seed: in one go where the blocks of one do not run into another's."""
    size, generators = math.prod(shape), [TorchGenerator(seed) for seed in seeds]
    if size % BLOCK:
        return np.stack([generator.randn(shape) for generator in generators])
    uniforms = [generator.rand(size) for generator in generators]
    return box_muller(np.concatenate(uniforms)).reshape(-1, *shape)


class Generator(Protocol):
    """A stream of normals: `TorchGenerator`, and whatever else a seed may mean."""

    @property
    def initial_seed(self) -> int:
        """The seed that the stream began with."""
        ...

    def randn(self, shape: int | tuple[int, ...], dtype: type | str | np.dtype = np.float32) -> np.ndarray:
        """Standard normals of the shape, float32 or float64."""
        ...


GENERATORS: dict[str, Callable[[int], Generator]] = {"torch": TorchGenerator}


@dataclass(frozen=True)
class PictureStreams:
    """A stream for each picture of a batch: row k of every draw comes from the generator of picture k alone.

    So a picture is the same alone and in any batch. The bits are those that diffusers draws with a list of generators.
    """

    generators: Sequence[Generator]

    def __len__(self) -> int:
        return len(self.generators)

    @property
    def seeds(self) -> list[int]:
        """The seeds of the pictures."""
        return [generator.initial_seed for generator in self.generators]

    def randn(self, shape: tuple[int, ...], dtype: type | str | np.dtype = np.float32) -> np.ndarray:
        """Standard normals of the shape (N, …), float32 or float64; N is the number of pictures."""
        shape, _ = checked(shape, dtype)
        if shape[:1] != (len(self.generators),):
            raise InputError(f"shape: {shape} is not of {len(self.generators)} pictures, one for each generator")
        return np.concatenate([generator.randn((1, *shape[1:]), dtype) for generator in self.generators])


def picture_streams(seed: int, count: int, kind: str = "torch") -> PictureStreams:
    """The streams of `count` pictures with the seeds `seed`, `seed` + 1, …, modulo $2^{64}$, from generators of a kind.

    `kind` is a key of `GENERATORS`: "torch" is the stream of PyTorch on a CPU.
    """
    if kind not in GENERATORS:
        raise InputError(f"rng: {kind!r} is unknown; take {' or '.join(GENERATORS)}")
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InputError(f"count: {count!r} is not a number of pictures; it must be an integer of 1 or more")
    first = check_seed(seed)
    return PictureStreams([GENERATORS[kind]((first + k) % 2**64) for k in range(count)])
