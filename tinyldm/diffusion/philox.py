r"""The random stream of PyTorch on an NVIDIA GPU, from the seed: `torch.Generator("cuda")` and `torch.randn`.

A GPU draws all values at once, so that its stream is no sequence but a function of a counter: Philox 4×32-10 (Salmon et
al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3", section 3.3, doi 10.1145/2063384.2063405) turns the 64 bits of
the seed, its key, and a counter of four words into four random words. Every thread of the card has a counter of its
own, (how many calls were before, 0, the thread's number, 0), and gives its four words to elements that lie as far apart
as there are threads:

    element i = (call k, word j, thread t),   i = (4 k + j) threads + t

A card has a number of threads, so that the values past it depend on the card; those before it do not. From words $x$
and $y$ are made

- uniforms in $[0, 1)$: $x 2^{-32} + 2^{-33}$ in float32, of which 1 is turned into 0,
- normals by Box and Muller (1958): $u$ is such a uniform, $v = 2\pi (y 2^{-32} + 2^{-33})$, and the pair is
  $\sqrt{-2 \ln u} \sin v$ and $\sqrt{-2 \ln u} \cos v$.

For float64 two words are one of 53 bits, and a thread gives two values. Uniforms have the card's bits; normals differ
from its by up to 2.5e-6 (float32), since its sine is a fast approximation.
"""

from __future__ import annotations

import math

import numpy as np

from tinyldm.diffusion.random import F32, Seeded, check_seed, checked, log_f32, sincos_f32
from tinyldm.errors import InputError

THREADS = 270_336  # of an H100: 132 multiprocessors of 2,048; no usual latent has as many elements
BLOCK = 256  # threads are launched in blocks of so many

LOW = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)
MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
WEYL = 0x9E3779B9, 0xBB67AE85  # what the key grows by from round to round: the golden ratio, and √3 - 1
ROUNDS = 10

BELOW_FLOAT32 = np.int64((1 << 29) - 1)  # the 29 bits of a float64 that a float32 has no room for
HALFWAY = np.int64(1 << 28)


class CudaGenerator(Seeded):
    """A stateful random stream, the twin of `torch.Generator("cuda").manual_seed(seed)` on a card of `threads`.

    `seed` is any integer from -2**63 to 2**64 - 1; all of its bits count. `threads` are the card's multiprocessors
    times the threads that one holds, rounded down to a multiple of 256.
    """

    def __init__(self, seed: int = 0, threads: int = THREADS):
        self._initial_seed = check_seed(seed)
        if isinstance(threads, bool) or not isinstance(threads, int) or threads < BLOCK or threads % BLOCK:
            raise InputError(f"threads of the card must be a multiple of {BLOCK}, not {threads!r}")
        self._threads, self._calls = threads, 0

    def rand(self, shape: int | tuple[int, ...], dtype: type | str | np.dtype = np.float32) -> np.ndarray:
        """Uniforms in [0, 1) of the shape, float32 or float64, with the bits of `torch.rand` on the card."""
        shape, dtype = checked(shape, dtype)
        size = math.prod(shape)
        uniforms = uniforms_of(self._words(size, dtype), dtype)
        uniforms[uniforms == 1] = 0
        return uniforms.ravel()[:size].reshape(shape)

    def randn(self, shape: int | tuple[int, ...], dtype: type | str | np.dtype = np.float32) -> np.ndarray:
        """Standard normals of the shape, float32 or float64: those of `torch.randn` on the card."""
        shape, dtype = checked(shape, dtype)
        size = math.prod(shape)
        words = self._words(size, dtype)
        normals = np.empty_like(words, dtype)
        normals[:, 0::2], normals[:, 1::2] = box_muller(words[:, 0::2], words[:, 1::2], dtype)
        return normals.ravel()[:size].reshape(shape)

    def _words(self, size: int, dtype: np.dtype) -> np.ndarray:  # -> (calls, 2 or 4, threads) uint64
        """What one draw of `size` values is made of: words of 32 bits, or for float64 of 53; the stream moves on."""
        per_thread, lanes = (4 if dtype == np.float32 else 2), max(1, min(size, self._threads))
        calls = -(-size // (per_thread * lanes))
        counters = np.arange(self._calls, self._calls + calls, dtype=np.uint64)[:, None]
        words = philox(counters, np.arange(lanes, dtype=np.uint64), self._initial_seed)
        self._calls += calls
        if dtype == np.float64:  # the second word on top of the first, its low 11 bits beside the other's high ones
            words = words[:, 0::2] ^ (words[:, 1::2] << np.uint64(53 - 32))
        return words[:, :2] if size <= 2 * lanes else words


def philox(counter: np.ndarray, thread: np.ndarray, seed: int) -> np.ndarray:  # (C, 1), (T,) -> (C, 4, T) uint64
    """The four words of 32 bits that Philox 4×32-10 makes of each counter `(counter, 0, thread, 0)`."""
    shape = np.broadcast_shapes(counter.shape, thread.shape)
    zero = np.zeros(shape, np.uint64)
    a, b, c, d = counter & LOW | zero, counter >> HALF | zero, thread | zero, zero
    key = [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(ROUNDS):
        left, right = a * MULTIPLIERS[0], c * MULTIPLIERS[1]
        a, b, c, d = (
            right >> HALF ^ b ^ np.uint64(key[0]),
            right & LOW,
            left >> HALF ^ d ^ np.uint64(key[1]),
            left & LOW,
        )
        key = [(word + step) & 0xFFFFFFFF for word, step in zip(key, WEYL, strict=True)]
    return np.stack([a, b, c, d], axis=1)


def uniforms_of(words: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Uniforms in (0, 1] of words of 32 bits (float32) or 53 (float64)."""
    bits = 32 if dtype == np.float32 else 53
    return np.asarray(words.astype(dtype) * dtype.type(2.0**-bits) + dtype.type(2.0 ** -(bits + 1)))


def box_muller(x: np.ndarray, y: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Two normals for each pair of words, by the sine and the cosine."""
    u = uniforms_of(x, dtype)
    if dtype == np.float32:
        step = F32(2.0**-32 * 2 * math.pi)
        sin, cos = sincos_f32(fma(y.astype(np.float32), step, step / F32(2)))
        radius = np.sqrt(F32(-2) * log_f32(u))
    else:
        v = math.pi * (y * 2.0**-52 + 2.0**-53)
        sin, cos, radius = np.sin(v), np.cos(v), np.sqrt(-2 * np.log(u))
    return radius * sin, radius * cos


def fma(a: np.ndarray | F32, b: np.ndarray | F32, c: np.ndarray | F32) -> np.ndarray:
    r"""$a b + c$ of float32 values with a single rounding to float32, as the processor's instruction gives it.

    The product of two float32 is exact in float64. The sum rounds to float64 and then again to float32; the second
    rounding goes wrong only where the first one landed exactly halfway between two float32 values, so there the part
    that the first rounding lost (Knuth's two-sum) decides.
    """
    product = np.multiply(a, b, dtype=np.float64)
    total = np.asarray(product + c)
    halfway = (total.view(np.int64) & BELOW_FLOAT32) == HALFWAY
    if halfway.any():
        rest = total - product
        lost = (product - (total - rest)) + (c - rest)
        total = np.where(halfway & (lost != 0), np.nextafter(total, np.copysign(np.inf, lost)), total)
    return total.astype(np.float32)
