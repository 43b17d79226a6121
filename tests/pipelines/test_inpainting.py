"""Inpainting by any model: what is known stays, whatever the sampler; what is asked for and can't be is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_checkpoints import (
    SCHEDULER,
    write_asymmetric,
    write_depth,
    write_inpainting,
    write_ldm,
    write_ldm_inpainting,
    write_pix2pix,
    write_sd,
    write_segments,
)

import tinyldm
from tinyldm.diffusion.samplers import list_samplers, make_sampler
from tinyldm.diffusion.samplers.base import denoise
from tinyldm.errors import InputError
from tinyldm.pipelines.masks import Margins
from tinyldm.pipelines.request import request
from tinyldm.pipelines.walk import Walk

FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}
FORWARD = [name for name, *_ in list_samplers() if name != "ddim_inverse"]


def picture(width: int = 16, height: int = 16) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(0.4 * x + 0.1 * y), np.cos(0.3 * y), np.sin(0.2 * (x - y))]
    return Image.fromarray(np.round(127.5 + 127.5 * np.stack(waves, -1)).astype(np.uint8))


def mask(width: int = 16, height: int = 16) -> np.ndarray:
    levels = np.zeros((height, width))
    levels[3:9, 5:14] = 1
    return levels


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tinyldm.LatentDiffusion]:
    folder = tmp_path_factory.mktemp("inpainting")
    writers = {"sd": write_sd, "told": write_inpainting, "ldm": write_ldm, "edit": write_pix2pix, "depth": write_depth}
    writers |= {"first": write_ldm_inpainting, "segments": write_segments}
    models = {name: tinyldm.load(write(folder / name), backend="reference") for name, write in writers.items()}
    return models | {"flow": models["sd"].replaced(scheduler_config=FLOW)}


def family_of(sampler: str) -> str:
    try:
        make_sampler(sampler, FLOW, 4)
    except tinyldm.TinyldmError:
        return "sd"
    return "flow"


@pytest.mark.parametrize("sampler", FORWARD)
@pytest.mark.parametrize("strength", [None, 0.7])
def test_what_is_known_ends_as_the_pictures_latent(models, sampler: str, strength: float | None) -> None:
    """For every sampler: at each step it is the picture's latent with as much noise as the sampler says."""
    model = models[family_of(sampler)]
    settings = {} if strength is None else {"strength": strength}
    seen = []
    wanted = request("a", image=picture(), mask=mask(), steps=4, sampler=sampler, seed=2, **settings)
    (made,) = model.pictures(wanted, Walk(callback=seen.append))
    levels = np.zeros((8, 8), bool)
    levels[1:5, 2:7] = True  # two pixels are a latent
    clean = model.encode(picture(), seed=2)
    np.testing.assert_allclose(made.latent[..., ~levels], clean[..., ~levels], atol=1e-5)
    assert (np.abs(made.latent - clean)[..., levels] > 1e-3).any()
    steps = make_sampler(sampler, model.scheduler_config, 4)
    noise = tinyldm.diffusion.random.TorchGenerator(2).randn((2, 4, 8, 8))[1:]
    for step in seen[:-1]:
        noisy = steps.add_noise(clean, noise, step.index + 1)
        np.testing.assert_allclose(step.latent[..., ~levels], noisy[..., ~levels], atol=2e-4 * np.abs(noisy).max())


class Normals:
    def __init__(self) -> None:
        self.rng = np.random.default_rng(1)

    def randn(self, shape: tuple[int, ...]) -> np.ndarray:
        return self.rng.standard_normal(shape)


@pytest.mark.parametrize("sampler", FORWARD)
def test_a_sampler_adds_the_noise_that_its_steps_leave(sampler: str) -> None:
    """With a model that knows the clean latent: what is left of noise after a step has the deviation of what is added.

    A run of `dpm_2m_sde` is left out: it extrapolates the noise that it draws itself.
    """
    if sampler == "dpm_2m_sde":
        return
    flow = family_of(sampler) == "flow"
    steps = make_sampler(sampler, FLOW if flow else {**SCHEDULER, "prediction_type": "v_prediction"}, 8)
    x0, noise = (np.random.default_rng(seed).standard_normal((1, 4, 64, 64)) for seed in (2, 3))
    table = np.sqrt((1 - steps.alpha_bar) / steps.alpha_bar)

    def predict(z: np.ndarray, t: np.number) -> np.ndarray:
        if flow:
            return (z - x0) / (float(t) / 1000)
        sigma = np.interp(float(t), np.arange(1000), table)
        a, s = 1 / np.hypot(1, sigma), sigma / np.hypot(1, sigma)
        return a * (z - a * x0) / s - s * x0

    def check(step) -> None:
        if step.index + 1 < len(steps):
            left = (step.latent - steps.add_noise(x0, 0 * noise, step.index + 1)).std()
            added = steps.add_noise(0 * x0, noise, step.index + 1).std()
            assert abs(left / added - 1) < (0.1 if sampler == "pndm" else 0.025)

    denoise(predict, steps, steps.add_noise(x0, noise, 0), Normals(), callback=check)


def test_the_first_inpainting_models_are_given_what_the_original_gives(models) -> None:
    """A picture that is black where it is new, and the mask behind it, from -1 to 1."""
    model, new = models["first"], mask()[None, None]
    pixels = np.moveaxis(np.asarray(picture(), np.float32) / 255, -1, 0)[None]
    concat = np.concatenate([model.encode(2 * (pixels * (1 - new)) - 1), 2 * new[:, :, ::2, ::2] - 1], axis=1)
    (wanted,) = model.from_conditions(concat=concat, steps=3, seed=4)
    (found,) = model.inpaint(None, picture(), mask(), steps=3, seed=4)
    np.testing.assert_array_equal(np.asarray(found)[mask() > 0], np.asarray(wanted)[mask() > 0])


@pytest.mark.parametrize("kind", ["sd", "told", "ldm", "first", "edit", "flow"])
def test_the_pixels_outside_the_mask_are_those_of_the_picture(models, kind: str) -> None:
    model = models[kind]
    prompt = None if kind in ("ldm", "first") else "a"
    for strength in (None,) if kind == "edit" else (None, 0.6):
        for size in ((16, 16), (21, 13)):
            (found,) = model.inpaint(prompt, picture(*size), mask(*size), strength=strength, steps=3, seed=1)
            assert found.size == size
            changed = (np.asarray(found) != np.asarray(picture(*size))).any(axis=-1)
            assert not changed[mask(*size) == 0].any()
            assert changed.sum() > 20


def test_a_picture_is_the_same_alone_and_in_a_group(models) -> None:
    for kind in ("sd", "told", "edit"):
        model, settings = models[kind], {"image": picture(), "mask": mask(), "steps": 3, "sampler": "euler_a"}
        both = [p.latent for p in model.pictures(request("a", num_images=2, seed=5, **settings), Walk(batch_size=2))]
        alone = [next(model.pictures(request("a", seed=seed, **settings))).latent for seed in (5, 6)]
        np.testing.assert_allclose(np.concatenate(both), np.concatenate(alone), rtol=1e-4, atol=1e-4)
        assert (both[0] != both[1]).any()


def test_a_soft_edge_changes_little_outside(models) -> None:
    hard, soft = (
        np.asarray(models["sd"].inpaint("a", picture(), mask(), steps=2, mask_blur=blur)[0]).astype(int)
        for blur in (0, 4)
    )
    inside = mask() > 0
    np.testing.assert_array_equal(hard[inside], soft[inside])
    assert (hard[~inside] != soft[~inside]).any()
    np.testing.assert_array_equal(soft[14:], np.asarray(picture())[14:])


def test_a_decoder_that_takes_the_known_part_is_given_it(tmp_path: Path) -> None:
    model = tinyldm.load(write_asymmetric(tmp_path / "asymmetric"), backend="reference")
    image, white = picture(40, 60), mask(40, 60)
    wanted = request("a", image=image, mask=white, steps=2, seed=3)
    (made,) = model.pictures(wanted)
    whole, new = np.zeros((1, 3, 64, 40)), np.zeros((1, 1, 64, 40))
    whole[0] = np.moveaxis(np.pad(np.asarray(image), ((0, 4), (0, 0), (0, 0)), mode="edge") / 127.5 - 1, -1, 0)
    new[0, 0, :60] = white
    pixels = model.vae.decode(model.vae.unscale(made.latent), image=whole, mask=new)
    levels = np.moveaxis(np.clip(127.5 * pixels[0] + 127.5, 0, 255), 0, -1)[:60]
    assert np.abs(np.asarray(made.image)[white > 0] - levels[white > 0]).max() <= 1
    without = np.asarray(model.decode(made.latent)[0])[:60].astype(int)
    assert (np.asarray(made.image)[white > 0] != without[white > 0]).any()
    np.testing.assert_array_equal(np.asarray(made.image)[white == 0], np.asarray(image)[white == 0])


def test_outpainting_and_erasing(models) -> None:
    (wide,) = models["sd"].inpaint("a", picture(), outpaint=Margins(left=5, bottom=8), steps=2)
    assert wide.size == (21, 24)
    np.testing.assert_array_equal(np.asarray(wide)[:16, 5:], np.asarray(picture()))
    erased = picture().convert("RGBA")
    erased.putalpha(Image.fromarray(np.where(mask(), 0, 255).astype(np.uint8)))
    (found,) = models["sd"].inpaint("a", erased, steps=2)
    np.testing.assert_array_equal(np.asarray(found)[mask() == 0], np.asarray(picture())[mask() == 0])


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("sd", {"image": picture(), "mask": mask(8, 16)}, "its size 8×16 must be"),
        ("sd", {"image": picture(), "mask": mask(), "strength": 1.5}, "strength"),
        ("sd", {"image": picture(), "mask": mask(), "strength": 0.01}, "leaves no step"),
        ("sd", {"image": picture(), "mask": mask(), "mask_blur": -1.0}, "mask_blur must be 0 or more"),
        ("sd", {"image": picture(), "strength": 0.5, "mask_blur": 2.0}, "there is none"),
        ("sd", {"mask": mask()}, "wanted the picture"),
        ("sd", {"image": np.zeros((1, 4, 8, 8)), "mask": mask()}, "wanted the picture as image, not its latent"),
        ("sd", {"image": picture()}, "edits by no instruction"),
        ("sd", {"image": picture(), "strength": 0.5, "image_guidance_scale": 2.0}, "does not edit by an instruction"),
        ("sd", {"depth": mask()}, "takes no map of depth"),
        ("sd", {"segments": mask()}, "takes no map of segments"),
        ("told", {}, "is an inpainting model"),
        ("told", {"image": picture(), "strength": 0.5}, "is an inpainting model"),
        ("edit", {}, "edits pictures by an instruction"),
        ("edit", {"image": picture(), "strength": 0.5}, "no strength"),
        ("edit", {"image": np.zeros((1, 4, 8, 8))}, "no latent, no strength"),
        ("edit", {"image": picture(), "image_guidance_scale": 0.5}, "image_guidance_scale must be 1 or more"),
        ("edit", {"image": picture(), "image_guidance_scale": 2.0, "guidance_scale": 1.0}, "above 1"),
        ("depth", {}, "takes a map of depth"),
        ("depth", {"depth": np.ones((8, 8))}, "equally far"),
        ("depth", {"depth": np.zeros((8, 8, 3))}, "a grey picture or an array"),
        ("segments", {}, "takes a map of segments"),
        ("segments", {"segments": picture()}, "a picture of RGB has colours"),
        ("segments", {"segments": np.full((16, 16), 5)}, "classes are 0 to 4, not 5 to 5"),
        ("segments", {"segments": np.zeros((16, 16))}, "an array .* of integers"),
        ("segments", {"segments": np.zeros((15, 16), int)}, "height must be a multiple of 2"),
        ("segments", {"segments": np.zeros((16, 16), int), "height": 32}, "the map is of 16×16, the picture of any×32"),
        (
            "segments",
            {"segments": np.zeros((16, 16), int), "image": picture(18), "mask": mask(18)},
            "the picture of 18×16",
        ),
    ],
)
def test_nothing_is_read_before_an_edit_is_refused(models, kind: str, settings: dict, message: str) -> None:
    model = tinyldm.load(models[kind].path, backend="reference")
    with pytest.raises(InputError, match=message):
        next(model.pictures(request(None if kind == "segments" else "a", steps=4, **settings)))
    assert not any(node._cache for network in model.networks.values() for node in network.weights.modules())


def test_an_instruction_inside_a_mask(models) -> None:
    (found,) = models["edit"].edit("a", picture(), mask=mask(), steps=2)
    np.testing.assert_array_equal(np.asarray(found)[mask() == 0], np.asarray(picture())[mask() == 0])
    (whole,) = models["edit"].edit("a", picture(), steps=2, image_guidance_scale=2.0)
    assert (np.asarray(whole) != np.asarray(picture())).any()


def test_the_settings_stand_in_the_metadata(models) -> None:
    edit, sd = models["edit"].parts, models["sd"].parts
    assert request("a", image=picture()).resolved(edit).metadata(0)["image_guidance_scale"] == "1.5"
    said = request("a", image=picture(), mask=mask(), mask_blur=3.0).resolved(sd).metadata(0)
    assert {"mask_blur": "3.0", "strength": "1.0"}.items() <= said.items()
    assert "image_guidance_scale" not in said


@pytest.mark.parametrize("size", [(8, 8), (24, 16)])
def test_pictures_from_a_map_of_depth(models, size: tuple[int, int]) -> None:
    """The size is that of the map where nothing else says it; the map's unit and offset change nothing."""
    y, x = np.mgrid[: size[1], : size[0]]
    model, near = models["depth"], (np.sin(0.3 * x) + 0.05 * y) * 1000 + 5000
    grey = Image.fromarray(near.astype(np.uint16))
    (found,) = model.text_to_image("a", depth=near, steps=2)
    assert found.size == size
    (again,) = model.text_to_image("a", depth=near * 7 - 3, steps=2)
    np.testing.assert_array_equal(np.asarray(found), np.asarray(again))
    (sixteen_bits,) = model.text_to_image("a", depth=grey, steps=2)
    assert np.abs(np.asarray(found).astype(int) - np.asarray(sixteen_bits)).max() <= 8
    assert model.text_to_image("a", depth=near, steps=2, height=32, width=16)[0].size == (16, 32)
    (flipped,) = model.text_to_image("a", depth=-near, steps=2)
    assert (np.asarray(flipped) != np.asarray(found)).any()


def test_pictures_from_a_map_of_segments(models) -> None:
    model, classes = models["segments"], np.arange(20)[:, None] // 5 + np.arange(24) % 2
    one_hot = np.eye(5)[classes].transpose(2, 0, 1)[None]
    (wanted,) = model.from_conditions(concat=model.spatial_rescaler(one_hot), steps=2, seed=3)
    for numbers in (classes, Image.fromarray(classes.astype(np.uint8)), Image.fromarray(classes.astype(np.int32))):
        (found,) = model.unconditional(segments=numbers, steps=2, seed=3)
        assert found.size == (24, 20)
        np.testing.assert_array_equal(np.asarray(found), np.asarray(wanted))
