"""Vector quantisation: each vector replaced by the nearest of a codebook."""

from __future__ import annotations

import numpy as np

from tinyldm.typing import Array, Integers

CHUNK = 1 << 24  # distances at a time: bounds the memory, 128 MB in float64


def nearest_code(z: Array, codebook: Array) -> Integers:
    r"""The codebook's entry nearest to each vector: `(…, D), (K, D) -> (…)` integers; the first of equally near ones.

    $$i = \arg\min_k \lVert z - e_k \rVert^2 = \arg\min_k \left( \lVert e_k \rVert^2 - 2\, z \cdot e_k \right)$$

    Distances are in float64 whatever the dtype. Source: van den Oord et al. 2017, arXiv:1711.00937, equation 1.
    """
    table = np.asarray(codebook, np.float64)
    flat = np.asarray(z, np.float64).reshape(-1, table.shape[1])
    squares = np.square(table).sum(axis=1)
    rows = max(1, CHUNK // max(1, len(table)))
    found = np.empty(len(flat), np.int64)
    for start in range(0, len(flat), rows):
        some = slice(start, start + rows)
        found[some] = np.argmin(squares - 2 * flat[some] @ table.T, axis=1)
    return found.reshape(np.shape(z)[:-1])
