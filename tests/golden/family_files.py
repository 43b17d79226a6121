"""Small single files in original names, put together from the goldens' tables of names and shapes."""

from __future__ import annotations

import json
import zlib

import numpy as np
from golden.family_cases import BUFFERS, SINGLE_FILES
from golden.provenance import load_golden

from tinyldm.golden.seeded import seeded_weight


def shapes_of(golden: dict[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """The table of names and shapes in a golden."""
    return {name: tuple(shape) for name, shape in json.loads(zlib.decompress(golden["shapes"].tobytes())).items()}


def single_file(family: str) -> dict[str, np.ndarray]:
    """A whole file of a family: UNet, KL f8 first stage, text encoders, left-overs of the training."""
    parts = {
        "model.diffusion_model.": shapes_of(load_golden(f"families/unet-{family}")[0]),
        "first_stage_model.": shapes_of(load_golden("families/first-stage-kl-f8")[0]),
        **SINGLE_FILES[family],
        "": BUFFERS,
    }
    return {
        prefix + name: seeded_weight(prefix + name, shape)
        for prefix, shapes in parts.items()
        for name, shape in shapes.items()
    }
