"""Layouts: which tokens they are, and what is none."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyldm.errors import InputError
from tinyldm.pipelines.layout import Box, layout_tokens, read_layout


def test_tokens_of_a_small_grid() -> None:
    """The example of the original: of 16 tokens the grid is 4 × 4; a corner is the number of its cell."""
    boxes = [Box(5, 2 / 3, 1 / 3, 1.0, 1.0), Box(0, 0.0, 0.0, 0.3, 0.4)]
    found = layout_tokens(boxes, 3 * 3 + 2, 16)
    assert found.tolist() == [5, 6, 15, 0, 0, 5, 15, 15, 15, 0, 15]


@given(st.lists(st.tuples(st.integers(0, 8190), *[st.floats(0, 1)] * 4), max_size=30))
def test_tokens_name_the_boxes(rows: list[tuple]) -> None:
    """Of the published model: 30 things, a grid of 90 × 90, the whole picture at the end."""
    boxes = [Box(n, min(a, c), min(b, d), max(a, c), max(b, d)) for n, a, b, c, d in rows]
    found = layout_tokens(boxes, 92, 8192)
    assert found.shape == (92,)
    assert found[-2:].tolist() == [0, 8099]
    assert (found[3 * len(boxes) : -2] == 8191).all()
    for box, (number, *corners) in zip(boxes, found[:-2].reshape(30, 3), strict=False):
        assert number == box.number
        for token, (x, y) in zip(corners, [box[1:3], box[3:5]], strict=True):
            assert abs(token % 90 / 89 - x) <= 0.5 / 89 + 1e-9
            assert abs(token // 90 / 89 - y) <= 0.5 / 89 + 1e-9


def test_layouts_are_read() -> None:
    assert read_layout("[[3, 0, 0.5, 1, 1]]") == [Box(3, 0, 0.5, 1, 1)]
    for text in ("", "{}x", "3", "[[3]]", "[[1,2,3,4,5,6]]", '{"a": 1}'):
        with pytest.raises(InputError, match="wanted JSON such as"):
            read_layout(text)
    for row in ([3, 0.5, 0, 0.4, 1], [3, 0, 0, 2, 1], [3, -0.1, 0, 1, 1], [3, "0", 0, 1, 1], [3, None, 0, 1, 1]):
        with pytest.raises(InputError, match="from 0 to 1 in this order"):
            read_layout(json.dumps([row]))
    with pytest.raises(InputError, match="31 things; the model takes 30"):
        layout_tokens([Box(1, 0, 0, 1, 1)] * 31, 92, 8192)
    for number in (-1, 8191, 1.5, True, "cat"):
        with pytest.raises(InputError, match="a number from 0 to 8190"):
            layout_tokens([Box(number, 0, 0, 1, 1)], 92, 8192)
    assert np.array_equal(layout_tokens([], 5, 16), [15, 15, 15, 0, 15])
