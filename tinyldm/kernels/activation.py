"""SiLU, GELU, quick GELU, GEGLU and softmax on their own, for where nothing before them can take them along.

Why it is fast: vectors of polynomials (`formulas.py`) instead of one library call a number, and one pass over memory;
a softmax finds the maximum, the exponentials with their sum, and the quotient while a row lies in cache.

Error: at most 12 · 2^-24 of the value itself; for SiLU and quick GELU below zero, where e^-x takes the rounding of its
argument, 4 |x| · 2^-24 of it more. A softmax adds the rounding of x - max. Where the result would be less than 1e-35
(SiLU of x below -88), it is -0. `tests/kernels/test_properties.py` holds all of it.

Elfwing et al. 2017, arXiv 1702.03118; Hendrycks and Gimpel 2016, arXiv 1606.08415; Shazeer 2020, arXiv 2002.05202.
"""

from __future__ import annotations

import numpy as np

from tinyldm import ops
from tinyldm.errors import InputError
from tinyldm.kernels.arrays import activations, as_rows
from tinyldm.kernels.buffers import empty
from tinyldm.kernels.compile import Kernel, Numbers, Row, Rows
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
    scale_row,
)
from tinyldm.kernels.simd import address, next_unit

CHUNK = 1 << 14  # values of one unit of work, about


@Kernel
def activation_kernel(
    counter: Numbers, units: int, scratch: Row, x: Rows, chunk: int, zeros: Row, y: Rows, activation: int
) -> None:
    """Units: chunks of rows."""
    rows, channels = x.shape
    width = y.shape[1]
    zero = address(zeros)
    unit = next_unit(counter)
    while unit < units:
        for row in range(unit * chunk, min(rows, (unit + 1) * chunk)):
            source = address(x) + row * channels * 4
            destination = address(y) + row * width * 4
            if activation == GEGLU:
                finish_gate(source, source + width * 4, destination, zero, zero, width)
            else:
                finish_row(source, destination, zero, zero, width, activation)
        unit = next_unit(counter)


@Kernel
def softmax_kernel(counter: Numbers, units: int, scratch: Row, x: Rows, chunk: int, y: Rows) -> None:
    """Units: chunks of rows."""
    rows, channels = x.shape
    unit = next_unit(counter)
    while unit < units:
        for row in range(unit * chunk, min(rows, (unit + 1) * chunk)):
            source = address(x) + row * channels * 4
            destination = address(y) + row * channels * 4
            scratch[0] = row_maximum(source, channels)
            scratch[0] = np.float32(1) / exp_row(source, destination, address(scratch), channels)
            scale_row(destination, address(scratch), channels)
        unit = next_unit(counter)


def _apply(operator: str, x: np.ndarray, activation: int, width: int) -> np.ndarray:
    x = activations(x, operator)
    y = empty((*x.shape[:-1], width) if x.ndim else ())
    rows = as_rows(x) if x.ndim else x.reshape(1, 1)
    chunk = max(1, CHUNK // max(1, rows.shape[1]))
    zeros = np.zeros(width, np.float32)
    units = -(-len(rows) // chunk)
    run(activation_kernel, units, 32 * x.size, 0, rows, chunk, zeros, y.reshape(len(rows), width), activation)
    return y


def _size(x: np.ndarray) -> int:
    return x.shape[-1] if x.ndim else 1


def silu(x: np.ndarray) -> np.ndarray:
    """`x / (1 + exp(-x))`."""
    return _apply("silu", x, SILU, _size(x))


def gelu(x: np.ndarray) -> np.ndarray:
    """`x` times the normal distribution function of x."""
    return _apply("gelu", x, GELU, _size(x))


def quick_gelu(x: np.ndarray) -> np.ndarray:
    """`x / (1 + exp(-1.702 x))`."""
    return _apply("quick_gelu", x, QUICK_GELU, _size(x))


def geglu(x: np.ndarray) -> np.ndarray:
    """`a * gelu(g)` for the halves (a | g) of the last axis."""
    if x.ndim == 0 or x.shape[-1] % 2:
        return ops.geglu(x)  # raises the error that says what is wrong
    return _apply("geglu", x, GEGLU, x.shape[-1] // 2)


def softmax(x: np.ndarray, axis: int = -1) -> np.ndarray:
    """`exp(x) / sum(exp(x))` along `axis`."""
    if x.ndim == 0:
        raise InputError("softmax: x is a single number, and must have a last axis of channels")
    moved = activations(np.moveaxis(x, axis, -1), "softmax")
    y, rows = empty(moved.shape), as_rows(moved)
    chunk = max(1, CHUNK // max(1, rows.shape[1]))
    run(softmax_kernel, -(-len(rows) // chunk), 32 * x.size, 1, rows, chunk, as_rows(y))
    return np.moveaxis(y, -1, axis)
