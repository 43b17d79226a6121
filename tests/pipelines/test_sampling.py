"""Text to image and image to image: what the arguments do, on a tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tinyldm
from tinyldm.errors import InputError
from tinyldm.pipelines.parts import to_images
from tinyldm.pipelines.pictures import to_pixels


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> tinyldm.LatentDiffusion:
    return tinyldm.load(checkpoint, backend="reference")


def arrays(images: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(image) for image in images])


def test_batches_are_prompt_by_prompt(model) -> None:
    images = arrays(model.text_to_image(["a", "b"], steps=2, num_images=2, seed=3))
    assert images.shape == (4, 16, 16, 3)
    assert len({image.tobytes() for image in images}) == 4


def test_seed_decides(model) -> None:
    first, again, other = (arrays(model.text_to_image("a", steps=2, seed=s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_guidance_of_one_is_the_prompt_alone(model) -> None:
    z = [
        arrays(model.text_to_image("a", negative_prompt=n, steps=2, guidance_scale=g))
        for n, g in (("", 1.0), ("b", 1.0), ("", 3.0), ("b", 3.0))
    ]
    np.testing.assert_array_equal(z[0], z[1])
    assert (z[2] != z[3]).any()
    assert (z[0] != z[2]).any()


def test_size_and_odd_latents(model) -> None:
    assert model.text_to_image("a", steps=1, height=10, width=22)[0].size == (22, 10)


@pytest.mark.parametrize("name", ["ddpm", "ddim", "pndm", "euler", "euler_a", "dpm++_2m", "dpm++_2m_karras"])
def test_every_sampler_ends_in_a_picture(model, name: str) -> None:
    assert model.text_to_image("a", steps=4, sampler=name)[0].size == (16, 16)


def test_progress_sees_every_step(model) -> None:
    seen = []

    def progress(steps):
        for i in steps:
            seen.append(i)
            yield i

    model.text_to_image("a", steps=4, progress=progress)
    assert seen == [0, 1, 2, 3]


def test_a_single_run_holds_one_network_at_a_time(model) -> None:
    def held() -> set[str]:
        return {name for name, n in once.networks.items() if any(node._cache for node in n.weights.modules())}

    def progress(steps):
        for i in steps:
            during.append(held())
            yield i

    during: list[set[str]] = []
    once = tinyldm.load(model.path, backend="reference")
    once.single_run = True
    pictures = once.text_to_image("a", steps=2, progress=progress)
    assert [names - {"unet"} for names in during] == [set(), set()]
    assert held() == {"vae"}
    np.testing.assert_array_equal(arrays(pictures), arrays(model.text_to_image("a", steps=2)))
    np.testing.assert_array_equal(arrays(pictures), arrays(once.text_to_image("a", steps=2)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"height": 15}, "height must be a multiple of 2"),
        ({"width": 0}, "width"),
        ({"steps": 0}, "steps"),
        ({"sampler": "magic"}, "magic"),
        ({"num_images": 0}, "num_images"),
        ({"seed": -(2**70)}, "seed"),
        ({"prompt": []}, "prompt"),
        ({"negative_prompt": ["a", "b"]}, "negative_prompt"),
    ],
)
def test_bad_arguments(model, arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        model.text_to_image(**{"prompt": "a", **arguments})


def test_image_to_image_strength(model) -> None:
    picture = model.text_to_image("a", steps=2)[0]
    near = arrays(model.image_to_image("b", picture, strength=0.1, steps=10))[0].astype(int)
    far = arrays(model.image_to_image("b", picture, strength=1.0, steps=10))[0].astype(int)
    kept = arrays(model.decode(model.encode(picture)))[0].astype(int)
    assert np.abs(near - kept).mean() < np.abs(far - kept).mean()


def test_image_to_image_takes_a_latent(model) -> None:
    latent = model.encode(model.text_to_image("a", steps=1)[0])
    assert len(model.image_to_image("b", latent, steps=2, num_images=2)) == 2
    with pytest.raises(InputError, match="latent"):
        model.image_to_image("b", latent[0])
    with pytest.raises(InputError, match="strength"):
        model.image_to_image("b", latent, strength=1.5)
    with pytest.raises(InputError, match="strength"):
        model.image_to_image("b", latent, strength=0.01, steps=5)


def test_encode_draws_with_a_seed(model) -> None:
    picture = Image.new("RGB", (16, 16), "red")
    mean, drawn, again = model.encode(picture), model.encode(picture, seed=1), model.encode(picture, seed=1)
    np.testing.assert_array_equal(drawn, again)
    assert (mean != drawn).any()
    posterior_mean, _ = model.vae.encode(to_pixels(picture))
    np.testing.assert_allclose(mean, posterior_mean * 0.18215, rtol=1e-6)


def test_pixels_and_pictures_are_inverse() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    picture = Image.fromarray(np.moveaxis(np.repeat(levels, 3, 0), 0, -1).copy())
    pixels = to_pixels(picture)
    assert pixels.min() == -1
    assert pixels.max() == 1
    np.testing.assert_array_equal(arrays(to_images(pixels))[0], np.asarray(picture))


def test_transparency_becomes_white() -> None:
    picture = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert (to_pixels(picture) == 1).all()


def test_prepared_context_changes_nothing(model) -> None:
    context = model.text_encoder(model.tokenizer.encode(["a", "b"]))
    z = tinyldm.random.torch_randn((2, 4, 8, 8), seed=0)
    prepared = model.unet.prepare(context)
    np.testing.assert_array_equal(model.unet(z, 7, prepared), model.unet(z, 7, context))
    with pytest.raises(InputError, match="prepared for 2 samples"):
        model.unet(z[:1], 7, prepared)


def test_an_inversion_begins_with_a_picture_and_its_noise_makes_it_again() -> None:
    """The embedded checkpoint's apple comes back from its noise; without a picture, or with a mask, there is none."""
    model = tinyldm.load()
    apple = model.text_to_image("red apple", steps=20, guidance_scale=4.0, seed=0)[0]
    way: list[np.ndarray] = []
    settings: dict[str, Any] = {"sampler": "ddim_inverse", "steps": 30, "guidance_scale": 1.0}
    model.image_to_image("red apple", apple, strength=1.0, **settings, callback=lambda step: way.append(step.latent))
    again = model.text_to_image("red apple", noise=way[-1], steps=30, guidance_scale=1.0)[0]
    assert np.abs(np.asarray(again, np.float64) - np.asarray(apple)).mean() < 4
    with pytest.raises(InputError, match="leads from a picture to its noise"):
        model.text_to_image("red apple", **settings)
    with pytest.raises(InputError, match="no mask"):
        model.inpaint("red apple", apple, Image.new("L", (64, 64), 255), **settings)
