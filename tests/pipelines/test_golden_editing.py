"""Editing end to end, tiny and in float64: the latents that diffusers' pipelines end with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from golden.provenance import load_golden
from PIL import Image
from tiny_checkpoints import write_depth, write_inpainting, write_pix2pix, write_sd, write_xl, write_xl_pix2pix

import tinyldm
from tinyldm.pipelines.request import request
from tinyldm.pipelines.walk import latents

LATENTS, PROVENANCE = load_golden("pipelines/editing")
CASES = PROVENANCE["cases"]
WRITE = {
    "told": write_inpainting,
    "blended": write_sd,
    "xl": write_xl,
    "edit": write_pix2pix,
    "editxl": write_xl_pix2pix,
    "depth": write_depth,
}
# The schedule's table of these is float32 in the original, and what is computed from it.
ROUNDED = ("euler", "euler_a", "dpm++_2m")


def picture() -> Image.Image:
    """The picture to edit, as the script that made the goldens draws it."""
    y, x = np.mgrid[:16, :16]
    waves = [np.sin(0.4 * x + 0.1 * y), np.cos(0.3 * y), np.sin(0.2 * (x - y))]
    return Image.fromarray(np.round(127.5 + 127.5 * np.stack(waves, -1)).astype(np.uint8))


def mask(kind: str) -> Image.Image:
    levels = np.zeros((16, 16), np.uint8)
    if kind == "told":
        levels[3:9, 5:14] = 255
        levels[12, 12] = 128
    else:
        levels[4:10, 6:14] = 255
    return Image.fromarray(levels)


def depth() -> np.ndarray:  # -> (24, 24)
    y, x = np.mgrid[:24, :24]
    return 3.0 + np.sin(0.3 * x) * y + 0.02 * x * x


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("editing")
    return {kind: write(folder / kind) for kind, write in WRITE.items()}


def wanted(name: str, **more) -> tinyldm.pipelines.request.Request:
    kind = name.split("_")[0]
    pictures = {"image": picture()}
    pictures |= {"mask": mask(kind)} if kind in ("told", "blended", "xl") else {}
    pictures |= {"depth": depth()} if kind == "depth" else {}
    case = dict(CASES[name])
    return request(**case, **pictures, one_stream=True, **more)


@pytest.mark.parametrize("name", CASES)
def test_latents_are_the_original_ones(folders: dict[str, Path], name: str) -> None:
    model = tinyldm.load(folders[name.split("_")[0]], backend="reference", dtype="float64")
    ((_, ours),) = latents(model.parts, wanted(name).resolved(model.parts))
    golden = LATENTS[name]
    assert ours.shape == golden.shape
    tolerance = 1e-6 if CASES[name]["sampler"] in ROUNDED else 1e-9
    assert np.abs(ours - golden).max() <= tolerance * np.abs(golden).max()
