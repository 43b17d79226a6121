"""Bfloat16: the upper half of a float32, so the same range with 8 bits of precision. NumPy has no such type.

Its bits are kept as `uint16`.
"""

from __future__ import annotations

import numpy as np


def bfloat16_to_float32(bits: np.ndarray) -> np.ndarray:
    """Widen bfloat16 bits (uint16) to the float32 of the same value, exactly: shift them to the upper half."""
    values: np.ndarray = np.left_shift(bits, 16, dtype=np.uint32).view(np.float32)
    return values


def float32_to_bfloat16(values: np.ndarray) -> np.ndarray:
    """The bits (uint16) of the bfloat16 nearest to each float32, ties to even; a NaN stays a quiet NaN.

    Adding 0x7fff, and one more if the last bit that is kept is odd, carries into the upper half exactly when the
    lower half is above one half, or is one half and the kept part is odd.
    """
    bits = values.astype(np.float32, order="C").reshape(-1).view(np.uint32)
    upper = bits >> 16
    rounded = (bits + (0x7FFF + (upper & 1))) >> 16
    quiet = upper | 0x40
    result = np.where(np.isnan(bits.view(np.float32)), quiet, rounded).astype(np.uint16)
    return result.reshape(values.shape)


def rounded(values: np.ndarray) -> np.ndarray:
    """Each value rounded to bfloat16, as float32."""
    return bfloat16_to_float32(float32_to_bfloat16(values))
