"""The part of a picture around a mask, and masks as clients send them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from serving import WITHOUT

pytest.importorskip("starlette", reason=WITHOUT)
pytestmark = pytest.mark.extra
sides = st.integers(1, 60)


@st.composite
def masks(draw):
    """A mask with a white box in it, and the box."""
    width, height = draw(sides), draw(sides)
    left, top = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    right, bottom = draw(st.integers(left + 1, width)), draw(st.integers(top + 1, height))
    mask = Image.new("L", (width, height))
    mask.paste(255, (left, top, right, bottom))
    return mask, (left, top, right, bottom)


@settings(deadline=None)
@given(masks(), st.integers(0, 20), st.tuples(sides, sides))
def test_the_box_about_a_mask(drawn, padding, shape):
    from tinyldm.server.masking import around

    mask, white = drawn
    left, top, right, bottom = around(mask, padding, shape)
    assert 0 <= left <= max(0, white[0] - padding)
    assert 0 <= top <= max(0, white[1] - padding)
    assert min(mask.width, white[2] + padding) <= right <= mask.width
    assert min(mask.height, white[3] + padding) <= bottom <= mask.height
    width, height = right - left, bottom - top
    if width < mask.width and height < mask.height:  # the picture goes far enough for the shape
        assert abs(width * shape[1] - height * shape[0]) <= max(shape)


@settings(deadline=None)
@given(masks(), st.integers(0, 8), st.tuples(st.integers(4, 30), st.integers(4, 30)), st.integers(0, 2**32 - 1))
def test_what_is_laid_back_changes_nothing_outside_the_mask(drawn, padding, size, seed):
    from tinyldm.server.masking import Closer

    mask, _ = drawn
    rng = np.random.default_rng(seed)
    picture = Image.fromarray(rng.integers(0, 256, (mask.height, mask.width, 3), np.uint8))
    closer = Closer.of(picture, mask, padding, size, 0.0)
    small, white = closer.part(size)
    assert small.size == white.size == size
    back = np.asarray(closer.back(Image.new("RGB", size, (255, 0, 255))))
    inside = np.asarray(mask) > 0
    np.testing.assert_array_equal(back[~inside], np.asarray(picture)[~inside])
    assert (back[inside] == (255, 0, 255)).all()


def test_kinds_of_masks():
    from tinyldm.server.masking import is_transparent, mask_of, transparent

    grey = Image.new("L", (2, 2), 77)
    assert mask_of(grey).getpixel((0, 0)) == 77
    assert mask_of(grey.convert("RGBA")).getpixel((0, 0)) == 77
    seen = Image.new("RGBA", (2, 2), (9, 9, 9, 200))
    assert mask_of(seen).getpixel((0, 0)) == 200
    assert transparent(seen).getpixel((0, 0)) == 55
    assert not is_transparent(seen)
    seen.putpixel((1, 1), (0, 0, 0, 0))
    assert is_transparent(seen)
