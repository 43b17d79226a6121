"""`sample --from`: a picture made again from what its file says."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin


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


@pytest.mark.parametrize("name", ["a.jpg", "a.webp"])
def test_pictures_of_other_formats_repeat_too(run, name: str) -> None:
    words = ("--steps", "2", "--negative-prompt", "x", "--seed", "3")
    assert run("sample", "a", "-o", "a.png", *words)[0] == 0
    assert run("sample", "a", "-o", name, *words)[0] == 0
    assert run("sample", "--from", name, "-o", "again.png")[0] == 0
    assert Path("again.png").read_bytes() == Path("a.png").read_bytes()
    with Image.open(name) as image:
        assert image.format == {"a.jpg": "JPEG", "a.webp": "WEBP"}[name]


def test_options_take_the_place_of_the_files(run) -> None:
    first = ("--steps", "2", "--seed", "3", "--rng", "cuda")
    assert run("sample", "a", "-o", "a.png", *first)[0] == 0
    others = ("--steps", "3", "--guidance-scale", "2", "--negative-prompt", "b", "--sampler", "euler", "--width", "32")
    assert run("sample", "--from", "a.png", "-n", "2", *others, "-o", "changed.png")[0] == 0
    assert run("sample", "a", *first, *others, "-n", "2", "-o", "plain.png")[0] == 0
    for number in ("0001", "0002"):
        assert Path(f"changed-{number}.png").read_bytes() == Path(f"plain-{number}.png").read_bytes()


@pytest.mark.parametrize("size", [(), ("--width", "32", "--height", "16"), ("--resize", "pad")])
def test_a_picture_that_began_from_another_is_repeated_from_it(run, size: tuple[str, ...]) -> None:
    Image.linear_gradient("L").resize((41, 27)).save("start.png")
    words = ("--image", "start.png", "--steps", "4", "--strength", "0.5", "--seed", "8")
    assert run("img2img", "a", *words, *size, "-o", "a.png")[0] == 0
    status, _, err = run("img2img", "--from", "a.png", "--image", "start.png", "-o", "again.png")
    assert (status, "was made with" in err) == (0, False)
    assert Path("again.png").read_bytes() == Path("a.png").read_bytes()
    with Image.open("a.png") as image:
        assert image.text["image"] == "start.png"
    Image.new("RGB", (41, 27)).save("start.png")
    status, _, err = run("img2img", "--from", "a.png", "--image", "start.png", "-o", "other.png")
    assert (status, "note: a.png: was made with image_sha256" in err) == (0, True)


def test_the_settings_of_a_plain_picture_begin_from_another(run) -> None:
    Image.new("RGB", (16, 16)).save("start.png")
    assert run("sample", "a", "-o", "a.png", "--steps", "4", "--seed", "1")[0] == 0
    assert run("img2img", "--from", "a.png", "--image", "start.png", "-o", "b.png")[0] == 0
    with Image.open("b.png") as image:
        assert (image.text["prompt"], image.text["strength"], image.text["steps"]) == ("a", "0.8", "4")


def test_a_picture_of_the_web_interface(run) -> None:
    text = PngImagePlugin.PngInfo()
    settings = "Steps: 2, Sampler: Euler a, CFG scale: 7, Seed: 5, Size: 16x24, Model: v1-5, ENSD: 31337"
    text.add_text("parameters", f"a\nNegative prompt: b\n{settings}")
    Image.new("RGB", (16, 24)).save("web.png", pnginfo=text)
    status, _, err = run("sample", "--from", "web.png", "-o", "a.png")
    assert status == 0
    assert "web.png: made by another program" in err
    assert "web.png: of its settings not repeated: ENSD: 31337" in err
    assert "web.png: was made with model v1-5, and this run has tiny" in err
    words = ("--negative-prompt", "b", "--steps", "2", "--sampler", "Euler a uniform", "--guidance-scale", "7")
    size = ("--width", "16", "--height", "24", "--rng", "cuda", "--seed", "5")
    assert run("sample", "a", *words, *size, "-o", "same.png")[0] == 0
    assert Path("a.png").read_bytes() == Path("same.png").read_bytes()


def test_another_sampler_takes_the_place_of_one_with_options(run) -> None:
    words = ("--steps", "2", "--sampler-option", "eta=0.5", "--seed", "3")
    assert run("sample", "a", *words, "-o", "a.png")[0] == 0
    status, _, err = run("sample", "--from", "a.png", "--sampler", "euler", "-o", "b.png")
    assert (status, "note: a.png: eta=0.5 is of its sampler ddim" in err) == (0, True)
    assert run("sample", "a", "--steps", "2", "--seed", "3", "--sampler", "euler", "-o", "c.png")[0] == 0
    assert Path("b.png").read_bytes() == Path("c.png").read_bytes()


def test_another_sampler_takes_the_place_of_one_that_is_not_known(run) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", "a\nSteps: 2, Sampler: DPM adaptive, CFG scale: 7, Seed: 5, Size: 16x24")
    Image.new("RGB", (16, 24)).save("web.png", pnginfo=text)
    status, _, err = run("sample", "--from", "web.png", "-o", "a.png")
    assert (status, "web.png: sampler 'DPM adaptive' is unknown" in err, "--sampler takes its" in err) == (
        2,
        True,
        True,
    )
    assert run("sample", "--from", "web.png", "--sampler", "euler", "-o", "a.png")[0] == 0


def test_another_model_and_another_arithmetic_are_said(run) -> None:
    assert run("sample", "a", "-o", "a.png", "--steps", "1", "--dtype", "float64")[0] == 0
    status, _, err = run("sample", "--from", "a.png", "-o", "b.png")
    assert (status, "was made with dtype float64, and this run has the usual" in err) == (0, True)


def test_what_does_not_say_how_it_was_made_is_refused(run) -> None:
    Image.new("RGB", (16, 16)).save("plain.png")
    assert run("img2img", "a", "--image", "plain.png", "--steps", "2", "-o", "changed.png")[0] == 0
    assert run("sample", "a", "-n", "2", "--grid", "2", "--steps", "1", "-o", "sheet.png")[0] == 0
    for file, words, message in (
        ("plain.png", (), "does not say its 'seed'"),
        ("changed.png", (), "began from another picture (plain.png)"),
        ("none.png", (), "no such file"),
        ("plain.png", ("a",), "leave out 'a'"),
        ("sheet.png", (), "sheet.png: holds several pictures"),
    ):
        status, _, err = run("sample", *words, "--from", file, "-o", "out.png")
        assert status == 2
        assert message in err
    assert not Path("out.png").exists()
