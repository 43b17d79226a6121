"""A matrix product whose terms are added one by one in a given order, each product and each sum rounded to float32.

    y[m, n] = ((0 + a[m, o_0] b[o_0, n]) + a[m, o_1] b[o_1, n]) + …

No model computes so. It is the yardstick of `tinyldm.golden.rounding`: what a port's matrix product may err by that
does nothing about rounding. So nothing is fused and nothing reassociated.

Why it is fast all the same: the sums of neighbouring columns are independent, a vector of them at a time. A unit of
work is `ROWS` rows by `COLUMNS` columns of a product. The terms of b for `DEPTH` steps are gathered in the order in
which they are added, and lie in the level-2 cache while all rows of the unit pass over them; a sum is loaded and stored
once in `STEPS` terms.

Error: at most K * 2^-24 * sum |a b|, to first order, and the same bytes for every thread count.

Higham 2002, "Accuracy and Stability of Numerical Algorithms", section 4.2 (recursive summation).
"""

from __future__ import annotations

import math

import numpy as np

from tinyldm.kernels.compile import Images, Kernel, Numbers, Row
from tinyldm.kernels.pool import run
from tinyldm.kernels.simd import next_unit

ROWS = 512  # of a unit, at most
COLUMNS = 64
DEPTH = 256  # steps whose terms of b are gathered at a time
STEPS = 8  # terms that are added to a sum between its load and its store


@Kernel
def ordered_kernel(
    counter: Numbers, units: int, scratch: Row, a: Images, b: Row, along_k: int, along_n: int, order: Numbers, y: Images
) -> None:
    """Units: a block of rows by a panel of columns of one product. a (B, M, K) is in order, b is gathered.

    Of product i, term k of column n is b[i * K * N + order[k] * along_k + n * along_n].
    """
    _, rows, depth = a.shape
    columns = y.shape[2]
    panels, blocks = (columns + COLUMNS - 1) // COLUMNS, (rows + ROWS - 1) // ROWS
    terms = scratch[: DEPTH * COLUMNS].reshape(DEPTH, COLUMNS)
    sums = scratch[DEPTH * COLUMNS : (DEPTH + min(rows, ROWS)) * COLUMNS].reshape(-1, COLUMNS)
    unit = next_unit(counter)
    while unit < units:
        product, part = unit // (panels * blocks), unit % (panels * blocks)
        column, row = part // blocks * COLUMNS, part % blocks * ROWS
        width, height = min(COLUMNS, columns - column), min(ROWS, rows - row)
        start = product * depth * columns + column * along_n
        sums[:height] = 0
        terms[:, width:] = 0
        for first in range(0, depth, DEPTH):
            count = min(DEPTH, depth - first)
            for k in range(count):
                for n in range(width):
                    terms[k, n] = b[start + order[first + k] * along_k + n * along_n]
            whole = count // STEPS * STEPS
            for i in range(height):
                factors, total = a[product, row + i], sums[i]
                for k in range(0, whole, STEPS):
                    for n in range(COLUMNS):
                        s = total[n]
                        for step in range(STEPS):  # the compiler unrolls it, and makes vectors of the loop around it
                            s += factors[first + k + step] * terms[k + step, n]
                        total[n] = s
                for k in range(whole, count):
                    for n in range(COLUMNS):
                        total[n] += factors[first + k] * terms[k, n]
        y[product, row : row + height, column : column + width] = sums[:height, :width]
        unit = next_unit(counter)


def ordered_matmul(a: np.ndarray, b: np.ndarray, order: np.ndarray) -> np.ndarray:
    """`a @ b` in float32, the terms added one by one in `order`: `(…, M, K), (…, K, N), (K,) -> (…, M, N)`.

    `order` is a permutation of 0 … K - 1. The transpose of an array without gaps is taken as `b` without a copy.
    """
    *batch, m, depth = a.shape
    n, products = b.shape[-1], math.prod(batch)
    y = np.empty((*batch, m, n), np.float32)
    if not y.size:
        return y
    if not np.array_equal(order, np.arange(depth)):
        a = np.take(a, order, axis=-1)
    transposed = b.swapaxes(-1, -2).flags.c_contiguous
    terms = np.ascontiguousarray(b.swapaxes(-1, -2) if transposed else b, np.float32)
    run(
        ordered_kernel,
        products * -(-n // COLUMNS) * -(-m // ROWS),
        float(y.size * depth),
        (DEPTH + min(m, ROWS)) * COLUMNS,
        np.ascontiguousarray(a, np.float32).reshape(products, m, depth),
        terms.reshape(-1),
        *((1, depth) if transposed else (n, 1)),
        np.ascontiguousarray(order, np.int64),
        y.reshape(products, m, n),
    )
    return y
