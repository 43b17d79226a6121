"""Four pictures that look somewhat like emoji, drawn by arithmetic: what the goldens of the sisters encode."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

HALF_RANGE = 255 / 512  # from pixels in [-1, 1] to the flow's own unit


def pictures() -> np.ndarray:  # -> (4, 3, 64, 64) float64 in [-1, 1], each value one of 256
    """A shaded disc, a square with a bar, a ring, and a wave of colours, on white."""
    y, x = np.mgrid[:64, :64] / 31.5 - 1
    radius = np.hypot(x, y)
    disc = np.where(radius < 0.8, [[[0.85]], [[0.15]], [[0.1]]] - 0.3 * (x + y) / 2, 1.0)
    square = np.where((abs(x) < 0.6) & (abs(y) < 0.6), [[[0.1]], [[0.4]], [[0.9]]] + 0 * x, 1.0)
    square = np.where((abs(y) < 0.15) & (abs(x) < 0.5), [[[1.0]], [[0.8]], [[0.1]]] + 0 * x, square)
    ring = np.where(abs(radius - 0.6) < 0.2, [[[0.1]], [[0.7]], [[0.2]]] + 0 * x, 1.0)
    wave = 0.5 + 0.4 * np.sin([[[3.0]], [[5.0]], [[7.0]]] * x + 2 * y)
    levels = np.round(np.stack([disc, square, ring, wave]).clip(0, 1) * 255)
    return levels / 127.5 - 1


def digest(folder: Path) -> str:
    """The SHA-256 of all weights of a folder, in the order of their paths."""
    whole = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        whole.update(path.read_bytes())
    return whole.hexdigest()
