"""The XL models end to end, tiny: the latents that diffusers' pipelines end with."""

from __future__ import annotations

import numpy as np
import pytest
from golden.provenance import load_golden
from PIL import Image
from tiny_checkpoints import write_refiner, write_xl

import tinyldm
from tinyldm.pipelines.request import request
from tinyldm.pipelines.walk import latents

LATENTS, PROVENANCE = load_golden("pipelines/xl")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tinyldm.LatentDiffusion]:
    folder = tmp_path_factory.mktemp("xl")
    written = {"xl": write_xl(folder / "xl"), "refiner": write_refiner(folder / "refiner")}
    return {name: tinyldm.load(path, backend="reference") for name, path in written.items()}


def first_picture() -> Image.Image:
    """The red disc of the goldens, small."""
    y, x = np.mgrid[:64, :64]
    inside = ((x - 31.5) ** 2 + (y - 31.5) ** 2 < 24**2)[..., None]
    return Image.fromarray(np.where(inside, [220, 40, 30], 255).astype(np.uint8)).resize((16, 16))


@pytest.mark.parametrize("name", LATENTS)
def test_latents_are_the_original_ones(models, name: str) -> None:
    parts, case = models[name.split("_")[0]].parts, PROVENANCE["cases"][name]
    begin = {"image": first_picture()} if "strength" in case else {}
    wanted = request(**case, **begin, one_stream=True).resolved(parts)
    ((_, ours),) = latents(parts, wanted)
    wanted = LATENTS[name]
    assert ours.shape == wanted.shape
    assert np.abs(ours - wanted).max() <= 1e-4 * np.abs(wanted).max()


def test_cost_and_shapes_of_two_text_encoders(models) -> None:
    from tinyldm.descriptions import describe, describe_cost, describe_shapes

    assert "text_encoder_2" in describe(models["xl"])
    assert "text_encoder_2" in describe_shapes(models["refiner"])
    assert "text_encoder_2 × 2" in describe_cost(models["xl"], None, None, 2)
