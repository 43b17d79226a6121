"""Canny edges: those of OpenCV to the last pixel, those of a loop over the pixels, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from golden.provenance import load_golden
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

import tinyldm
from tinyldm import InputError

GOLDEN, PROVENANCE = load_golden("pipelines/canny")
LEVELS = st.one_of(st.integers(0, 255), st.sampled_from([0, 100, 200]))  # many alike, so that neighbours are equal


@pytest.mark.parametrize("name", [name for name in GOLDEN if " " in name])
def test_the_edges_are_those_of_opencv(name: str) -> None:
    picture, low, high = name.split()
    edges = np.asarray(tinyldm.canny(GOLDEN[picture], float(low), float(high)))
    np.testing.assert_array_equal(edges, np.repeat(GOLDEN[name][..., None], 3, axis=-1))


def by_loop(levels: np.ndarray, low: float, high: float) -> np.ndarray:
    """The same, pixel by pixel, from the definition: directions by angle, and edges grown from the strong pixels."""
    height, width = levels.shape[:2]
    gx, gy = np.zeros((height, width), int), np.zeros((height, width), int)
    for i in range(height):
        for j in range(width):
            around = [
                [levels[min(max(i + a, 0), height - 1), min(max(j + b, 0), width - 1)].astype(int) for b in (-1, 0, 1)]
                for a in (-1, 0, 1)
            ]
            x = sum(weight * (row[2] - row[0]) for weight, row in zip((1, 2, 1), around, strict=True))
            y = sum(weight * (around[2][b] - around[0][b]) for b, weight in enumerate((1, 2, 1)))
            best = int(np.argmax(abs(x) + abs(y)))
            gx[i, j], gy[i, j] = x[best], y[best]
    strength = np.pad(abs(gx) + abs(gy), 1)
    candidates, strong = set(), []
    for i in range(height):
        for j in range(width):
            m, angle = strength[i + 1, j + 1], math.degrees(math.atan2(abs(gy[i, j]), abs(gx[i, j])))
            if m <= math.floor(low):
                continue
            if angle < 22.5:
                largest = m > strength[i + 1, j] and m >= strength[i + 1, j + 2]
            elif angle > 67.5:
                largest = m > strength[i, j + 1] and m >= strength[i + 2, j + 1]
            else:
                s = -1 if (gx[i, j] < 0) != (gy[i, j] < 0) else 1
                largest = m > strength[i, j + 1 - s] and m > strength[i + 2, j + 1 + s]
            if largest:
                candidates.add((i, j))
                strong += [(i, j)] if m > math.floor(high) else []
    edges = np.zeros((height, width), bool)
    while strong:
        i, j = strong.pop()
        if (i, j) in candidates and not edges[i, j]:
            edges[i, j] = True
            strong += [(i + a, j + b) for a in (-1, 0, 1) for b in (-1, 0, 1)]
    return edges


@given(
    arrays(np.uint8, st.tuples(st.integers(1, 7), st.integers(1, 7), st.sampled_from([1, 3])), elements=LEVELS),
    st.floats(0, 500),
    st.floats(0, 500),
)
def test_a_loop_over_the_pixels_sees_the_same(levels: np.ndarray, low: float, more: float) -> None:
    edges = np.asarray(tinyldm.canny(levels, low, low + more))[..., 0]
    np.testing.assert_array_equal(edges == 255, by_loop(levels, low, low + more))
    assert set(np.unique(edges)) <= {0, 255}


@given(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=LEVELS), st.floats(0, 300))
def test_raising_a_threshold_takes_edges_away(levels: np.ndarray, low: float) -> None:
    def edges(low: float, high: float) -> np.ndarray:
        return np.asarray(tinyldm.canny(levels, low, high)) > 0

    assert (edges(low, 400) >= edges(low, 500)).all()
    assert (edges(low, 400) >= edges(low + 50, 400)).all()


def test_pictures_of_any_kind_and_smoothing() -> None:
    grey = Image.fromarray(np.kron([[0, 255], [255, 0]], np.ones((8, 8))).astype(np.uint8))
    edges = tinyldm.canny(grey)
    assert edges.mode == "RGB"
    assert edges.size == grey.size
    assert np.asarray(edges).any()
    np.testing.assert_array_equal(np.asarray(tinyldm.canny(grey.convert("RGBA"))), np.asarray(edges))
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    assert (np.asarray(tinyldm.canny(noise)) > 0).mean() > 0.1
    assert not np.asarray(tinyldm.canny(noise, sigma=3)).any()


@pytest.mark.parametrize(
    ("image", "arguments", "message"),
    [
        (np.zeros((4, 4), np.uint8), {"low": 200, "high": 100}, "thresholds must be 0 ≤ low ≤ high, not 200 and 100"),
        (np.zeros((4, 4), np.uint8), {"low": -1}, "not -1 and 200"),
        (np.zeros((4, 4), np.uint8), {"high": math.nan}, "not 100 and nan"),
        (np.zeros((4, 4), np.uint8), {"sigma": -1}, "sigma must be a number of pixels from 0, not -1"),
        (np.zeros((4, 4)), {}, r"8-bit levels \(H, W\) or \(H, W, C\), not float64 of shape \(4, 4\)"),
        (np.zeros((0, 4), np.uint8), {}, r"of shape \(0, 4\)"),
    ],
)
def test_what_is_refused(image: np.ndarray, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tinyldm.canny(image, **arguments)
