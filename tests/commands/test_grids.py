"""`--rows` and `--columns`: one labelled picture of many."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinyldm.commands import sampling


def test_a_grid_from_the_command_line(run) -> None:
    words = ("--rows", "steps=1,2,2", "--columns", "guidance-scale=1,4", "--seed", "3", "-o", "sheet.webp")
    status, out, _ = run("sample", "a", *words)
    assert (status, out.splitlines()[0]) == (0, "sheet.webp")
    assert "6 cells, 4 pictures computed" in out
    assert run("sample", "a", "--steps", "2", "--guidance-scale", "4", "--seed", "3", "-o", "a.png")[0] == 0
    with Image.open("sheet.webp") as sheet, Image.open("a.png") as alone:
        np.testing.assert_array_equal(np.asarray(sheet.convert("RGB"))[-16:, -16:], np.asarray(alone))
    status, _, err = run("sample", "--from", "sheet.webp", "-o", "b.png")
    assert (status, "holds several pictures" in err) == (2, True)


def test_a_grid_of_a_picture_made_before_and_of_one_that_begins_from_another(run) -> None:
    assert run("sample", "a", "--steps", "2", "--seed", "3", "-o", "a.png")[0] == 0
    assert run("sample", "--from", "a.png", "--columns", "seed=3,4", "-o", "sheet.png")[0] == 0
    with Image.open("sheet.png") as sheet, Image.open("a.png") as alone:
        np.testing.assert_array_equal(np.asarray(sheet)[-16:, -36:-20], np.asarray(alone))
    words = ("--image", "a.png", "--steps", "4", "--seed", "1")
    assert run("img2img", "b", *words, "--rows", "strength=0.25,1", "-o", "sheet.png")[0] == 0
    assert run("img2img", "b", *words, "--strength", "1", "-o", "one.png")[0] == 0
    with Image.open("sheet.png") as sheet, Image.open("one.png") as alone:
        np.testing.assert_array_equal(np.asarray(sheet)[-16:, -16:], np.asarray(alone))


def test_cells_that_are_finished_are_kept(run, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []

    def interrupt_third(_: object) -> None:
        steps.append(1)
        if len(steps) == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(sampling, "watch", interrupt_third)
    status, _, err = run("sample", "a", "--columns", "steps=1,1,5", "--seed", "3", "-o", "sheet.png")
    assert (status, err.splitlines()[-1]) == (130, "tinyldm: interrupted; kept sheet.png")
    with Image.open("sheet.png") as sheet:
        assert (np.asarray(sheet)[-16:, -16:] == 255).all()
        assert (np.asarray(sheet)[-16:, -36:-20] != 255).any()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a", "--rows", "steps=1", "-n", "2"], "one picture a cell"),
        (["a", "b", "--rows", "steps=1"], "one picture a cell"),
        (["a", "--rows", "steps=1", "--grid", "2"], "one picture a cell"),
        (["a", "--rows", "stps=1"], "not of 'stps'"),
        (["a", "--rows", "width=17"], "multiple of"),
        (["a", "--rows", "steps=1", "-o", "sheet.gif"], "must end in"),
    ],
)
def test_what_a_grid_refuses(run, words: list[str], message: str) -> None:
    status, _, err = run("sample", *words)
    assert (status, message in err, list(Path().iterdir())) == (2, True, [])
