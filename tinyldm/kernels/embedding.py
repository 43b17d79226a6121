"""Embeddings: a table row for every token, and the timestep's sines and cosines in float64, rounded once.

Both are a few hundred numbers a step, so they are the operators of `tinyldm.ops`: NumPy is fast enough.

Error: none of a table row; of the sines and cosines, half a unit of the last place.

Vaswani et al. 2017, arXiv 1706.03762, section 3.5.
"""

from __future__ import annotations

import numpy as np

from tinyldm import ops
from tinyldm.ops.bfloat16 import widened
from tinyldm.ops.vectors import timestep_embedding

__all__ = ["embedding", "timestep_embedding"]


def embedding(ids: np.ndarray, table: np.ndarray) -> np.ndarray:
    """The row of the table (of any float dtype, or `BFLOAT16`) for every id, as float32: `(…), (V, C) -> (…, C)`."""
    return widened(ops.embedding(ids, table))
