r"""The transcendental functions, as polynomials on vectors: exp, and with it SiLU and GELU.

The C library's `exp` takes one number at a time. Written as multiply-adds, eight or sixteen go through at once.

**exp.** $e^x = 2^n e^r$ with $n = \mathrm{rint}(x / \ln 2)$ and $|r| \le \ln 2 / 2$. $\ln 2$ is split in two parts so
that $r$ is exact to float32 (Cody and Waite 1980); $e^r$ is a polynomial of degree 6, within 3e-9; $2^n$ is put
together from its bits. Relative error below 2e-7 from -87 to 88; outside, the value at the
nearer end. A power of 2 needs no splitting, since $r = x - \mathrm{rint}(x)$ is exact: $e^x = 2^{x \log_2 e}$ takes
fewer steps, where it may be off by the rounding of $x \log_2 e$, as in a softmax, whose $x$ is a rounded difference
already.

**Normal tail.** $Q(a) = \tfrac12 \mathrm{erfc}(a / \sqrt 2) = e^{-a^2/2} R(a)$ for $a \ge 0$: $R$ falls from 1/2 like
$1/a$ and is smooth, so that a polynomial in $u = (a - 2) / (a + 2)$ of degree 12, divided by $a + 2$, gives it within
6e-8 of itself for every a. GELU is $x (1 - Q(x))$ for $x \ge 0$ and $x\, Q(-x)$ below: no cancellation in the tail.

All polynomials are interpolated at Chebyshev points when this file is imported, in float64: no table to trust.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.polynomial import chebyshev

from tinyldm.kernels.simd import Lanes, Value


def _interpolate(function: Callable[[Any], Any], degree: int, scale: float = 1.0) -> tuple[float, ...]:
    """The polynomial through `function` at the Chebyshev points of [-scale, scale]: coefficients in x, lowest first."""
    series: np.ndarray = chebyshev.chebinterpolate(lambda t: function(t * scale), degree)
    powers = chebyshev.cheb2poly(series)
    return tuple(float(c) / scale**i for i, c in enumerate(powers))


def _tail_ratio(u: np.ndarray) -> np.ndarray:
    """R(a) * (a + 2) at a = 2 (1 + u) / (1 - u), from the C library's erfc, or its asymptotic series far out."""

    def at(u: float) -> float:
        if u > 0.86:  # a > 26: erfc underflows; 1 - 1/a^2 + 3/a^4 is exact to 1e-8
            a = 2 * (1 + u) / max(1 - u, 1e-300)
            return (1 + 2 / a) * (1 - 1 / a**2 + 3 / a**4) / math.sqrt(2 * math.pi)
        a = 2 * (1 + u) / (1 - u)
        return (a + 2) * 0.5 * math.erfc(a / math.sqrt(2)) * math.exp(a * a / 2)

    return np.array([at(float(v)) for v in u])


LN2_HIGH = 0.693359375  # 9 bits: n * LN2_HIGH is exact
LN2_LOW = math.log(2) - LN2_HIGH
EXP_COEFFICIENTS = _interpolate(np.exp, 6, math.log(2) / 2)
POWER_COEFFICIENTS = _interpolate(np.exp2, 6, 0.5)
TAIL_COEFFICIENTS = _interpolate(_tail_ratio, 12)
ROUNDER = 1.5 * 2**23 + 127  # added to a small number, it leaves the nearest whole number, plus 127, in the low bits
SMALLEST, LARGEST = -87.0, 88.0  # where 2^n is a normal float32
SMALLEST_POWER = -125.0  # the same for powers of 2


def polynomial(lanes: Lanes, x: Value, coefficients: Sequence[float]) -> Value:
    """Horner's rule; coefficients lowest first."""
    total = lanes.constant(coefficients[-1])
    for c in reversed(coefficients[:-1]):
        total = lanes.fma(total, x, lanes.constant(c))
    return total


def exp_negative(lanes: Lanes, x: Value) -> Value:
    """e^x for x <= 88; below -87, where it is less than 2^-125, what it is at -87; NaN of NaN."""
    x = lanes.maximum(lanes.constant(SMALLEST), x)  # in this order, what is no number stays so
    shifted = lanes.fma(x, lanes.constant(1 / math.log(2)), lanes.constant(ROUNDER))
    n = shifted - ROUNDER
    r = lanes.fma(n, lanes.constant(-LN2_HIGH), x)
    r = lanes.fma(n, lanes.constant(-LN2_LOW), r)
    return polynomial(lanes, r, EXP_COEFFICIENTS) * lanes.shifted_left(shifted, 23)


def exp2_negative(lanes: Lanes, x: Value) -> Value:
    """2^x for x <= 127; below -125 what it is at -125; NaN of NaN."""
    x = lanes.maximum(lanes.constant(SMALLEST_POWER), x)
    shifted = x + ROUNDER
    r = x - (shifted - ROUNDER)
    return polynomial(lanes, r, POWER_COEFFICIENTS) * lanes.shifted_left(shifted, 23)


def exp(lanes: Lanes, x: Value) -> Value:
    """e^x, within [e^-87, e^88]."""
    return exp_negative(lanes, lanes.minimum(lanes.constant(LARGEST), x))


def _nothing_below(lanes: Lanes, x: Value, least: float, y: Value) -> Value:
    """y; -0 where x is below `least`, infinity included: what is right there is no normal float32."""
    return lanes.where("<", x, lanes.constant(least), lanes.constant(-0.0), y)


def silu(lanes: Lanes, x: Value) -> Value:
    """x / (1 + e^-x)."""
    return _nothing_below(lanes, x, -LARGEST, x / (exp(lanes, -x) + 1.0))


def relu(lanes: Lanes, x: Value) -> Value:
    """The larger of x and 0; a NaN stays."""
    zero = lanes.constant(0.0)
    return lanes.where("<", x, zero, zero, x)


def quick_gelu(lanes: Lanes, x: Value) -> Value:
    """x / (1 + e^(-1.702 x))."""
    return _nothing_below(lanes, x, -LARGEST / 1.702, x / (exp(lanes, x * -1.702) + 1.0))


def gelu(lanes: Lanes, x: Value) -> Value:
    """x times the normal distribution function."""
    a = lanes.minimum(lanes.magnitude(x), lanes.constant(20.0))  # Q(20) is 0, and a*a can't overflow
    inverse = 1.0 / (a + 2.0)
    ratio = polynomial(lanes, (a - 2.0) * inverse, TAIL_COEFFICIENTS) * inverse
    square = a * a
    rest = lanes.fma(a, a, -square)  # what the rounded square left out
    tail = exp_negative(lanes, square * -0.5) * (1.0 - rest * 0.5) * ratio
    return _nothing_below(lanes, x, -14.0, x * lanes.where("<", x, lanes.constant(0.0), tail, 1.0 - tail))
