r"""Logarithm, sine and cosine in float32, rounded exactly as PyTorch's vector code for x86 rounds them.

A seed gives the same picture here and in PyTorch only if the noise has the same bits, so the last digit matters: these
are the polynomials of the Cephes library (S. L. Moshier, "Methods and Programs for Mathematical Functions", 1989;
single precision), with a fused multiply-add wherever the compiled original has one. Every other operation is one IEEE
float32 operation, which NumPy rounds as any processor does.
"""

from __future__ import annotations

import numpy as np

F32 = np.float32

SQRT_HALF = F32(0.707106781186547524)
LOG_POLYNOMIAL = [
    F32(c)
    for c in (
        7.0376836292e-2,
        -1.1514610310e-1,
        1.1676998740e-1,
        -1.2420140846e-1,
        1.4249322787e-1,
        -1.6668057665e-1,
        2.0000714765e-1,
        -2.4999993993e-1,
        3.3333331174e-1,
    )
]
# ln 2 = 0.693359375 - 2.12194440e-4: the first part has so few bits that a product with the exponent is exact.
LN2_HIGH, LN2_LOW = F32(0.693359375), F32(-2.12194440e-4)

FOUR_OVER_PI = F32(1.27323954473516)
# π/4 in three parts, for the same reason.
PI_4_PARTS = [F32(c) for c in (0.78515625, 2.4187564849853515625e-4, 3.77489497744594108e-8)]
SIN_POLYNOMIAL = [F32(c) for c in (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)]
COS_POLYNOMIAL = [F32(c) for c in (2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)]

BELOW_FLOAT32 = np.int64((1 << 29) - 1)  # the 29 bits of a float64 that a float32 has no room for
HALFWAY = np.int64(1 << 28)


def fma(a: np.ndarray | F32, b: np.ndarray | F32, c: np.ndarray | F32) -> np.ndarray:
    r"""$a b + c$ of float32 arrays with a single rounding to float32, as the processor's instruction gives it.

    The product of two float32 is exact in float64. The sum rounds to float64 and then again to float32; the second
    rounding goes wrong only where the first one landed exactly halfway between two float32 values, so there the part
    that the first rounding lost (Knuth's two-sum) decides.
    """
    product = np.multiply(a, b, dtype=np.float64)
    total = np.asarray(product + c)
    halfway = (total.view(np.int64) & BELOW_FLOAT32) == HALFWAY
    if halfway.any():
        rest = total - product
        lost = (product - (total - rest)) + (c - rest)
        total = np.where(halfway & (lost != 0), np.nextafter(total, np.copysign(np.inf, lost)), total)
    return total.astype(np.float32)


def horner(coefficients: list[F32], x: np.ndarray) -> np.ndarray:
    """The polynomial with these coefficients, highest power first, at `x`; one `fma` a coefficient."""
    y: np.ndarray | F32 = coefficients[0]
    for c in coefficients[1:]:
        y = fma(y, x, c)
    return np.asarray(y)


def log(x: np.ndarray) -> np.ndarray:
    r"""$\ln x$ for positive, normal float32 `x`.

    With $x = m 2^e$ and $m$ in $[\sqrt{1/2}, \sqrt 2)$: $\ln x = e \ln 2 + f - f^2/2 + f^3 P(f)$, $f = m - 1$.
    """
    m, e = np.frexp(x)
    low = m < SQRT_HALF
    f = np.where(low, (m - F32(1)) + m, m - F32(1))
    e = e.astype(np.float32) - low.astype(np.float32)
    square = f * f
    y = fma(horner(LOG_POLYNOMIAL, f) * f, square, e * LN2_LOW)
    y = fma(-square, F32(0.5), y)
    return fma(e, LN2_HIGH, f + y)


def sincos(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""$(\sin x, \cos x)$ for float32 `x` in $[0, 8192)$.

    $x = j \pi/4 + r$ with even $j$ and $|r| \le \pi/4$; one polynomial serves the sine of $r$, one the cosine, and
    $j \bmod 8$ says which is which and with what sign.
    """
    j = ((x * FOUR_OVER_PI).astype(np.int32) + 1) & ~1
    r = x
    for part in PI_4_PARTS:
        r = fma(-j.astype(np.float32), part, r)
    square = r * r
    cos_r = fma(horner(COS_POLYNOMIAL, square) * square, square, -(square * F32(0.5))) + F32(1)
    sin_r = fma(horner(SIN_POLYNOMIAL, square) * square, r, r)
    swapped = (j & 2) != 0
    sin_x = np.where(swapped, cos_r, sin_r)
    cos_x = np.where(swapped, sin_r, cos_r)
    return np.where(j & 4, -sin_x, sin_x), np.where((j + 2) & 4, -cos_x, cos_x)
