"""SiLU, GELU, quick GELU, GEGLU and softmax on their own, for where nothing before them can take them along.

Why it is fast: vectors of polynomials (`formulas.py`) instead of one library call a number, and one pass over memory;
a softmax finds the maximum, the exponentials with their sum, and the quotient while a row lies in cache.

Error: at most 12 · 2^-24 of the value itself; for SiLU and quick GELU below zero, where e^-x takes the rounding of its
argument, 4 |x| · 2^-24 of it more. A softmax adds the rounding of x - max. Where e^-x would be infinite (x below -87)
the result is of the size of 1e-33 instead of nothing. `tests/kernels/test_properties.py` holds all of it.

Elfwing et al. 2017, arXiv 1702.03118; Hendrycks and Gimpel 2016, arXiv 1606.08415; Shazeer 2020, arXiv 2002.05202.
"""

from __future__ import annotations

import numpy as np

from tinyldm.errors import InputError
from tinyldm.kernels.arrays import activations
from tinyldm.kernels.buffers import empty
from tinyldm.kernels.compile import kernel
from tinyldm.kernels.pool import run
from tinyldm.kernels.rows import (
    GEGLU,
    GELU,
    QUICK_GELU,
    SILU,
    exp_row,
    finish_gate,
    finish_row,
    row_maximum,
    scaled_row,
)
from tinyldm.kernels.simd import address, next_unit

CHUNK = 1 << 14  # values of one unit of work, about


@kernel("void(int64[::1], int64, float32[::1], float32[:,::1], int64, float32[::1], float32[:,::1], int64)")
def activation_kernel(counter, units, scratch, x, chunk, zeros, y, activation):  # type: ignore[no-untyped-def]
    """Units: chunks of rows."""
    rows, channels = x.shape
    width = y.shape[1]
    zero = address(zeros)
    while True:
        unit = next_unit(address(counter))
        if unit >= units:
            break
        for row in range(unit * chunk, min(rows, (unit + 1) * chunk)):
            source = address(x) + row * channels * 4
            destination = address(y) + row * width * 4
            if activation == GEGLU:
                finish_gate(source, source + width * 4, destination, zero, zero, width)
            else:
                finish_row(source, destination, zero, zero, width, activation)


@kernel("void(int64[::1], int64, float32[::1], float32[:,::1], int64, float32[:,::1])")
def softmax_kernel(counter, units, scratch, x, chunk, y):  # type: ignore[no-untyped-def]
    """Units: chunks of rows."""
    rows, channels = x.shape
    while True:
        unit = next_unit(address(counter))
        if unit >= units:
            break
        for row in range(unit * chunk, min(rows, (unit + 1) * chunk)):
            source = address(x) + row * channels * 4
            destination = address(y) + row * channels * 4
            scratch[0] = row_maximum(source, channels)
            scratch[0] = np.float32(1) / exp_row(source, destination, address(scratch), channels)
            scaled_row(destination, destination, address(scratch), channels, 0)


def _apply(operator: str, x: np.ndarray, activation: int, width: int) -> np.ndarray:
    x = activations(x, operator)
    y = empty((*x.shape[:-1], width))
    if y.size == 0:
        return y
    flat = x.reshape(-1, x.shape[-1])
    chunk = max(1, CHUNK // x.shape[-1])
    zeros = np.zeros(width, np.float32)
    units = -(-len(flat) // chunk)
    run(activation_kernel, units, 32 * x.size, 0, flat, chunk, zeros, y.reshape(len(flat), width), activation)
    return y


def silu(x: np.ndarray) -> np.ndarray:
    """`x / (1 + exp(-x))`."""
    return _apply("silu", x, SILU, x.shape[-1])


def gelu(x: np.ndarray) -> np.ndarray:
    """`x` times the normal distribution function of x."""
    return _apply("gelu", x, GELU, x.shape[-1])


def quick_gelu(x: np.ndarray) -> np.ndarray:
    """`x / (1 + exp(-1.702 x))`."""
    return _apply("quick_gelu", x, QUICK_GELU, x.shape[-1])


def geglu(x: np.ndarray) -> np.ndarray:
    """`a * gelu(g)` for the halves (a | g) of the last axis."""
    if x.shape[-1] % 2:
        raise InputError(f"geglu: the last axis holds two halves, so its size must be even, not {x.shape[-1]}")
    return _apply("geglu", x, GEGLU, x.shape[-1] // 2)


def softmax(x: np.ndarray, axis: int = -1) -> np.ndarray:
    """`exp(x) / sum(exp(x))` along `axis`."""
    moved = activations(np.moveaxis(x, axis, -1), "softmax")
    y = empty(moved.shape)
    if y.size:
        flat = moved.reshape(-1, moved.shape[-1])
        chunk = max(1, CHUNK // flat.shape[1])
        run(softmax_kernel, -(-len(flat) // chunk), 32 * x.size, 1, flat, chunk, y.reshape(flat.shape))
    return np.moveaxis(y, -1, axis)
