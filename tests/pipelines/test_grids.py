"""Grids over two settings: every cell is the picture of its settings, and none is computed twice."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFont

import tinyldm
from tinyldm.errors import InputError
from tinyldm.pipelines.grids import GAP, LINES, NOTHING, Axis, calls, cells, drawn, merged, read_axis, wrapped
from tinyldm.pipelines.walk import Walk


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> tinyldm.LatentDiffusion:
    return tinyldm.load(checkpoint, backend="reference")


def cell(sheet: Image.Image, shape: tuple[int, int], i: int, j: int, size: tuple[int, int] = (16, 16)) -> np.ndarray:
    """The pixels of a cell, counted from the lower right corner, where there are no labels."""
    left = sheet.width - (shape[1] - j) * (size[0] + GAP) + GAP
    top = sheet.height - (shape[0] - i) * (size[1] + GAP) + GAP
    return np.asarray(sheet)[top : top + size[1], left : left + size[0]]


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        (("steps", [1, 2]), ("sampler", ["euler", "ddim", "Euler a"])),
        (("prompt", ["a", "b"]), ("seed", [7, 3, 4])),
        (("guidance_scale", [1.0, 4.0]), ("rng", ["torch", "cuda", "numpy"])),
        (("negative_prompt", ["", "c"]), ("eta", [0.0, 0.5, 1.0])),
    ],
)
def test_every_cell_is_the_picture_of_its_settings(model: tinyldm.LatentDiffusion, rows, columns) -> None:
    base = {"prompt": "a", "steps": 2, "seed": 1}
    sheet = model.grid(rows=dict([rows]), columns=dict([columns]), **base)
    for i, j in itertools.product(range(2), range(3)):
        asked = {**base, rows[0]: rows[1][i], columns[0]: columns[1][j]}
        asked |= {"sampler_options": {"eta": asked.pop("eta")}} if "eta" in asked else {}
        alone = model.text_to_image(**asked)[0]
        np.testing.assert_array_equal(cell(sheet, (2, 3), i, j), np.asarray(alone))


def test_what_is_the_same_is_computed_once(model: tinyldm.LatentDiffusion) -> None:
    wanted = cells(
        {"prompt": "a", "negative_prompt": "b"},
        Axis("guidance_scale", (0.0, 1.0, 3.0, 3)),
        Axis("sampler", ("euler", "Euler")),
    )
    made = merged(model.parts, wanted)
    assert sorted((one.guidance_scale, len(one.prompts)) for one, _ in made) == [(1.0, 1), (3.0, 1)]
    assert sorted(place for _, places in made for of_picture in places for place in of_picture) == sorted(wanted)
    many = cells({"prompt": None, "steps": 2}, Axis("prompt", ("a", "b", "a")), Axis("seed", (1, 2)))
    ((one, places),) = merged(model.parts, many)
    assert one.prompts == ("a", "a", "b", "b")
    assert [len(of_picture) for of_picture in places] == [2, 2, 1, 1]
    counted: list[int] = []
    made = merged(model.parts, many)
    expected = calls(model.parts, made)

    def progress(calls: range):
        for call in calls:
            counted.append(call)
            yield call

    from tinyldm.pipelines.grids import grid_pictures

    assert len(dict(grid_pictures(model.parts, made, Walk(progress=progress)))) == 6
    assert len(counted) == expected == 8  # four pictures of two steps, one by one on the reference backend


def test_cells_of_several_sizes(model: tinyldm.LatentDiffusion) -> None:
    sheet = model.grid("a", rows={"width": [16, 32]}, columns={"height": [16, 24]}, steps=1)
    assert cell(sheet, (2, 2), 1, 1, (32, 24)).shape == (24, 32, 3)
    alone = model.text_to_image("a", width=32, height=24, steps=1)[0]
    np.testing.assert_array_equal(cell(sheet, (2, 2), 1, 1, (32, 24)), np.asarray(alone))


def test_one_side_alone(model: tinyldm.LatentDiffusion) -> None:
    for sides in ({"rows": {"seed": [1, 2]}}, {"columns": {"seed": [1, 2]}}):
        sheet = model.grid("a", steps=1, **sides)
        shape = (2, 1) if "rows" in sides else (1, 2)
        second = cell(sheet, shape, shape[0] - 1, shape[1] - 1)
        np.testing.assert_array_equal(second, np.asarray(model.text_to_image("a", steps=1, seed=2)[0]))


def test_labels_are_drawn_where_they_belong() -> None:
    images = {(i, j): Image.new("RGB", (40, 30), "green") for i in range(2) for j in range(2)}
    del images[0, 1]  # a run that was interrupted
    plain = drawn(images, NOTHING, NOTHING)
    assert plain.size == (40, 30)
    sheet = drawn(images, Axis("steps", (5, 25)), Axis("guidance_scale", (1.0, 7.5)))
    grey = np.asarray(sheet.convert("L"))
    width, height = sheet.width - 2 * (40 + GAP) + GAP, sheet.height - 2 * (30 + GAP) + GAP
    assert (grey[:height, width:] < 128).any()  # labels of columns
    assert (grey[height:, :width] < 128).any()  # labels of rows
    assert (grey[:height, :width] == 255).all()  # nothing in the corner
    assert (cell(sheet, (2, 2), 0, 1, (40, 30)) == 255).all()


def test_labels_say_the_setting_and_its_value() -> None:
    assert Axis("guidance_scale", (1.0, 7.5)).labels() == ["guidance scale 1", "guidance scale 7.5"]
    assert Axis("prompt", ("a fox",)).labels() == ["a fox"]


def test_a_long_name_is_parted_where_it_is_joined() -> None:
    assert wrapped("dpm++_2m_sde_karras", ImageFont.load_default(12), 60) == "dpm++_\n2m_sde_\nkarras"


@given(st.text(), st.integers(1, 200))
@settings(deadline=None)
def test_labels_fit(text: str, width: int) -> None:
    font = ImageFont.load_default(12)
    lines = wrapped(text, font, width).split("\n")
    assert len(lines) <= LINES
    for line in lines[:-1]:
        assert font.getlength(line) <= width or len(line) == 1
    if len(lines) < LINES:
        assert "".join(text.split()) == "".join(lines).replace(" ", "")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("steps=4, 8", Axis("steps", (4, 8))),
        ("guidance-scale=1,7.5", Axis("guidance_scale", (1.0, 7.5))),
        ('prompt="red apple, small",fox', Axis("prompt", ("red apple, small", "fox"))),
        ("eta=0,0.5", Axis("eta", (0, 0.5))),
        ("solver_type=heun,midpoint", Axis("solver_type", ("heun", "midpoint"))),
    ],
)
def test_axes_are_read(text: str, wanted: Axis) -> None:
    assert read_axis(text) == wanted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps", "want NAME=VALUE,VALUE"),
        ("stps=1", "not of 'stps'; take one of prompt"),
        ("steps=one", "can't be read"),
        ("steps=", "can't be read|at least one"),
    ],
)
def test_axes_that_are_none(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_axis(text)


def test_what_a_grid_refuses(model: tinyldm.LatentDiffusion) -> None:
    for arguments, message in (
        ({"rows": {"steps": [1]}, "columns": {"steps": [2]}}, "both of steps"),
        ({"rows": {"steps": [1], "seed": [2]}}, "of one setting each"),
        ({"rows": {"steps": "12"}}, "a list of values"),
        ({"rows": {"sampler": ["eulr"]}}, "unknown"),
        ({"rows": {"seed": [1]}, "num_images": 2}, "one picture a cell"),
        ({"rows": {"steps": [1]}, "columns": {"eta": [0.5]}, "sampler": "euler"}, "no option eta"),
    ):
        with pytest.raises(InputError, match=message):
            model.grid("a", **arguments)
