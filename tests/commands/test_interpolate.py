"""`interpolate`, variations and `--save-steps` on the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tinyldm


def test_a_way_as_a_strip_and_as_an_animation(run, checkpoint: Path) -> None:
    words = ("interpolate", "a", "b", "--frames", "3", "--seed", "4", "--to-seed", "5", "--steps", "2")
    status, out, _ = run(*words, "-o", "way.png")
    assert (status, out.splitlines()) == (0, ["way.png", "seed 4"])
    model = tinyldm.load(checkpoint, backend="reference")
    wanted = model.interpolate(["a", "b"], 3, seed=4, to_seed=5, steps=2)
    with Image.open("way.png") as image:
        np.testing.assert_array_equal(np.asarray(image), np.concatenate([np.asarray(w) for w in wanted], axis=1))
        said = image.text
    assert {"prompt": "a\nb", "seed": "4", "to_seed": "5", "frames": "3", "steps": "2"}.items() <= said.items()
    for name in ("way.gif", "way.webp"):
        assert run(*words, "-o", name)[0] == 0
        with Image.open(name) as image:
            assert (image.n_frames, image.size) == (3, (16, 16))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("a", "b"), "-o FILE is missing"),
        (("a", "b", "-o", "way.mp4"), "wanted an animation"),
        (("a", "-o", "way.gif"), "two prompts at least"),
        (("a", "b", "-o", "way.gif", "-n", "2"), "leave out -n"),
        (("a", "b", "-o", "way.gif", "--save-steps", "x.gif"), "leave out --save-steps"),
        (("a", "b", "-o", "way.gif", "--from", "x.png", "--rows", "steps=1,2"), "leave out --from and --rows"),
        (("a", "b", "-o", "way.gif", "--preview", "2", "--show"), "leave out --preview and --show"),
        (("a", "<lora:ink:1>", "-o", "way.gif"), "name different LoRAs"),
        (("a", "b", "-o", "way.gif", "--frames", "1"), "frames must be 2 or more"),
        (("a", "b", "-o", "way.gif", "--variation-strength", "0.5"), "no variations"),
    ],
)
def test_what_is_refused(run, words: tuple[str, ...], message: str) -> None:
    status, _, err = run("interpolate", *words)
    assert status == 2
    assert message in err
    assert not Path("way.gif").exists()


def test_prompts_are_read_as_by_the_other_commands(run, checkpoint: Path) -> None:
    words = ("interpolate", "(a:1.3)", "b", "--frames", "2", "--seed", "4", "--steps", "2", "-o", "way.png")
    assert run(*words)[0] == 0
    weighted = np.asarray(Image.open("way.png"))
    model = tinyldm.load(checkpoint, backend="reference")
    wanted = model.interpolate(["(a:1.3)", "b"], 2, seed=4, steps=2, prompt_syntax="webui")
    np.testing.assert_array_equal(weighted, np.concatenate([np.asarray(w) for w in wanted], axis=1))
    assert run(*words, "--prompt-syntax", "plain")[0] == 0
    assert not np.array_equal(weighted, np.asarray(Image.open("way.png")))


@pytest.mark.parametrize("name", ["way.gif", "way.webp", "way.png"])
def test_a_way_is_not_taken_for_one_picture(run, name: str) -> None:
    assert run("interpolate", "a", "b", "--frames", "3", "--seed", "4", "--steps", "2", "-o", name)[0] == 0
    status, _, err = run("sample", "--from", name, "-o", "again.png")
    assert (status, f"{name}: holds the 3 pictures of a way" in err) == (2, True)


@pytest.mark.parametrize("name", ["steps.gif", "steps.webp", "steps.png"])
def test_the_steps_of_a_picture_repeat_it(run, name: str) -> None:
    words = ("sample", "a", "--steps", "2", "--seed", "4", "--sampler-option", "eta=0.5", "-o", "a.png")
    assert run(*words, "--save-steps", name)[0] == 0
    assert run("sample", "--from", name, "-o", "again.png")[0] == 0
    assert Path("again.png").read_bytes() == Path("a.png").read_bytes()


def test_steps_are_saved_beside_every_picture(run, checkpoint: Path) -> None:
    words = ("sample", "a", "--steps", "3", "--seed", "4", "-n", "2", "-o", "a.png")
    status, out, _ = run(*words, "--save-steps", "steps.png")
    assert status == 0
    assert out.splitlines()[:4] == ["a-0001.png", "a-0002.png", "steps-0001.png", "steps-0002.png"]
    for k in (1, 2):
        with Image.open(f"steps-000{k}.png") as strip, Image.open(f"a-000{k}.png") as picture:
            assert strip.size == (4 * 16, 16)
            assert strip.text == picture.text
            np.testing.assert_array_equal(np.asarray(strip)[:, 48:], np.asarray(picture))
    assert run(*words, "--save-steps", "none/steps.gif")[0] == 2
    assert run(*words, "--grid", "2", "--save-steps", "steps.gif")[0] == 0
    with Image.open("steps-0002.gif") as image:
        assert image.n_frames >= 2


def test_variations_are_made_and_repeated(run) -> None:
    words = ("sample", "a", "--steps", "2", "--seed", "4", "-n", "2", "-o", "a.png")
    assert run(*words, "--variation-strength", "0.3", "--variation-seed", "7")[0] == 0
    with Image.open("a-0002.png") as image:
        assert {"seed": "4", "variation_seed": "8", "variation_strength": "0.3"}.items() <= image.text.items()
    assert run("sample", "--from", "a-0002.png", "-o", "again.png")[0] == 0
    assert Path("again.png").read_bytes() == Path("a-0002.png").read_bytes()
    status, out, _ = run(*words, "--variation-strength", "0.3")  # a drawn seed is said
    assert status == 0
    assert "variation seed" in out
    status, _, err = run(*words, "--variation-strength", "1.3")
    assert status == 2
    assert "variation_strength must be above 0 and at most 1" in err
