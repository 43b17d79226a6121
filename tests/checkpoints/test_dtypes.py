import struct
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyldm.checkpoints.base import STORED, bfloat16_to_float32, float32_to_bfloat16, from_stored, tag_of, to_stored
from tinyldm.errors import CheckpointError


def naive_bfloat16_value(bits: int) -> float:
    """Sign, exponent and fraction by the definition of the format."""
    sign, exponent, fraction = bits >> 15, bits >> 7 & 0xFF, bits & 0x7F
    if exponent == 0xFF:
        return float("nan") if fraction else float("inf") * (-1) ** sign
    value = fraction * 2.0**-133 if exponent == 0 else (128 + fraction) * 2.0 ** (exponent - 134)
    return -value if sign else value


def test_every_tie_is_rounded_to_the_even_neighbour():
    below = np.arange(0x7F7F, dtype=np.uint32)  # the positive finite ones but the last
    halfway = (below << 16 | 0x8000).view(np.float32)
    np.testing.assert_array_equal(float32_to_bfloat16(halfway), below + below % 2)
    np.testing.assert_array_equal(float32_to_bfloat16(-halfway), below + below % 2 + 0x8000)


def test_every_bfloat16_widens_to_its_value():
    bits = np.arange(2**16, dtype=np.uint16)
    expected = np.array([naive_bfloat16_value(int(b)) for b in bits], np.float32)
    np.testing.assert_array_equal(bfloat16_to_float32(bits), expected)
    back = float32_to_bfloat16(bfloat16_to_float32(bits))
    nan = np.isnan(expected)
    np.testing.assert_array_equal(back[~nan], bits[~nan])
    assert np.isnan(bfloat16_to_float32(back[nan])).all()


@settings(deadline=None, max_examples=300)
@given(st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**127), max_value=2.0**127))
def test_rounding_to_bfloat16_is_to_nearest_even(value):
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    below = bits >> 16  # towards zero
    candidates = [below, below + 1]
    distance = [abs(Fraction(naive_bfloat16_value(b)) - Fraction(value)) for b in candidates]
    best = [b for b, d in zip(candidates, distance, strict=True) if d == min(distance)]
    expected = best[0] if len(best) == 1 else next(b for b in best if b % 2 == 0)
    assert float32_to_bfloat16(np.array([value], np.float32))[0] == expected


@pytest.mark.parametrize("tag", list(STORED))
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 4), (2, 3)])
def test_stored_and_back_keeps_values(tag, shape):
    values = np.resize([0, 1], shape)
    dtype = {"BF16": np.dtype(np.float32), "BOOL": np.dtype(bool)}.get(tag, STORED[tag])
    stored = to_stored(values.astype(dtype), tag)
    assert stored.dtype.itemsize == STORED[tag].itemsize
    back = from_stored(stored.view(STORED[tag]), tag)
    assert back.shape == shape
    assert back.dtype == dtype
    assert not back.flags.writeable
    np.testing.assert_array_equal(back, values)
    assert from_stored(stored.view(STORED[tag]), tag, np.float32).dtype == np.float32


def test_keeping_the_type_makes_no_copy():
    values = np.arange(4, dtype=np.float16)
    assert np.shares_memory(from_stored(values, "F16"), values)
    assert np.shares_memory(from_stored(values, "F16", np.float16), values)
    assert values.flags.writeable


def test_unaligned_elements_are_copied_into_place():
    values = np.frombuffer(bytes(1) + np.arange(4, dtype="<f4").tobytes(), np.uint8)[1:].view("<f4")
    assert not values.flags.aligned
    read = from_stored(values, "F32", np.float32)
    assert read.flags.aligned
    np.testing.assert_array_equal(read, np.arange(4))


def test_any_byte_but_zero_is_true():
    np.testing.assert_array_equal(from_stored(np.array([0, 1, 2, 255], np.uint8), "BOOL"), [False, True, True, True])


def test_values_out_of_range_are_refused_and_not_finite_ones_pass():
    with pytest.raises(CheckpointError, match="beyond the range of float32"):
        from_stored(np.array([1e300]), "F64", np.float32)
    with pytest.raises(CheckpointError, match="beyond the range of float16"):
        to_stored(np.array([1e5], np.float32), "F16")
    with pytest.raises(CheckpointError, match="beyond the range of bfloat16"):
        to_stored(np.array([3.4e38], np.float32), "BF16")
    special = np.array([np.inf, -np.inf, np.nan])
    for tag in ("F16", "BF16", "F32"):
        stored = to_stored(special, tag)
        np.testing.assert_array_equal(from_stored(stored.view(STORED[tag]), tag), special)
    signalling = np.array([0x7F800001], np.uint32).view(np.float32)
    assert np.isnan(from_stored(signalling, "F32", np.float64)).all()


def test_types_without_a_tag_are_refused():
    assert tag_of(">f4") == "F32"
    with pytest.raises(CheckpointError, match="complex64 cannot be stored"):
        tag_of(np.complex64)
    with pytest.raises(CheckpointError, match="I64 cannot be stored as F32"):
        to_stored(np.arange(3), "F32")
    with pytest.raises(CheckpointError, match="'F8' is not one of"):
        to_stored(np.zeros(3), "F8")
