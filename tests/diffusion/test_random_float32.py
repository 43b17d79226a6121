"""The float32 functions against exact arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tinyldm.diffusion.random import TWO_PI, fma, log_f32, rounded_twice, sincos_f32

FLOATS = st.floats(width=32, min_value=-1000, max_value=1000).filter(lambda x: x == 0 or abs(x) > 1e-6)


def rounded(exact: Fraction) -> np.float32:
    """The float32 nearest to a rational number, ties to even."""
    near = np.float32(float(exact))
    candidates = [near, np.nextafter(near, np.float32(np.inf)), np.nextafter(near, np.float32(-np.inf))]
    return min(candidates, key=lambda c: (abs(Fraction(float(c)) - exact), int(c.view(np.int32)) & 1))


@given(FLOATS, FLOATS, FLOATS)
# a b + c lies just above, and just below, the middle of two float32 values: rounding twice goes the wrong way.
@example(1 + 2.0**-23, 2.0**-24 * (1 + 2.0**-23), 1.0)
@example(1 + 2.0**-12, 2.0**-24 * (1 - 2.0**-12), 1.0 + 2.0**-23)
@example(2.0**-30, 2.0**-30, 1.0 + 2.0**-23)
@settings(deadline=None, max_examples=300)
def test_fma_rounds_once(a: float, b: float, c: float) -> None:
    got = fma(np.float32(a), np.float32(b), np.float32(c))
    assert got == rounded(Fraction(a) * Fraction(b) + Fraction(c))


def test_fma_rounds_once_near_the_middle() -> None:
    # c + 2^-24 is the middle of two float32 values near 1; the product misses it by less than a float64 can tell.
    rng = np.random.default_rng(0)
    c = (1 + rng.integers(0, 2**22, 200) * 2.0**-23).astype(np.float32)
    k = rng.integers(1, 2**11, 200)
    a = (1 + k * 2.0**-23).astype(np.float32)
    b = ((1 - k * 2.0**-23) * 2.0**-24).astype(np.float32)
    want = [
        rounded(Fraction(float(x)) * Fraction(float(y)) + Fraction(float(w))) for x, y, w in zip(a, b, c, strict=True)
    ]
    twice = (a.astype(np.float64) * b + c).astype(np.float32)
    assert (twice != want).any()  # the case that the correction is for
    assert np.array_equal(fma(a, b, c), np.array(want))


def test_log_is_within_two_ulp() -> None:
    x = np.concatenate([np.random.default_rng(1).random(50_000, np.float32), [2.0**-24, 1.0, 0.70710677, 0.7071068]])
    x = x[x > 0].astype(np.float32)
    want = np.log(x.astype(np.float64))
    assert np.all(np.abs(log_f32(x) - want) <= 2 * np.spacing(np.abs(want).astype(np.float32)))


def test_sincos_is_close_everywhere_on_the_circle() -> None:
    x = np.linspace(0, 2 * np.pi, 100_001).astype(np.float32)
    sin, cos = sincos_f32(x)
    assert sin.dtype == cos.dtype == np.float32
    assert np.abs(sin - np.sin(x.astype(np.float64))).max() < 1.2e-7
    assert np.abs(cos - np.cos(x.astype(np.float64))).max() < 1.2e-7


def same_with_either(words: np.ndarray) -> None:
    """Of uniforms with these 24 bits, logarithm, sine and cosine are the same bits however products are added."""
    uniforms = words.astype(np.int32).astype(np.float32) * np.float32(2**-24)
    one, other = (
        (log_f32(np.float32(1) - uniforms, add), *sincos_f32(TWO_PI * uniforms, add)) for add in (fma, rounded_twice)
    )
    assert [a.tobytes() for a in one] == [b.tobytes() for b in other]


def test_rounding_twice_is_rounding_once_for_uniforms_of_24_bits() -> None:
    same_with_either(np.random.default_rng(0).integers(0, 2**24, 200_000))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(16))
def test_rounding_twice_is_rounding_once_for_all_uniforms_of_24_bits(part: int) -> None:
    """All there are: what `box_muller` relies on."""
    for start in range(part << 20, (part + 1) << 20, 1 << 16):
        same_with_either(np.arange(start, start + (1 << 16)))


@given(st.floats(width=32, min_value=2.0**-100, max_value=2.0**100))
@settings(deadline=None, max_examples=200)
def test_the_exponent_is_taken_from_the_bits(x: float) -> None:
    """Mantissas from the root of a half to the root of two, whatever the exponent."""
    found = log_f32(np.array([x], np.float32))[0]
    assert abs(found - np.log(np.float64(x))) <= 2 * np.spacing(np.float32(max(abs(np.log(x)), 2.0**-24)))
