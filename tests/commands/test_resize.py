"""`--resize`: what the commands do with a picture whose sides do not fit the model."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tinyldm.checkpoints.safetensors import read_safetensors


@pytest.mark.parametrize("how", ["crop", "pad", "stretch"])
def test_a_picture_that_does_not_fit_is_brought_to_size(run, how: str) -> None:
    Image.new("RGB", (17, 15), "red").save("odd.png")
    status, _, err = run("encode", "odd.png", "-o", "a.safetensors", "--resize", how)
    assert status == 0
    assert "note: the picture of 17×15 is" in err
    with read_safetensors("a.safetensors") as file:
        assert file.shape("latent")[2:] == (8, 8)
    assert run("img2img", "a", "--image", "odd.png", "--steps", "2", "-o", "a.png", "--resize", how)[0] == 0
    with Image.open("a.png") as image:
        assert image.size == (16, 16)


def test_none_refuses_it(run) -> None:
    Image.new("RGB", (17, 15), "red").save("odd.png")
    for command in (["encode", "odd.png"], ["img2img", "a", "--image", "odd.png"]):
        status, _, err = run(*command, "--resize", "none")
        assert status == 2
        assert "17×15 must be a multiple of 2 pixels" in err
    assert not Path("odd.safetensors").exists()
