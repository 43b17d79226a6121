r"""Seeded weights: the same numbers on both sides of a comparison, with no file in between.

Any model can be filled with weights from a seed, by name and shape alone, so a golden needs to store only inputs and
outputs. The generator is chosen so that any language reproduces it exactly: integer arithmetic modulo $2^{64}$, then
correctly rounded IEEE-754 double operations, then one rounding to float32.

For a weight `name` of shape `(d0, d1, …)` and a seed:

1. `key` = the first 8 bytes, little-endian, of SHA-256 over the UTF-8 text `"{seed}:{name}"`.
2. For element `i = 0, 1, …` in C order (last axis fastest), SplitMix64 (Steele et al. 2014, "Fast splittable
   pseudorandom number generators", figure 17): `s = key + (i + 1) · 0x9E3779B97F4A7C15`;
   `s = (s ^ (s >> 30)) · 0xBF58476D1CE4E5B9`; `s = (s ^ (s >> 27)) · 0x94D049BB133111EB`; `s = s ^ (s >> 31)`.
3. `u = (s >> 11) · 2^-53 · 2 - 1`, uniform in `[-1, 1)`.
4. The value is `u · scale + offset` with
   - `scale = sqrt(3 / fan_in)`, `offset = 0` for two axes or more; `fan_in = d1 · d2 · …`: unit variance in, unit out;
   - `scale = 0.1`, `offset = 1` for one axis and a name that ends in `weight` (a norm's gain);
   - `scale = 0.1`, `offset = 0` for everything else (a bias).
5. Rounded to float32. A float64 model takes the float32 values, so both precisions share their weights.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

import numpy as np

GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)
BLOCK = 1 << 20  # elements at a time: bounds the memory of the 64-bit intermediates


def stream_key(text: str) -> int:
    """The key of a text's stream (step 1)."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def integers(key: int, start: int, count: int) -> np.ndarray:
    """Elements `start … start + count` of the stream of `key`: uint64 (step 2)."""
    with np.errstate(over="ignore"):
        s = np.uint64(key) + np.arange(start + 1, start + count + 1, dtype=np.uint64) * GOLDEN_GAMMA
        s = (s ^ (s >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        s = (s ^ (s >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return s ^ (s >> np.uint64(31))


def uniform(key: int, start: int, count: int) -> np.ndarray:
    """Elements `start … start + count` of the stream of `key`: float64 in [-1, 1)."""
    return (integers(key, start, count) >> np.uint64(11)).astype(np.float64) * 2.0**-53 * 2.0 - 1.0


def scale_and_offset(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """How the uniform stream becomes a weight of this name and shape (step 4 above)."""
    if len(shape) >= 2:
        return math.sqrt(3.0 / max(1, math.prod(shape[1:]))), 0.0
    if name.endswith("weight"):
        return 0.1, 1.0
    return 0.1, 0.0


def seeded_weight(name: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """The weight `name` of `shape` for `seed`: float32, as the module's page defines it."""
    key = stream_key(f"{seed}:{name}")
    scale, offset = scale_and_offset(name, shape)
    out = np.empty(math.prod(shape), np.float32)
    for start in range(0, out.size, BLOCK):
        count = min(BLOCK, out.size - start)
        out[start : start + count] = uniform(key, start, count) * scale + offset
    return out.reshape(shape)


def seeded_weights(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, np.ndarray]:
    """A whole model's weights: `{name: float32 array}` for `{name: shape}`."""
    return {name: seeded_weight(name, shape, seed) for name, shape in shapes.items()}


def seeded_input(name: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """An input tensor: the uniform stream of `"{seed}:{name}"` times √3 (unit variance), rounded to float32."""
    key = stream_key(f"{seed}:{name}")
    return (uniform(key, 0, math.prod(shape)) * math.sqrt(3.0)).astype(np.float32).reshape(shape)
