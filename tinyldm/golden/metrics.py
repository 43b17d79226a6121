"""How far two arrays are apart, in the measures that people who port models ask for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tinyldm.checkpoints.base import tag_of

BLOCK = 1 << 20  # elements at a time, so that float64 copies stay small


@dataclass(frozen=True)
class Metrics:
    r"""The difference of a candidate $c$ from a golden $g$, over the values that are finite in both.

    `max_abs` $= \max |c - g|$; `max_rel` $= \max |c - g| / \max |g|$; `rmse` $= \sqrt{\mathrm{mean}\,(c - g)^2}$;
    `cosine` $= c \cdot g / (|c| |g|)$; `largest` $= \max |g|$ and `rms` $= \sqrt{\mathrm{mean}\, g^2}$ are the golden's
    scale. `ulp` is the largest $|c - g|$ in units of the last place that $g$ has in the candidate's type, over the
    $|g| \ge$ `rms`: below, where terms cancelled, the unit says nothing. `nan` and `inf` count the candidate's,
    `nonfinite_differ` the places where one side is finite and the other is not.
    """

    max_abs: float
    max_rel: float
    rmse: float
    cosine: float
    ulp: float
    largest: float
    rms: float
    nan: int
    inf: int
    nonfinite_differ: int

    @property
    def rel_rmse(self) -> float:
        """The RMSE relative to the golden's root mean square; infinite where an all-zero golden was missed."""
        return ratio(self.rmse, self.rms)


def ratio(a: float, b: float) -> float:
    """a / b, with 0 / 0 = 0 and a / 0 infinite."""
    return a / b if b else (0.0 if a == 0 else float("inf"))


# The distance from 1 to the next number, by the published tag of the stored type.
EPSILON = {"F64": 2.0**-52, "F32": 2.0**-23, "F16": 2.0**-10, "BF16": 2.0**-7}


def measure(golden: np.ndarray, candidate: np.ndarray, tag: str | None = None) -> Metrics:
    """The `Metrics` of two arrays of one shape, computed in float64; `tag` says its stored type."""
    epsilon = EPSILON.get(tag or tag_of(candidate.dtype), 0.0)
    flat_g, flat_c = golden.reshape(-1), candidate.reshape(-1)
    largest = max_abs = ulp = gg = cc = gc = dd = 0.0
    nan = inf = differ = finite = 0
    for g, c in blocks(flat_g, flat_c):
        nan += int(np.isnan(c).sum())
        inf += int(np.isinf(c).sum())
        both = np.isfinite(g) & np.isfinite(c)
        if not both.all():
            same = (np.isnan(g) & np.isnan(c)) | (np.isinf(g) & (g == c))
            differ += int((~both & ~same).sum())
            g, c = g[both], c[both]
        if not g.size:
            continue
        d = np.abs(c - g)
        finite += g.size
        largest = max(largest, float(np.abs(g).max()))
        max_abs = max(max_abs, float(d.max()))
        gg, cc, gc, dd = gg + product(g, g), cc + product(c, c), gc + product(g, c), dd + product(d, d)
    n = max(finite, 1)
    rms = float(np.sqrt(gg / n))
    if epsilon and rms:
        ulp = max(largest_ulp(g, c, rms, epsilon) for g, c in blocks(flat_g, flat_c))
    norm = np.sqrt(gg) * np.sqrt(cc)
    cosine = gc / norm if norm else (1.0 if gg == cc else 0.0)
    return Metrics(
        max_abs=max_abs,
        max_rel=ratio(max_abs, largest),
        rmse=float(np.sqrt(dd / n)),
        cosine=float(cosine),
        ulp=ulp,
        largest=largest,
        rms=rms,
        nan=nan,
        inf=inf,
        nonfinite_differ=differ,
    )


def product(a: np.ndarray, b: np.ndarray) -> float:
    """The sum of a·b, by NumPy alone: the same for any number of threads, and none to wait for."""
    return float(np.sum(a * b))


def largest_and_rmse(golden: np.ndarray, candidate: np.ndarray) -> tuple[float, float] | None:
    """The largest absolute error and the RMSE; None where the candidate has NaN or infinity."""
    largest = total = 0.0
    with np.errstate(invalid="ignore"):
        for g, c in blocks(golden.reshape(-1), candidate.reshape(-1)):
            d = np.abs(c - g)
            largest, total = max(largest, float(d.max())), total + product(d, d)
    return (largest, float(np.sqrt(total / max(golden.size, 1)))) if np.isfinite(total) else None


def blocks(g: np.ndarray, c: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Both flat arrays in float64, a block at a time."""
    for i in range(0, g.size, BLOCK):
        yield g[i : i + BLOCK].astype(np.float64), c[i : i + BLOCK].astype(np.float64)


def largest_ulp(g: np.ndarray, c: np.ndarray, rms: float, epsilon: float) -> float:
    """The largest distance in units of the last place, over the finite values of at least `rms`."""
    counted = np.isfinite(g) & np.isfinite(c) & (np.abs(g) >= rms)
    g, c = g[counted], c[counted]
    place = np.ldexp(epsilon, np.frexp(g)[1] - 1)
    return float((np.abs(c - g) / place).max()) if g.size else 0.0
