r"""Group norm and layer norm: moments in float64, then one multiply-add a value.

**Group norm** reads the image once for the sums of every channel (float64, over chunks of pixels that depend on the
shape alone, combined in order), folds mean, deviation, gain and bias of a group into one gain and one shift a
channel,

$$y = x \cdot g_c + s_c, \quad g_c = \gamma_c / \sqrt{\mathrm{Var} + \epsilon}, \quad s_c = \beta_c - \mathrm E[x]\,
g_c,$$

and reads it a second time to apply them, with the SiLU in the same pass. NumPy's composition passes over it eight
times. The convolutions of `winograd.py` take $g$ and $s$ directly and leave out the second pass.

**Layer norm** does both for one token while it lies in the level-1 cache.

Error: float64 sums make the moments exact to float32; what remains is the rounding of $g$, $s$ and the multiply-add,
at most about $2^{-23} (|x g| + |s|)$. That term grows with mean/deviation, as in every formula that starts from
float32 values.

Wu and He 2018, arXiv 1803.08494; Ba et al. 2016, arXiv 1607.06450.
"""

from __future__ import annotations

import math

import numpy as np

from tinyldm.kernels.arrays import activations, as_pixels, as_rows, parameters
from tinyldm.kernels.buffers import empty
from tinyldm.kernels.compile import Float64Sums, Images, Kernel, Numbers, Row, Rows
from tinyldm.kernels.pool import run
from tinyldm.kernels.rows import NONE, SILU, add_moments, affine_row, normalise_row, row_moments
from tinyldm.kernels.simd import address, next_unit
from tinyldm.ops.norm import check_norm, gain_and_shift

CHUNK = 1 << 16  # values of one unit of work, about: fits the level-2 cache


@Kernel
def moments_kernel(counter: Numbers, units: int, scratch: Row, x: Images, chunk: int, sums: Float64Sums) -> None:
    """Units: chunks of pixels of one sample. sums (N, chunks, 2, C): the sum and the sum of squares of each channel."""
    _, pixels, channels = x.shape
    chunks = sums.shape[1]
    unit = next_unit(counter)
    while unit < units:
        sample, part = unit // chunks, unit % chunks
        total = address(sums) + unit * 2 * channels * 8
        for pixel in range(part * chunk, min(pixels, (part + 1) * chunk)):
            add_moments(address(x) + (sample * pixels + pixel) * channels * 4, total, total + channels * 8, channels)
        unit = next_unit(counter)


@Kernel
def affine_kernel(
    counter: Numbers, units: int, scratch: Row, x: Images, chunk: int, gain: Rows, shift: Rows, y: Images,
    activation: int,
) -> None:  # fmt: skip
    """Units: chunks of pixels of one sample. y = activation(x * gain + shift), gain and shift (N, C)."""
    _, pixels, channels = x.shape
    chunks = (pixels + chunk - 1) // chunk
    row = channels * 4
    unit = next_unit(counter)
    while unit < units:
        sample, part = unit // chunks, unit % chunks
        gains, shifts = address(gain) + sample * row, address(shift) + sample * row
        for pixel in range(part * chunk, min(pixels, (part + 1) * chunk)):
            at = (sample * pixels + pixel) * row
            affine_row(address(x) + at, address(y) + at, gains, shifts, channels, activation)
        unit = next_unit(counter)


@Kernel
def layer_norm_kernel(
    counter: Numbers, units: int, scratch: Row, x: Rows, chunk: int, weight: Row, bias: Row, eps: float, y: Rows
) -> None:
    """Units: chunks of tokens."""
    tokens, channels = x.shape
    unit = next_unit(counter)
    while unit < units:
        for token in range(unit * chunk, min(tokens, (unit + 1) * chunk)):
            at = token * channels * 4
            total, squares = row_moments(address(x) + at, channels)
            mean = total / channels
            variance = max(squares / channels - mean * mean, 0.0)
            inverse = 1.0 / np.sqrt(variance + eps)
            scratch[0], scratch[1] = inverse, -mean * inverse
            normalise_row(address(x) + at, address(y) + at, address(scratch), address(weight), address(bias), channels)
        unit = next_unit(counter)


def _chunk(rows: int, channels: int) -> int:
    return max(1, min(rows, CHUNK // max(channels, 1)))


def moments(x: np.ndarray) -> np.ndarray:
    """Sum and sum of squares of every sample's channels, in float64: `(N, …, C) -> (N, 2, C)`."""
    n, pixels, channels = (pixelwise := as_pixels(activations(x, "moments"))).shape
    chunk = _chunk(pixels, channels)
    sums = np.zeros((n, -(-pixels // chunk), 2, channels))
    run(moments_kernel, n * sums.shape[1], 8 * x.size, 0, pixelwise, chunk, sums)
    total: np.ndarray = sums.sum(axis=1)
    return total


def group_norm_affine(
    operator: str, x: np.ndarray, weight: np.ndarray, bias: np.ndarray, groups: int, eps: float
) -> tuple[np.ndarray, np.ndarray]:
    """Gain and shift of every sample and channel, `(N, C)` each, such that group norm is x * gain + shift."""
    check_norm(operator, x, weight, bias, groups)
    pixels = math.prod(x.shape[1:-1])
    gain, shift = gain_and_shift(moments(x), pixels, parameters(weight), parameters(bias), groups, eps)
    return gain.astype(np.float32), shift.astype(np.float32)


def affine(x: np.ndarray, gain: np.ndarray, shift: np.ndarray, silu: bool) -> np.ndarray:
    """`x * gain + shift`, one gain and shift a sample and channel; then SiLU if asked for."""
    y, pixelwise = empty(x.shape), as_pixels(x)
    n, pixels, channels = pixelwise.shape
    chunk = _chunk(pixels, channels)
    activation = SILU if silu else NONE
    run(affine_kernel, n * -(-pixels // chunk), 32 * x.size, 0, pixelwise, chunk, gain, shift, as_pixels(y), activation)
    return y


def group_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, groups: int, eps: float) -> np.ndarray:
    """Normalise each sample over its pixels and each group of neighbouring channels: `(N, …, C) -> (N, …, C)`."""
    x = activations(x, "group_norm")
    return affine(x, *group_norm_affine("group_norm", x, weight, bias, groups, eps), silu=False)


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float) -> np.ndarray:
    """Normalise each token over its channels: `(…, C) -> (…, C)`."""
    check_norm("layer_norm", x, weight, bias)
    x, weight, bias = activations(x, "layer_norm"), parameters(weight), parameters(bias)
    y, rows = empty(x.shape), as_rows(x)
    chunk = _chunk(*rows.shape)
    units = -(-len(rows) // chunk)
    run(layer_norm_kernel, units, 24 * x.size, 2, rows, chunk, weight, bias, np.float32(eps), as_rows(y))
    return y
