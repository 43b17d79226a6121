r"""The random stream of PyTorch on an x86 processor, from the seed: `torch.Generator("cpu")` and `torch.randn`.

Published pictures are named by their seed, and the seed means this stream. It has three layers:

1. **Words**: Mersenne Twister MT19937 (Matsumoto and Nishimura 1998), 32 bits each. Its state begins with the low 32
   bits of the seed, $s_0$, and goes on with $s_i = 1812433253\,(s_{i-1} \oplus \lfloor s_{i-1} / 2^{30} \rfloor) + i
   \bmod 2^{32}$ (`init_genrand` of their implementation of 2002).
2. **Uniforms** in $[0, 1)$: the low 24 bits of a word times $2^{-24}$ (float32), or the low 53 bits of two words, the
   first on top, times $2^{-53}$ (float64).
3. **Normals** by Box and Muller (1958): $r = \sqrt{-2 \ln(1 - u_1)}$, $\theta = 2 \pi u_2$, and the pair
   $r \cos\theta$, $r \sin\theta$.

PyTorch makes the normals in two ways. An array of 16 values or more is filled with uniforms, then transformed in blocks
of 16, where elements $j$ and $j + 8$ are a pair; if the size is no multiple of 16, the last 16 elements are filled and
transformed anew. Smaller arrays take one value at a time in float64, from two uniforms in the opposite roles
($u_2$ gives the radius), and the second value of a pair is kept for the next call.

The blocks of float32 run in PyTorch's AVX2 code, on AVX-512 processors too. A seed gives the same picture here and
there only if the noise has the same bits, so logarithm, sine and cosine are rounded exactly as that code rounds them:
these are the polynomials of the Cephes library (S. L. Moshier, "Methods and Programs for Mathematical Functions", 1989;
single precision), with a fused multiply-add wherever the compiled original has one. Here that is a product and a sum in
float64, rounded to float32: which differs in one case of some 2**29, and in none of those that uniforms of 24 bits lead
to (a test tries them all). Every other operation is one IEEE float32 operation, which NumPy rounds as any processor
does. Bits are the same as PyTorch 2.13's, except in the float64 blocks, whose last digit is the C library's.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tinyldm.errors import InputError

BLOCK = 16

LOW_HALF = 2**32 - 1  # of a seed: all that the twister is told
F32 = np.float32

SQRT_HALF_BITS = F32(0.707106781186547524).view(np.int32)
LOG_POLYNOMIAL = [
    F32(c)
    for c in (
        7.0376836292e-2,
        -1.1514610310e-1,
        1.1676998740e-1,
        -1.2420140846e-1,
        1.4249322787e-1,
        -1.6668057665e-1,
        2.0000714765e-1,
        -2.4999993993e-1,
        3.3333331174e-1,
    )
]
# ln 2 = 0.693359375 - 2.12194440e-4: the first part has so few bits that a product with the exponent is exact.
LN2_HIGH, LN2_LOW = F32(0.693359375), F32(-2.12194440e-4)

FOUR_OVER_PI = F32(1.27323954473516)
# π/4 in three parts of float32, for the same reason; their sum has 49 bits, and its product with a small j is exact.
PI_4 = sum(map(float, (F32(0.78515625), F32(2.4187564849853515625e-4), F32(3.77489497744594108e-8))))
SIN_POLYNOMIAL = [F32(c) for c in (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)]
COS_POLYNOMIAL = [F32(c) for c in (2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)]


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


class Seeded:
    """What every stream knows: the seed that it began with."""

    _initial_seed: int

    @property
    def initial_seed(self) -> int:
        """The seed that the stream began with, from 0 to 2**64 - 1."""
        return self._initial_seed

    @property
    def seeds(self) -> list[int]:
        """The seed, as a list: that of the one stream for a whole batch."""
        return [self._initial_seed]


class TorchGenerator(Seeded):
    """A stateful random stream, the twin of `torch.Generator("cpu").manual_seed(seed)`.

    `seed` is any integer from -2**63 to 2**64 - 1. PyTorch seeds the twister with its low 32 bits only, so seeds that
    are equal modulo 2**32 give the same stream.
    """

    def __init__(self, seed: int = 0):
        self._initial_seed = check_seed(seed)
        self._twister = np.random.MT19937(0)
        np.random.RandomState(self._twister).seed(self._initial_seed & LOW_HALF)  # `init_genrand`
        self._kept: float | None = None  # the second normal of a pair, from the one-at-a-time path

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
        uniforms, rest = self._uniforms(size, dtype), size % BLOCK
        if rest:
            uniforms = np.concatenate([uniforms[:-rest], self._uniforms(BLOCK, dtype)])
        u1, u2 = uniforms.reshape(-1, 2, BLOCK // 2).swapaxes(0, 1)
        theta = 2 * math.pi * u2
        f32 = dtype == np.float32
        log, sin, cos = (log_f32(1 - u1), *sincos_f32(theta)) if f32 else (np.log(1 - u1), np.sin(theta), np.cos(theta))
        pairs = np.stack([cos, sin], axis=1) * np.sqrt(-2 * log)[:, None]
        normals = pairs.reshape(-1) + 0  # turns -0 into 0, as adding the mean does
        return np.concatenate([normals[: size - BLOCK], normals[-BLOCK:]]).reshape(shape)

    def _uniforms(self, size: int, dtype: np.dtype) -> np.ndarray:  # -> (size,)
        """The next uniforms."""
        if dtype == np.float32:
            low = self._twister.random_raw(size).astype(np.int32) & (2**24 - 1)
            return low.astype(np.float32) * F32(2**-24)
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


def log_f32(x: np.ndarray) -> np.ndarray:
    r"""$\ln x$ for positive, normal float32 `x`.

    With $x = m 2^e$ and $m$ in $[\sqrt{1/2}, \sqrt 2)$: $\ln x = e \ln 2 + f - f^2/2 + f^3 P(f)$, $f = m - 1$. The
    exponent lies in the bits above the 23rd, and the bits of a larger number are larger.
    """
    bits = x.view(np.int32)
    exponent = (bits - SQRT_HALF_BITS) >> 23
    f = (bits - (exponent << 23)).view(np.float32) - F32(1)
    e, square, wide = exponent.astype(np.float32), f * f, f.astype(np.float64)
    y: np.ndarray | F32 = LOG_POLYNOMIAL[0]
    for c in LOG_POLYNOMIAL[1:]:
        y = F32(y * wide + c)
    y = F32((y * f) * square.astype(np.float64) + e * LN2_LOW)
    # These products are exact: by a power of two, and of few bits.
    return e * LN2_HIGH + (f + (y - F32(0.5) * square))


def sincos_f32(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""$(\sin x, \cos x)$ for float32 `x` in $[0, 8)$.

    $x = j \pi/4 + r$ with even $j$ and $|r| \le \pi/4$; one polynomial serves the sine of $r$, one the cosine, and
    $j \bmod 8$ says which is which and with what sign.
    """
    j = ((x * FOUR_OVER_PI).astype(np.int32) + 1) & ~1
    r = (x - j * PI_4).astype(np.float32)  # all that comes before is exact
    square = r * r
    wide, sin_r, cos_r = square.astype(np.float64), SIN_POLYNOMIAL[0], COS_POLYNOMIAL[0]
    for a, b in zip(SIN_POLYNOMIAL[1:], COS_POLYNOMIAL[1:], strict=True):
        sin_r, cos_r = F32(sin_r * wide + a), F32(cos_r * wide + b)
    sin_r = F32((sin_r * square) * r.astype(np.float64) + r)
    cos_r = F32((cos_r * square) * wide - square * F32(0.5)) + F32(1)
    # On the bits: exchanged where bit 1 of j is set, with the sign of bit 2 of j for the sine, of j + 2 for the cosine.
    sin_bits, cos_bits = sin_r.view(np.int32), cos_r.view(np.int32)
    exchanged = (sin_bits ^ cos_bits) & -((j >> 1) & 1)
    sin_x, cos_x = sin_bits ^ exchanged ^ ((j & 4) << 29), cos_bits ^ exchanged ^ (((j + 2) & 4) << 29)
    return sin_x.view(np.float32), cos_x.view(np.float32)


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


class Generator(Protocol):
    """A stream of normals: `TorchGenerator`, and whatever else a seed may mean (`diffusion.streams`)."""

    @property
    def initial_seed(self) -> int:
        """The seed that the stream began with."""
        ...

    def randn(self, shape: int | tuple[int, ...], dtype: type | str | np.dtype = np.float32) -> np.ndarray:
        """Standard normals of the shape, float32 or float64."""
        ...


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
