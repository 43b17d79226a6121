"""What the operator tests draw from, and how close an operator must come to its naive version.

Hypothesis draws shapes, settings and a seed; NumPy fills the arrays. Naive versions compute in float64 from the very
values that the operator was given, so what is left is the operator's own rounding.
"""

from __future__ import annotations

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

DTYPES = (np.float16, np.float32, np.float64)
TOLERANCE = {np.dtype(np.float16): 1e-2, np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-12}

dtypes = st.sampled_from(DTYPES)
seeds = st.integers(0, 2**32 - 1)
eps = st.sampled_from([1e-6, 1e-5, 1e-2])
few = settings(deadline=None, max_examples=60)
fewer = settings(deadline=None, max_examples=30)


def size(largest: int, smallest: int = 0) -> st.SearchStrategy[int]:
    """The size of an axis; 0 and 1 are where loops and reshapes break."""
    return st.integers(smallest, largest)


def normal(seed: int, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Standard normal values; read-only, so that an operator that writes to its argument is found out."""
    array = np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)
    array.flags.writeable = False
    return array


def assert_close(found: np.ndarray, wanted: np.ndarray, dtype: type, slack: float = 1.0) -> None:
    """The same shape, the dtype asked for, and the difference small against the largest value."""
    assert found.dtype == dtype
    assert found.shape == wanted.shape
    if wanted.size:
        error = np.abs(found.astype(np.float64) - wanted).max()
        assert error <= slack * TOLERANCE[np.dtype(dtype)] * max(1.0, np.abs(wanted).max())
