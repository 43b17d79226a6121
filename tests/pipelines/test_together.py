"""Settings of different kinds in one picture: edits that are guided, in tiles, on seamless pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_checkpoints import (
    write_asymmetric,
    write_controlnet,
    write_image_encoder,
    write_inpainting,
    write_ip_adapter,
    write_pix2pix,
    write_sd,
)

import tinyldm
from tinyldm.errors import InputError
from tinyldm.pipelines.conditioners import Conditioning
from tinyldm.pipelines.pix2pix import threefold

WRITERS: dict[str, Callable[[Path], Path]] = {
    **{"sd": write_sd, "told": write_inpainting, "asymmetric": write_asymmetric, "edit": write_pix2pix}
}
STEPS = {"steps": 2, "seed": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("together")
    for name, write in WRITERS.items():
        write(folder / name)
    write_controlnet(folder / "control")
    write_ip_adapter(folder / "models" / "ip.safetensors", "sd", "projection")
    write_image_encoder(folder / "models" / "image_encoder")
    return folder


def load(folder: Path, name: str) -> tinyldm.LatentDiffusion:
    more = {"controlnet": folder / "control", "ip_adapter": folder / "models" / "ip.safetensors"}
    return tinyldm.load(folder / name, backend="reference", dtype="float64", **more)


def photo(size: tuple[int, int] = (24, 16)) -> Image.Image:
    levels = np.random.default_rng(3).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(levels)


def mask(size: tuple[int, int] = (24, 16)) -> Image.Image:
    levels = np.zeros(size[::-1], np.uint8)
    levels[4:12, 6:18] = 255
    return Image.fromarray(levels)


def painted(model: tinyldm.LatentDiffusion, **more: object) -> np.ndarray:
    return np.asarray(model.inpaint("a", photo(), mask(), **STEPS, **more)[0], int)


@pytest.mark.parametrize("name", ["sd", "told"])
def test_what_is_painted_is_guided(folder: Path, name: str) -> None:
    model = load(folder, name)
    plain = painted(model)
    guides = [lambda scale: model.controlled(photo(), scale), lambda scale: model.prompted_by(photo(), scale)]
    for guided in guides:
        np.testing.assert_array_equal(painted(guided(0.0)), plain)
        assert (painted(guided(1.0)) != plain).any()


def test_an_edit_is_guided(folder: Path) -> None:
    model = load(folder, "edit")

    def edited(model: tinyldm.LatentDiffusion) -> np.ndarray:
        return np.asarray(model.edit("a", photo(), **STEPS)[0], int)

    plain = edited(model)
    for guided in (lambda scale: model.controlled(photo(), scale), lambda scale: model.prompted_by(photo(), scale)):
        np.testing.assert_array_equal(edited(guided(0.0)), plain)
        assert (edited(guided(1.0)) != plain).any()


def test_of_three_predictions_the_last_alone_sees_the_picture_that_is_a_prompt() -> None:
    keys = np.arange(4.0)[:, None, None]  # of nothing for two pictures, then of each
    guide = object()
    made = threefold(Conditioning(keys, images={"a": [(keys, -keys)]}, guided=True, guide=guide), np.ones((2, 1, 1, 1)))
    assert made.images is not None
    for array, sign in zip(made.images["a"][0], (1, -1), strict=True):
        np.testing.assert_array_equal(sign * array.ravel(), [0, 1, 0, 1, 2, 3])
    assert made.guide is guide


@pytest.mark.parametrize("name", ["sd", "told"])
def test_what_is_painted_is_decoded_in_tiles(folder: Path, name: str) -> None:
    model = load(folder, name)
    tiled = model.tiled(8)
    whole, called = tiled.vae.walk_up, []
    tiled.vae.walk_up = lambda *args: called.append(len(args)) or whole(*args)
    np.testing.assert_allclose(painted(tiled), painted(model), atol=1)
    assert called


def test_a_decoder_that_is_shown_the_known_part_has_no_tiles_which_is_said_before_the_work(folder: Path) -> None:
    model = load(folder, "asymmetric").tiled(8)
    with pytest.raises(InputError, match="not computed in tiles"):
        painted(model, progress=lambda calls: pytest.fail("the work has begun"))
    model.text_to_image("a", **STEPS)  # which shows it nothing


def test_what_is_painted_is_seamless(folder: Path) -> None:
    model = load(folder, "sd")
    assert (painted(model, seamless="both") != painted(model)).any()
    np.testing.assert_array_equal(painted(model, seamless="both")[0], painted(model)[0])  # what is known stays


def test_a_way_between_prompts_is_guided_and_seamless(folder: Path) -> None:
    model = load(folder, "sd").controlled(photo(), 0.7).prompted_by(photo())
    settings = {"steps": 2, "seamless": "both", "height": 16, "width": 24}
    first, _, last = (np.asarray(image) for image in model.interpolate(["a", "b"], 3, **settings))
    np.testing.assert_array_equal(first, np.asarray(model.text_to_image("a", seed=0, **settings)[0]))
    np.testing.assert_array_equal(last, np.asarray(model.text_to_image("b", seed=0, **settings)[0]))


@pytest.fixture
def guides(run: object) -> list[str]:
    """The options of two pictures that guide, in the folder that commands run in."""
    here = Path.cwd()
    write_controlnet(here / "control")
    write_ip_adapter(here / "models" / "ip.safetensors", "sd", "projection")
    write_image_encoder(here / "models" / "image_encoder")
    photo((23, 15)).save("photo.png")
    mask((23, 15)).save("mask.png")
    control = ["--controlnet", "control", "--control-image", "photo.png"]
    return [*control, "--ip-adapter", "models/ip.safetensors", "--ip-image", "photo.png", "--steps", "2", "--seed", "1"]


def test_inpaint_is_guided_in_the_size_of_the_picture(run, guides: list[str]) -> None:
    options = ["--image", "photo.png", "--mask", "mask.png", "--vae-tiling", "--seamless", *guides]
    status, _, err = run("inpaint", "a", *options, "-o", "guided.png")
    assert status == 0, err
    with Image.open("guided.png") as image:
        assert image.size == (23, 15)
        assert image.text["seamless"] == "both"
        assert "photo.png" in image.text["guides"]


def test_interpolate_begins_with_the_guided_picture_of_sample(run, guides: list[str]) -> None:
    for command in (["interpolate", "a", "b", "--frames", "2"], ["sample", "a"]):
        status, _, err = run(
            *command, "--seamless", "--width", "24", "--height", "16", *guides, "-o", f"{command[0]}.png"
        )
        assert status == 0, err
    with Image.open("interpolate.png") as strip, Image.open("sample.png") as image:
        assert strip.size == (48, 16)
        assert "guides" in strip.text
        np.testing.assert_array_equal(np.asarray(strip)[:, :24], np.asarray(image))


def test_the_steps_of_a_seamless_picture_are_seamless(run) -> None:
    options = ["--seamless", "--steps", "2", "--sampler", "euler"]  # whose last latent is the last clean one
    status, _, err = run("sample", "a", *options, "--save-steps", "way.png", "-o", "a.png")
    assert status == 0, err
    with Image.open("way.png") as strip, Image.open("a.png") as image:
        width = image.width
        np.testing.assert_allclose(np.asarray(strip, int)[:, -2 * width : -width], np.asarray(image, int), atol=1)
