"""What a wrong tensor looks like: the mistakes that ports make often, recognised by their traces.

Each recogniser takes the golden and the candidate and says in a few words what the difference is, or nothing. A
recogniser must explain the whole difference, not a part: what it proposes must bring the two together. What can only be
told from the inputs of a module is in `module_hints`.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

HALF_MAX = 65504.0  # the largest float16
CLOSE = 1e-2  # relative RMS difference at which an explanation counts: far below any other, above half precision
EXPLAINED = 0.1  # share of the RMS difference that an explanation may leave
FEWEST = 8  # values from which a number that is fitted to them says something
MAX_SIZE = 1 << 22  # elements above which only the cheap recognisers run
LAYOUTS: dict[tuple[int, ...], str] = {
    (0, 2, 3, 1): "(N, H, W, C)",
    (0, 1, 3, 2): "(N, C, W, H)",
    (0, 3, 2, 1): "(N, W, H, C)",
}


def hint(golden: np.ndarray, candidate: np.ndarray, known_factors: Mapping[str, float] | None = None) -> str | None:
    """What the difference of the candidate from the golden looks like, in words; None where nothing is recognised.

    `known_factors` are numbers that the model's configuration multiplies by, by name (`scaling_factor`).
    """
    if golden.dtype.kind not in "fiu" or candidate.dtype.kind not in "fiu":
        return None
    if golden.dtype.kind != "f" and golden.shape == candidate.shape:
        return None
    g, c = golden.astype(np.float64), candidate.astype(np.float64)
    if g.shape != c.shape:
        return shape_hint(g, c)
    if np.array_equal(g, c):
        return None
    simple = overflow(g, c) or constant_ratio(g, c, known_factors or {}) or constant_offset(g, c)
    moved = simple or same_shape_layout(g, c) or swapped(g, c) or shifted(g, c)
    return moved or padded_otherwise(g, c) or truncated(g, c)


def close(g: np.ndarray, c: np.ndarray) -> bool:
    """Whether two arrays of one shape agree but for rounding."""
    if not (np.isfinite(g).all() and np.isfinite(c).all()):
        return False
    scale = rms(g)
    return scale > 0 and rms(g - c) <= CLOSE * scale


def rms(x: np.ndarray) -> float:
    """The root mean square; 0 of no values."""
    return float(np.sqrt(np.mean(np.square(x)))) if x.size else 0.0


def explains(proposed: np.ndarray, g: np.ndarray, c: np.ndarray) -> bool:
    """Whether what is proposed in the golden's place brings the candidate so much nearer that nothing else is wrong."""
    difference = rms(c - g)
    return difference < math.inf and rms(c - proposed) <= EXPLAINED * difference


def mends(mended: np.ndarray, g: np.ndarray, c: np.ndarray) -> bool:
    """Whether the candidate's values, arranged otherwise, are the golden's."""
    return close(g, mended) and explains(mended, c, g)


def shape_hint(g: np.ndarray, c: np.ndarray) -> str:
    """Two shapes that differ: is one a permutation or a reshaping of the other?"""
    shapes = f"shape {c.shape}, the golden has {g.shape}"
    for name, back in arrangements(g, c):
        if close(g, back(c)):
            return f"{shapes}: the same values as {name}"
    if sorted(g.shape) == sorted(c.shape):
        return f"{shapes}: the same sizes in another order, but not the same values"
    if g.size == c.size:
        return f"{shapes}: as many values, but not the same ones in that order"
    if g.shape[1:] == c.shape[1:] and c.shape[0] * 2 == g.shape[0]:
        return f"{shapes}: half the batch (without the unconditional part of the guidance?)"
    return shapes


def arrangements(g: np.ndarray, c: np.ndarray) -> Iterator[tuple[str, Callable[[np.ndarray], np.ndarray]]]:
    """Ways in which the candidate's values may be arranged: a name, and what brings them back to the golden's."""
    n = g.ndim
    if c.ndim == n and n <= 4:
        for order in itertools.permutations(range(n)):
            if order != tuple(range(n)) and tuple(g.shape[i] for i in order) == c.shape:
                name = LAYOUTS.get(order, f"the golden's axes in the order {order}")
                yield name, functools.partial(np.transpose, axes=tuple(np.argsort(order)))
    if n == 4 and c.ndim == 3:  # an image as tokens
        batch, channels, height, width = g.shape
        if c.shape == (batch, height * width, channels):
            yield "(N, H·W, C), tokens", lambda x: np.moveaxis(x, 2, 1).reshape(g.shape)
    if n == 3 and c.ndim == 4:  # tokens as an image
        batch, tokens, channels = g.shape
        if c.shape[:2] == (batch, channels) and c.shape[2] * c.shape[3] == tokens:
            yield "(N, C, H, W), an image", lambda x: np.moveaxis(x.reshape(batch, channels, tokens), 1, 2)
    if c.size == g.size:
        yield "the golden's, reshaped", lambda x: x.reshape(g.shape)


def overflow(g: np.ndarray, c: np.ndarray) -> str | None:
    """Values that are not finite where the golden's are: too large for float16, or born of something else."""
    bad = ~np.isfinite(c) & np.isfinite(g)
    if not bad.any():
        return None
    largest = float(np.abs(g[bad]).max())
    everywhere = float(np.abs(g).max())
    kind = f"{int(np.isnan(c).sum())} NaN and {int(np.isinf(c).sum())} infinities"
    if largest > HALF_MAX:
        return f"{kind} where the golden reaches {largest:.4g}: float16 overflow (it ends at {HALF_MAX:.0f})"
    return f"{kind} where the golden is finite (its largest value is {everywhere:.4g})"


def constant_ratio(g: np.ndarray, c: np.ndarray, known: Mapping[str, float]) -> str | None:
    """The candidate is the golden times one number: a factor is missing, or there twice."""
    gg, gc = float(np.sum(g * g)), float(np.sum(g * c))
    if not gg or not math.isfinite(gc) or gc == 0:
        return None
    r = gc / gg
    far = abs(r - 1) >= 2 * CLOSE and close(g * r, c)
    if not far and (g.size < FEWEST or not explains(g * r, g, c)):
        return None
    if abs(r + 1) < CLOSE:
        return "the golden with the sign turned"
    text = f"the golden times {r:.6g} everywhere (1/{1 / r:.6g})"
    for name, value in known.items():
        if value and abs(r / value - 1) < CLOSE:
            return f"{text}: {name} = {value:.6g} is missing where it divides, or there once too often"
        if value and abs(r * value - 1) < CLOSE:
            return f"{text}: {name} = {value:.6g} is missing"
    return f"{text}: a scaling factor is missing, or there twice"


def constant_offset(g: np.ndarray, c: np.ndarray) -> str | None:
    """The candidate is the golden plus one number, or one for each channel."""
    if g.size < FEWEST or not np.isfinite(c - g).all():
        return None
    offset = float(np.mean(c - g))
    if offset and explains(g + offset, g, c):
        return f"the golden plus {offset:.6g} everywhere: a constant is added that should not be, or is missing"
    channels = 1 if g.ndim == 4 else g.ndim - 1
    axes = tuple(axis for axis in range(g.ndim) if axis != channels)
    if g.size >= FEWEST * g.shape[channels] and explains(g + np.mean(c - g, axis=axes, keepdims=True), g, c):
        return "the golden plus a number for each channel: a bias is missing, or there twice"
    return None


def same_shape_layout(g: np.ndarray, c: np.ndarray) -> str | None:
    """A transposition that leaves the shape as it is: square images, as many channels as pixels."""
    if g.size > MAX_SIZE:
        return None
    for name, back in arrangements(g, c):
        if name != "the golden's, reshaped" and mends(back(c), g, c):
            return f"the same values as {name}"
    if g.ndim >= 3:  # the memory of another layout, read under the golden's shape
        first, last = (g.shape[0], *g.shape[2:], g.shape[1]), (g.shape[0], g.shape[-1], *g.shape[1:-1])
        if mends(np.moveaxis(c.reshape(first), -1, 1), g, c):
            return "channels-last memory under a channels-first shape: a transpose is missing"
        if mends(np.moveaxis(c.reshape(last), 1, -1), g, c):
            return "channels-first memory under a channels-last shape: a transpose is missing"
    for axis in range(2, g.ndim):
        if mends(np.flip(c, axis), g, c):
            return f"the golden mirrored along axis {axis}"
    return None


def swapped(g: np.ndarray, c: np.ndarray) -> str | None:
    """The same slices in another order: along the batch (guidance), or along the channels."""
    if g.size > MAX_SIZE:
        return None
    for axis, what in ((0, "batch"), (1 if g.ndim == 4 else g.ndim - 1, "channels")):
        if axis >= g.ndim or g.shape[axis] < 2 or (axis == 0 and g.ndim == 1):
            continue
        order = matching(np.moveaxis(g, axis, 0), np.moveaxis(c, axis, 0))
        if order is None:
            continue
        moved = [(i, int(j)) for i, j in enumerate(order) if i != j]
        if axis == 0 and g.shape[0] == 2:
            return "the two halves of the batch are swapped (unconditional comes first)"
        if len(moved) == 2:
            return f"the {what} {moved[0][0]} and {moved[0][1]} are swapped"
        if what == "channels" and list(order) == [(i + g.shape[axis] // 2) % g.shape[axis] for i in range(len(order))]:
            return "the two halves of the channels are swapped"
        if list(order) == list(range(len(order)))[::-1]:
            return f"the {what} are in reverse order"
        return f"the {what} are permuted: {len(moved)} of {len(order)} are elsewhere"
    return None


def matching(g: np.ndarray, c: np.ndarray) -> np.ndarray | None:
    """For each slice of the candidate the golden's slice that it equals, if they all are a permutation; else None."""
    a, b = g.reshape(len(g), -1), c.reshape(len(c), -1)
    squares = (a**2).sum(1)[None, :] - 2 * b @ a.T
    order = squares.argmin(1)
    if len(set(order.tolist())) != len(order) or (order == np.arange(len(order))).all():
        return None
    return order if close(a[order], b) and explains(a[order], a, b) else None


def shifted(g: np.ndarray, c: np.ndarray) -> str | None:
    """The golden moved by one pixel, or one token; what was moved in from outside may be anything."""
    axes = {4: (2, 3), 3: (1,)}.get(g.ndim, ())
    ways = (("down", "up"), ("right", "left")) if g.ndim == 4 else (("to the next place", "one place back"),)
    if not axes or min(g.shape[axis] for axis in axes) < 3:
        return None
    for steps in itertools.product((-1, 0, 1), repeat=len(axes)):
        target, source = [slice(None)] * g.ndim, [slice(None)] * g.ndim
        for axis, step in zip(axes, steps, strict=True):
            forward, back = slice(abs(step), None), slice(0, g.shape[axis] - abs(step))
            target[axis], source[axis] = (forward, back) if step > 0 else (back, forward)
        moved, golden, here = c[tuple(target)], g[tuple(source)], g[tuple(target)]
        if any(steps) and close(golden, moved) and explains(golden, here, moved):
            names = " and ".join(ways[i][step < 0] for i, step in enumerate(steps) if step)
            return f"the golden moved by one pixel {names}" if g.ndim == 4 else f"the tokens moved {names}"
    return None


def padded_otherwise(g: np.ndarray, c: np.ndarray) -> str | None:
    """Images that differ near the border only."""
    if g.ndim != 4 or not np.isfinite(c - g).all():
        return None
    error = np.square(c - g).mean(axis=(0, 1))
    noise = EXPLAINED**4 * error.max()
    for width in range(1, (min(error.shape) - 1) // 2 + 1):
        if error[width:-width, width:-width].max() > noise:
            continue
        edges = {"top": error[0], "bottom": error[-1], "left": error[:, 0], "right": error[:, -1]}
        wrong = [name for name, line in edges.items() if line[width:-width].max() > noise]
        where = " and ".join(wrong) + " edge" if len(wrong) < 3 else "border"
        return f"only {width} pixel{'s' * (width > 1)} at the {where} differ: another padding (zeros, reflection, …)"
    return None


def truncated(g: np.ndarray, c: np.ndarray) -> str | None:
    """Values of bfloat16 that lie nearer to zero than the golden's: cut off, and not rounded to the nearest."""
    with np.errstate(over="ignore", invalid="ignore"):
        bits = np.ascontiguousarray(c, np.float32).view(np.uint32)
        error, size = np.abs(c) - np.abs(g), np.abs(g)
    if g.size < FEWEST**2 or (bits & 0xFFFF).any() or not np.isfinite(error).all():
        return None
    if np.median(np.abs(error)) > 2.0**-7 * np.median(size) or error.sum() > -0.5 * np.abs(error).sum():
        return None
    return "bfloat16 values, nearer to zero than the golden's: float32 was cut off, and not rounded to the nearest"


def stated(metadata: Any, *names: str) -> Any:
    """What a golden's metadata has under names within names; None where one of them is not there."""
    for name in names:
        metadata = metadata.get(name) if isinstance(metadata, Mapping) else None
    return metadata


def known_factors(metadata: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a golden's configuration that a port may forget to multiply by."""
    factor = stated(metadata, "config", "vae", "scaling_factor")
    return {"scaling_factor": float(factor)} if isinstance(factor, int | float) else {}
