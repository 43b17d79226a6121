"""The float32 functions against exact arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tinyldm.diffusion.philox import fma
from tinyldm.diffusion.random import (
    COS_POLYNOMIAL,
    FOUR_OVER_PI,
    LN2_HIGH,
    LN2_LOW,
    LOG_POLYNOMIAL,
    PI_4,
    SIN_POLYNOMIAL,
    log_f32,
    sincos_f32,
)

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


def polynomial(x: np.ndarray, coefficients: list[np.float32]) -> np.ndarray:
    """Horner's rule, as the processor's instruction rounds."""
    y: np.ndarray | np.float32 = coefficients[0]
    for c in coefficients[1:]:
        y = fma(y, x, c)
    return np.asarray(y)


def log_by_fma(x: np.ndarray) -> np.ndarray:
    """The logarithm of the vector code that PyTorch has, every multiply-add rounded once."""
    m, exponent = np.frexp(x)  # from 1/2 to 1
    low = m < np.float32(np.sqrt(0.5))
    f, e = np.where(low, m + m, m) - np.float32(1), (exponent - low).astype(np.float32)
    square = f * f
    y = fma(polynomial(f, LOG_POLYNOMIAL) * f, square, e * LN2_LOW)
    return e * LN2_HIGH + (f + fma(square, np.float32(-0.5), y))


def sincos_by_fma(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same of sine and cosine."""
    j = (x * FOUR_OVER_PI).astype(np.int32)
    j += j & 1
    r = (x.astype(np.float64) - j * PI_4).astype(np.float32)
    square = r * r
    cos = fma(polynomial(square, COS_POLYNOMIAL) * square, square, -np.float32(0.5) * square) + np.float32(1)
    sin = fma(polynomial(square, SIN_POLYNOMIAL) * square, r, r)
    quarter = j // 2 % 4
    return (
        np.choose(quarter, [sin, cos, -sin, -cos]),
        np.choose(quarter, [cos, -sin, -cos, sin]),
    )


def same_by_fma(words: np.ndarray) -> None:
    """Of uniforms with these 24 bits, logarithm, sine and cosine are the same bits however products are added."""
    uniforms = words.astype(np.int32).astype(np.float32) * np.float32(2**-24)
    x, angle = np.float32(1) - uniforms, np.float32(2 * np.pi) * uniforms
    assert np.array_equal(log_f32(x), log_by_fma(x))
    for one, other in zip(sincos_f32(angle), sincos_by_fma(angle), strict=True):
        assert np.array_equal(one, other)


def test_rounding_twice_is_rounding_once_for_uniforms_of_24_bits() -> None:
    same_by_fma(np.random.default_rng(0).integers(0, 2**24, 200_000))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(16))
def test_rounding_twice_is_rounding_once_for_all_uniforms_of_24_bits(part: int) -> None:
    """All there are: what the normals of float32 rely on."""
    for start in range(part << 20, (part + 1) << 20, 1 << 16):
        same_by_fma(np.arange(start, start + (1 << 16)))


@given(st.floats(width=32, min_value=2.0**-100, max_value=2.0**100))
@settings(deadline=None, max_examples=200)
def test_the_exponent_is_taken_from_the_bits(x: float) -> None:
    """Mantissas from the root of a half to the root of two, whatever the exponent."""
    found = log_f32(np.array([x], np.float32))[0]
    assert abs(found - np.log(np.float64(x))) <= 2 * np.spacing(np.float32(max(abs(np.log(x)), 2.0**-24)))
