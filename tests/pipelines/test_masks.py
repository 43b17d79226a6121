"""Masks: what is taken for one, what it does to pictures, and pictures that are extended."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tinyldm.errors import InputError
from tinyldm.pipelines.masks import (
    Margins,
    as_mask,
    composite,
    filled,
    latent_mask,
    masked,
    outpainted,
    padded,
    softened,
)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def black_and_white(width: int, height: int, *corners: int) -> Image.Image:
    levels = np.zeros((height, width), np.uint8)
    left, top, right, bottom = corners
    levels[top:bottom, left:right] = 255
    return Image.fromarray(levels)


def test_a_mask_is_parted_at_half_grey() -> None:
    picture = noise(3, 1)
    wanted = [[0, 255, 255]]
    grey = Image.fromarray(np.array([[127, 128, 200]], np.uint8))
    assert np.asarray(as_mask(grey, picture)).tolist() == wanted
    assert np.asarray(as_mask(grey.convert("RGB"), picture)).tolist() == wanted
    assert np.asarray(as_mask(np.array([[0.4, 0.51, 1]]), picture)).tolist() == wanted
    assert np.asarray(as_mask(np.array([[False, True, True]]), picture)).tolist() == wanted


def test_what_is_transparent_is_the_mask() -> None:
    picture = noise(5, 4).convert("RGBA")
    alpha = np.full((4, 5), 255, np.uint8)
    alpha[1, 2], alpha[1, 3] = 0, 254  # a soft edge is painted, too: what stays is the picture's own
    picture.putalpha(Image.fromarray(alpha))
    whole, mask = masked(picture, None)
    assert np.argwhere(np.asarray(mask)).tolist() == [[1, 2], [1, 3]]
    known = np.asarray(mask) == 0
    np.testing.assert_array_equal(np.asarray(whole)[known], np.asarray(picture.convert("RGB"))[known])


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (None, "nothing in the picture is transparent"),
        (Image.new("L", (4, 5), "white"), "its size 4×5 must be that of the picture, 5×4"),
        (Image.new("L", (5, 4)), "nothing in it is white"),
        (Image.new("RGBA", (5, 4), (255, 255, 255, 3)), "partly transparent"),
        (np.ones((4, 5, 3)), r"must have the shape \(H, W\)"),
        (np.full((4, 5), 255), "values from 0 to 1"),
        (np.zeros((0, 5)), "values from 0 to 1"),
        (np.full((4, 5), np.nan), "values from 0 to 1"),
    ],
)
def test_what_is_no_mask(mask, message: str) -> None:
    with pytest.raises(InputError, match=message):
        as_mask(mask, noise(5, 4))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 2, 4, 8]), st.integers(0, 2**32 - 1))
def test_a_latent_is_new_where_any_of_its_pixels_is(width: int, height: int, factor: int, seed: int) -> None:
    white = np.random.default_rng(seed).random((height, width)) < 0.1
    found = latent_mask(Image.fromarray(np.where(white, 255, 0).astype(np.uint8)), factor)
    wanted = np.zeros(found.shape[2:])
    for y, x in np.argwhere(white):
        wanted[y // factor, x // factor] = 1
    np.testing.assert_array_equal(found[0, 0], wanted)
    assert found.shape == (1, 1, -(-height // factor), -(-width // factor))


def test_padding_leaves_the_picture_where_it_is() -> None:
    picture = noise(5, 7)
    whole = padded(picture, 4, edge=True)
    assert whole.size == (8, 8)
    np.testing.assert_array_equal(np.asarray(whole)[:7, :5], np.asarray(picture))
    np.testing.assert_array_equal(np.asarray(whole)[7, 5:], np.asarray(picture)[[6], [4]].repeat(3, 0))
    assert np.asarray(padded(black_and_white(5, 7, 0, 0, 5, 7), 4, edge=False))[:, 5:].max() == 0


def test_a_composite_has_the_old_pixels_where_the_mask_is_black() -> None:
    new, old, mask = noise(12, 8, 1), noise(10, 7, 2), black_and_white(10, 7, 2, 1, 6, 5)
    found, inside = np.asarray(composite(new, old, mask)), np.asarray(mask) > 0
    np.testing.assert_array_equal(found[~inside], np.asarray(old)[~inside])
    np.testing.assert_array_equal(found[inside], np.asarray(new)[:7, :10][inside])


@pytest.mark.parametrize("blur", [0, 1, 2, 5, 8])
def test_a_soft_edge_fades_outside_the_mask(blur: int) -> None:
    mask = black_and_white(60, 50, 20, 20, 40, 30)
    soft = np.asarray(softened(mask, blur)).astype(int)
    assert (soft[20:30, 20:40] == 255).all()
    ramp = soft[25, 39 : 39 + blur + 3]
    assert (np.diff(ramp) <= 0).all()
    assert ramp[-1] == 0
    assert (soft > 0).sum() == 200 if blur == 0 else (soft > 0).sum() > 200


def test_what_is_filled_has_the_colours_around_it() -> None:
    levels = np.zeros((40, 40, 3), np.uint8)
    levels[:, :20], levels[:, 20:] = (250, 0, 0), (0, 0, 250)
    picture, mask = Image.fromarray(levels), black_and_white(40, 40, 5, 10, 35, 30)
    found = np.asarray(filled(picture, mask)).astype(int)
    known = np.asarray(mask) == 0
    np.testing.assert_array_equal(found[known], levels[known])
    assert found[20, 7, 0] > 200 > 50 > found[20, 7, 2]
    assert found[20, 33, 2] > 200 > 50 > found[20, 33, 0]
    assert filled(picture, Image.new("L", (40, 40), "white")).size == (40, 40)  # nothing is known: no error


def test_outpainting_extends_the_picture() -> None:
    picture = noise(6, 4)
    wide, mask = outpainted(picture, Margins(left=3, top=1, bottom=2))
    assert wide.size == mask.size == (9, 7)
    np.testing.assert_array_equal(np.asarray(wide)[1:5, 3:], np.asarray(picture))
    wanted = np.full((7, 9), 255)
    wanted[1:5, 3:] = 0
    np.testing.assert_array_equal(np.asarray(mask), wanted)
    _, both = outpainted(picture, Margins(right=2), black_and_white(6, 4, 0, 0, 1, 1))
    wanted = np.zeros((4, 8))
    wanted[0, 0] = wanted[:, 6:] = 255
    np.testing.assert_array_equal(np.asarray(both), wanted)
    for margins in (Margins(), Margins(left=-1, right=2)):
        with pytest.raises(InputError, match="at least one side"):
            outpainted(picture, margins)
