"""Bfloat16: the upper half of a float32, so the same range with 8 bits of precision. NumPy has no such type.

Its bits are kept as `uint16`; an array that says of itself what they are has the type `BFLOAT16`.
"""

from __future__ import annotations

import numpy as np

BFLOAT16 = np.dtype(
    [("bits", np.uint16)], align=True
)  # a structure of one field: to be sliced, reshaped and joined, not added
COUNTED = 1 << 18  # numbers looked at together


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


def widened(values: np.ndarray) -> np.ndarray:
    """Floats of any type as float32, those of 16 bits exactly; no copy of what is float32 already."""
    if values.dtype == BFLOAT16:
        return bfloat16_to_float32(values["bits"])
    return values.astype(np.float32, copy=False)


def narrowed(values: np.ndarray) -> np.ndarray:
    """The bfloat16 bits (uint16) of floats of any type, rounded as float32; those of `BFLOAT16` as they are."""
    bits: np.ndarray = values["bits"] if values.dtype == BFLOAT16 else float32_to_bfloat16(widened(values))
    return bits


def count_not_finite(halves: np.ndarray) -> int:
    """How many numbers of a contiguous float16 or `BFLOAT16` array are NaN or infinite: their exponent is all ones.

    As whole numbers, of both signs, such are the largest, so that those of a part are counted only if its largest is.
    """
    exponent = np.uint16(0x7F80 if halves.dtype == BFLOAT16 else 0x7C00)
    bits, count = halves.reshape(-1).view(np.uint16), 0
    for i in range(0, bits.size, COUNTED):
        part = bits[i : i + COUNTED]
        if part.max() >= exponent | 0x8000 or part.view(np.int16).max() >= exponent:
            count += int(np.count_nonzero((part & exponent) == exponent))
    return count


def rounded(values: np.ndarray) -> np.ndarray:
    """Each value rounded to bfloat16, as float32."""
    return bfloat16_to_float32(float32_to_bfloat16(values))
