"""The embedded checkpoint end to end: the same prompt, seed and sampler give the picture that diffusers gives."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from golden.provenance import load_golden
from PIL import Image

import tinyldm
from tinyldm.checkpoints.embedded import embedded

PICTURES, PROVENANCE = load_golden("pipelines/emoji")


@pytest.fixture(scope="module")
def models() -> dict[str, tinyldm.LatentDiffusion]:
    return {
        "fast": tinyldm.load(backend="numba", precision="fast"),
        "strict": tinyldm.load(backend="numba", precision="strict"),
        "reference": tinyldm.load(backend="reference"),
    }


def first_picture() -> Image.Image:
    """The red disc that image-to-image begins with, as the script that made the goldens draws it."""
    y, x = np.mgrid[:64, :64]
    inside = ((x - 31.5) ** 2 + (y - 31.5) ** 2 < 24**2)[..., None]
    return Image.fromarray(np.where(inside, [220, 40, 30], 255).astype(np.uint8))


def pictures(model: tinyldm.LatentDiffusion, case: dict) -> np.ndarray:
    images = model.image_to_image(image=first_picture(), **case) if "strength" in case else model.text_to_image(**case)
    return np.stack([np.asarray(image) for image in images])


def test_goldens_are_of_these_weights() -> None:
    for component, recorded in PROVENANCE["weights"].items():
        (file,) = (embedded() / component).glob("*.safetensors")
        assert hashlib.sha256(file.read_bytes()).hexdigest() == recorded, f"run make_pipelines.py: {file} has changed"


CHECKED = [("fast", name) for name in PICTURES] + [("strict", "text_ddim"), ("reference", "text_euler")]


@pytest.mark.parametrize(("mode", "name"), CHECKED)
def test_picture_is_the_original_one(models, mode: str, name: str) -> None:
    ours = pictures(models[mode], PROVENANCE["cases"][name]).astype(int)
    difference = np.abs(ours - PICTURES[name])
    assert ours.shape == PICTURES[name].shape
    assert (difference > 1).mean() <= 0.001, f"largest difference {difference.max()} levels"


def test_picture_is_not_trivial() -> None:
    assert PICTURES["text_ddim"].std() > 20
    assert (PICTURES["text_ddim"] != PICTURES["text_euler_a"]).any()


def test_fast_and_strict_give_the_same_picture(models) -> None:
    case = PROVENANCE["cases"]["text_25_steps"]
    fast, strict = (pictures(models[mode], case).astype(int) for mode in ("fast", "strict"))
    assert (np.abs(fast - strict) > 1).mean() <= 0.001


@pytest.mark.parametrize("precision", ["fast", "strict"])
def test_the_number_of_threads_changes_nothing(precision: str) -> None:
    from tinyldm import kernels

    before = kernels.threads()
    try:
        found = [
            pictures(tinyldm.load(precision=precision, threads=n), PROVENANCE["cases"]["text_ddim"]) for n in (1, 2, 4)
        ]
    finally:
        kernels.set_threads(before)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
