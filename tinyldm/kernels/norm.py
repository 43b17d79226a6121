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

import numpy as np

from tinyldm.errors import InputError
from tinyldm.kernels.arrays import activations, parameters
from tinyldm.kernels.buffers import empty
from tinyldm.kernels.compile import kernel
from tinyldm.kernels.pool import run
from tinyldm.kernels.rows import NONE, SILU, add_moments, affine_row, normalise_row, row_moments
from tinyldm.kernels.simd import address, next_unit
from tinyldm.ops.norm import check_parameters

CHUNK = 1 << 16  # values of one unit of work, about: fits the level-2 cache


@kernel("void(int64[::1], int64, float32[::1], float32[:,:,::1], int64, float64[:,:,:,::1])")
def moments_kernel(counter, units, scratch, x, chunk, sums):  # type: ignore[no-untyped-def]
    """Units: chunks of pixels of one sample. sums (N, chunks, 2, C): the sum and the sum of squares of each channel."""
    _, pixels, channels = x.shape
    chunks = sums.shape[1]
    while True:
        unit = next_unit(address(counter))
        if unit >= units:
            break
        sample, part = unit // chunks, unit % chunks
        total = address(sums) + unit * 2 * channels * 8
        for pixel in range(part * chunk, min(pixels, (part + 1) * chunk)):
            add_moments(address(x) + (sample * pixels + pixel) * channels * 4, total, total + channels * 8, channels)


@kernel(
    "void(int64[::1], int64, float32[::1], float32[:,:,::1], int64, float32[:,::1], float32[:,::1],"
    " float32[:,:,::1], int64)"
)
def affine_kernel(counter, units, scratch, x, chunk, gain, shift, y, activation):  # type: ignore[no-untyped-def]
    """Units: chunks of pixels of one sample. y = activation(x * gain + shift), gain and shift (N, C)."""
    _, pixels, channels = x.shape
    chunks = (pixels + chunk - 1) // chunk
    row = channels * 4
    while True:
        unit = next_unit(address(counter))
        if unit >= units:
            break
        sample, part = unit // chunks, unit % chunks
        for pixel in range(part * chunk, min(pixels, (part + 1) * chunk)):
            at = (sample * pixels + pixel) * row
            affine_row(
                address(x) + at,
                address(y) + at,
                address(gain) + sample * row,
                address(shift) + sample * row,
                channels,
                activation,
            )


@kernel(
    "void(int64[::1], int64, float32[::1], float32[:,::1], int64, float32[::1], float32[::1], float32, float32[:,::1])"
)
def layer_norm_kernel(counter, units, scratch, x, chunk, weight, bias, eps, y):  # type: ignore[no-untyped-def]
    """Units: chunks of tokens."""
    tokens, channels = x.shape
    while True:
        unit = next_unit(address(counter))
        if unit >= units:
            break
        for token in range(unit * chunk, min(tokens, (unit + 1) * chunk)):
            row = address(x) + token * channels * 4
            total, squares = row_moments(row, channels)
            mean = total / channels
            variance = max(squares / channels - mean * mean, 0.0)
            inverse = 1.0 / np.sqrt(variance + eps)
            scratch[0], scratch[1] = inverse, -mean * inverse
            normalise_row(
                row, address(y) + token * channels * 4, address(scratch), address(weight), address(bias), channels
            )


def _chunk(rows: int, channels: int) -> int:
    return max(1, min(rows, CHUNK // max(channels, 1)))


def group_norm_affine(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, groups: int, eps: float
) -> tuple[np.ndarray, np.ndarray]:
    """Gain and shift of every sample and channel, `(N, C)` each, such that group norm is x * gain + shift."""
    n, channels = x.shape[0], x.shape[-1]
    if groups < 1 or channels % groups:
        raise InputError(f"group_norm: {channels} channels can't be split into {groups} groups of equal size")
    check_parameters("group_norm", channels, weight, bias)
    flat = x.reshape(n, -1, channels)
    pixels = flat.shape[1]
    chunk = _chunk(pixels, channels)
    sums = np.zeros((n, -(-pixels // chunk), 2, channels))
    run(moments_kernel, n * sums.shape[1], 8 * x.size, 0, flat, chunk, sums)
    count = pixels * (channels // groups)
    moments = sums.sum(axis=1).reshape(n, 2, groups, -1).sum(axis=3) / count
    mean = moments[:, 0]
    inverse = 1 / np.sqrt(np.maximum(moments[:, 1] - mean * mean, 0) + eps)
    gain = (inverse[:, :, None] * weight.reshape(groups, -1)).reshape(n, channels)
    shift = bias - np.repeat(mean, channels // groups, axis=1) * gain
    return gain.astype(np.float32), shift.astype(np.float32)


def affine(x: np.ndarray, gain: np.ndarray, shift: np.ndarray, silu: bool) -> np.ndarray:
    """`x * gain + shift`, one gain and shift a sample and channel; then SiLU if asked for."""
    n, channels = x.shape[0], x.shape[-1]
    y = empty(x.shape)
    flat = x.reshape(n, -1, channels)
    chunk = _chunk(flat.shape[1], channels)
    units = n * -(-flat.shape[1] // chunk)
    run(affine_kernel, units, 32 * x.size, 0, flat, chunk, gain, shift, y.reshape(flat.shape), SILU if silu else NONE)
    return y


def group_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, groups: int, eps: float) -> np.ndarray:
    """Normalise each sample over its pixels and each group of neighbouring channels: `(N, …, C) -> (N, …, C)`."""
    x = activations(x, "group_norm")
    if x.size == 0:
        return x.copy()
    return affine(x, *group_norm_affine(x, parameters(weight), parameters(bias), groups, eps), silu=False)


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float) -> np.ndarray:
    """Normalise each token over its channels: `(…, C) -> (…, C)`."""
    channels = x.shape[-1]
    check_parameters("layer_norm", channels, weight, bias)
    x, weight, bias = activations(x, "layer_norm"), parameters(weight), parameters(bias)
    y = empty(x.shape)
    if x.size == 0:
        return y
    flat = x.reshape(-1, channels)
    chunk = _chunk(len(flat), channels)
    units = -(-len(flat) // chunk)
    run(layer_norm_kernel, units, 24 * x.size, 2, flat, chunk, weight, bias, np.float32(eps), y.reshape(flat.shape))
    return y
