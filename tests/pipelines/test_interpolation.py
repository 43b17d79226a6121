"""Variations, the way between prompts and seeds, and pictures in a row as files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from golden.provenance import load_golden
from PIL import ExifTags, Image
from tiny_checkpoints import write_xl

import tinyldm
from tinyldm.diffusion.random import torch_randn
from tinyldm.errors import InputError
from tinyldm.pipelines.animation import StepFrames, check_animation, write_animation
from tinyldm.pipelines.interpolation import between
from tinyldm.pipelines.request import read_metadata, request
from tinyldm.pipelines.variation import varied
from tinyldm.pipelines.walk import Walk

GOLDEN, PROVENANCE = load_golden("pipelines/editing")


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> tinyldm.LatentDiffusion:
    return tinyldm.load(checkpoint, backend="reference")


def latents(model: tinyldm.LatentDiffusion, wanted, **how) -> np.ndarray:
    return np.concatenate([picture.latent for picture in model.pictures(wanted, Walk(**how))])


# Variations -----------------------------------------------------------------------------------------------------------


def test_a_variation_begins_with_the_web_interfaces_noise(model) -> None:
    case = dict(PROVENANCE["variation"])
    _, h, w = case.pop("shape")
    few = {"steps": 1, "guidance_scale": 1.0, "sampler": "ddim", "height": 2 * h, "width": 2 * w}
    ours = latents(model, request("a", **case, **few))
    given = request("a", **few).resolved(model.parts)
    wanted = latents(model, type(given)(**vars(given) | {"noise": GOLDEN["noise"][None]}))
    np.testing.assert_allclose(ours, wanted, rtol=0, atol=1e-4)
    assert np.abs(latents(model, request("a", seed=case["seed"], **few)) - wanted).max() > 0.01


def test_variations_have_one_seed_and_seeds_of_their_own(model) -> None:
    settings = {"steps": 2, "sampler": "euler_a", "seed": 3, "variation_strength": 0.4}
    wanted = request("a", num_images=2, variation_seed=8, **settings).resolved(model.parts)
    both = latents(model, wanted)
    alone = [latents(model, request("a", variation_seed=seed, **settings)) for seed in (8, 9)]
    np.testing.assert_array_equal(both, np.concatenate(alone))
    assert (both[0] != both[1]).any()
    said = wanted.metadata(1)
    assert {"seed": "3", "variation_seed": "9", "variation_strength": "0.4"}.items() <= said.items()
    np.testing.assert_array_equal(latents(model, read_metadata(said)), both[1:])


def test_how_far_a_variation_is(model) -> None:
    settings = {"steps": 1, "sampler": "ddim", "seed": 3}
    plain, near, far, other = (
        latents(model, request("a", **settings | more))
        for more in (
            {},
            {"variation_seed": 5, "variation_strength": 0.1},
            {"variation_seed": 5, "variation_strength": 1.0},
            {"seed": 5},
        )
    )
    assert 0 < np.abs(near - plain).mean() < np.abs(far - plain).mean()
    np.testing.assert_allclose(far, other, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [
        {"variation_strength": 0.5},
        {"variation_seed": 1},
        {"variation_seed": 1, "variation_strength": 1.5},
        {"variation_seed": 1, "variation_strength": -0.5},
        {"variation_seed": 1, "variation_strength": float("nan")},
    ],
)
def test_what_is_no_variation(settings: dict) -> None:
    with pytest.raises(InputError, match="variation_strength must be above 0"):
        request("a", **settings)
    with pytest.raises(InputError, match="seed"):
        request("a", variation_seed=2**64, variation_strength=0.5)


# Interpolation --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to_seed", [None, 9])
@pytest.mark.parametrize("sampler", ["ddim", "euler_a"])
def test_a_way_begins_and_ends_with_the_pictures_of_its_ends(model, sampler: str, to_seed: int | None) -> None:
    """Whatever a sampler draws on the way: that is the first seed's in all frames."""
    few = {"steps": 2, "sampler": sampler, "guidance_scale": 3.0}
    way = latents(model, between(model.parts, ["a", "b", "c"], 5, to_seed, seed=4, **few))
    for k, prompt in ((0, "a"), (2, "b"), (4, "c")):
        if to_seed is not None and (k == 2 or (k == 4 and sampler != "ddim")):
            continue
        few["seed"] = 4 if k == 0 or to_seed is None else to_seed
        np.testing.assert_allclose(way[k : k + 1], latents(model, request(prompt, **few)), atol=1e-4)
    assert all(np.abs(way[k] - way[k + 1]).max() > 1e-4 for k in range(4))


def test_a_way_between_seeds(model) -> None:
    few = {"steps": 2, "sampler": "ddim"}
    way = latents(model, between(model.parts, ["a"], 3, 9, seed=4, **few))
    for k, seed in ((0, 4), (2, 9)):
        np.testing.assert_allclose(way[k : k + 1], latents(model, request("a", seed=seed, **few)), atol=1e-4)
    middle = varied(torch_randn((3, 4, 8, 8), 4), between(model.parts, ["a"], 3, 9, seed=4, **few), range(3))[1]
    assert abs(middle.std() - 1) < 0.1  # a straight line would have 0.71


def test_the_contexts_are_mixed(model, tmp_path: Path) -> None:
    xl = tinyldm.load(write_xl(tmp_path / "xl"), backend="reference")
    for guidance in (1.0, 4.0):
        found = between(xl.parts, ["a", "b"], 5, None, guidance_scale=guidance, height=24).conditions
        ends = xl.parts.conditioner.encode(["a", "b"], ["", ""], guidance, (24, 16))
        assert found.guided == (guidance > 1)
        first = 5 if found.guided else 0
        for name in ("context", "text_embeds", "time_ids"):
            rows, pair = (c.context if name == "context" else c.arrays[name] for c in (found, ends))
            a, b = pair[-2:]
            np.testing.assert_allclose(rows[first + 1], 0.75 * a + 0.25 * b, rtol=1e-5, atol=1e-6)
            np.testing.assert_array_equal(rows[first + 4], b)


@pytest.mark.parametrize(
    ("prompts", "frames", "to_seed", "settings", "message"),
    [
        (["a"], 4, None, {}, "two prompts at least, or a second seed"),
        (["a", "b"], 1, None, {}, "frames must be 2 or more"),
        (["a", "b", "c"], 2, None, {}, "frames must be 3 or more"),
        (["a", "b"], 2.5, None, {}, "frames must be 2 or more"),
        (["a", "b"], 4, None, {"sampler": "magic"}, "magic"),
        (["a", "b"], 4, None, {"variation_seed": 1, "variation_strength": 0.5}, "no variations"),
    ],
)
def test_where_there_is_no_way(model, prompts, frames, to_seed, settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        between(model.parts, prompts, frames, to_seed, **settings)


# Files ----------------------------------------------------------------------------------------------------------------


def frames() -> list[Image.Image]:
    return [Image.new("RGB", (8, 6), (40 * k, 0, 255 - 40 * k)) for k in range(5)]


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_files_hold_all_frames_and_the_settings(kind: str, tmp_path: Path) -> None:
    file, said = tmp_path / f"way.{kind}", {"prompt": "löwe", "seed": 4}
    check_animation(file)
    write_animation(file, frames(), said)
    with Image.open(file) as image:
        if kind == "png":
            assert image.size == (40, 6)
            assert image.text == {"prompt": "löwe", "seed": "4", "tinyldm": json.dumps(said)}
            np.testing.assert_array_equal(np.asarray(image)[:, 24:32], np.asarray(frames()[3]))
            return
        assert image.n_frames == 5
        text = image.info["comment"].decode() if kind == "gif" else image.getexif()[ExifTags.Base.ImageDescription]
        assert json.loads(text) == {"prompt": "löwe", "seed": "4"}
        image.seek(3)
        assert np.abs(np.asarray(image.convert("RGB")).astype(int) - np.asarray(frames()[3])).max() < 12
        assert image.info["loop"] == 0


def test_another_kind_is_refused(tmp_path: Path) -> None:
    for name, message in (("way.mp4", "wanted an animation"), ("none/way.gif", "there is no folder")):
        with pytest.raises(InputError, match=message):
            check_animation(tmp_path / name)


def test_the_way_from_noise_to_picture(model) -> None:
    wanted = request("a", num_images=2, steps=3, seed=4).resolved(model.parts)
    kept, seen = StepFrames(model.parts, wanted), []
    made = list(model.pictures(wanted, Walk(batch_size=2, callback=lambda s: (seen.append(s), kept.after_step(s))[0])))
    for k, picture in enumerate(made):
        found = kept.frames(picture)
        assert len(found) == 4
        for image, step in zip(found, seen, strict=False):
            np.testing.assert_array_equal(np.asarray(image), np.asarray(model.decode(step.clean[k : k + 1])[0]))
        assert found[-1] is picture.image
    assert not kept.seen


def test_steps_of_an_inpainting_have_the_known_pixels(model) -> None:
    image, mask = Image.new("RGB", (16, 16), "red"), np.zeros((16, 16))
    mask[4:8] = 1
    wanted = request("a", image=image, mask=mask, steps=2).resolved(model.parts)
    kept = StepFrames(model.parts, wanted)
    (picture,) = model.pictures(wanted, Walk(callback=kept.after_step))
    for frame in kept.frames(picture):
        np.testing.assert_array_equal(np.asarray(frame)[mask == 0], np.asarray(image)[mask == 0])
