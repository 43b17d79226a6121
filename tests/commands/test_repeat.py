"""`sample --from`: a picture made again from what its file says."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image


def test_a_picture_is_repeated_exactly(run) -> None:
    words = ("--steps", "3", "--sampler", "euler_a", "--guidance-scale", "3", "--guidance-rescale", "0.5")
    assert run("sample", "a", "b", "-o", "a.png", "--seed", "5", "--sampler-option", "steps_offset=1", *words)[0] == 0
    assert run("sample", "--from", "a-0002.png", "-o", "again.png")[0] == 0
    assert Path("again.png").read_bytes() == Path("a-0002.png").read_bytes()
    assert run("sample", "--from", "a-0002.png", "-o", "other.png", "--seed", "9")[0] == 0
    with Image.open("other.png") as image:
        assert (image.text["seed"], image.text["prompt"]) == ("9", "b")


@pytest.mark.parametrize("rng", ["cuda", "cuda:256", "numpy"])
def test_a_seed_means_the_stream_that_is_asked_for(run, rng: str) -> None:
    words = ("--steps", "2", "--rng", rng, "--sampler", "euler_a")
    assert run("sample", "a", "-o", "a.png", "-n", "2", "--seed", "5", *words)[0] == 0
    assert run("sample", "--from", "a-0002.png", "-o", "again.png")[0] == 0
    assert Path("again.png").read_bytes() == Path("a-0002.png").read_bytes()
    assert run("sample", "a", "-o", "alone.png", "--seed", "6", *words)[0] == 0
    assert Path("alone.png").read_bytes() == Path("a-0002.png").read_bytes()
    assert run("sample", "a", "-o", "torch.png", "--seed", "6", *words, "--rng", "torch")[0] == 0
    with Image.open("torch.png") as other, Image.open("alone.png") as image:
        assert "rng" not in other.text
        assert image.text["rng"] == rng
        assert list(other.get_flattened_data()) != list(image.get_flattened_data())


def test_a_seed_that_a_stream_does_not_have_is_refused(run) -> None:
    for words, message in (
        (("--rng", "numpy", "--seed", str(2**32 - 1), "-n", "2"), "NumPy's range"),
        (("--rng", "dice"), "rng: 'dice' is unknown"),
    ):
        status, _, err = run("sample", "a", "-o", "a.png", *words)
        assert (status, message in err, Path("a.png").exists()) == (2, True, False)


def test_what_does_not_say_how_it_was_made_is_refused(run) -> None:
    Image.new("RGB", (16, 16)).save("plain.png")
    assert run("img2img", "a", "--image", "plain.png", "--steps", "2", "-o", "changed.png")[0] == 0
    for file, words, message in (
        ("plain.png", (), "does not say its 'prompt'"),
        ("changed.png", (), "began from another picture (plain.png)"),
        ("none.png", (), "no such file"),
        ("plain.png", ("a",), "leave out 'a'"),
    ):
        status, _, err = run("sample", *words, "--from", file, "-o", "out.png")
        assert status == 2
        assert message in err
    assert not Path("out.png").exists()
