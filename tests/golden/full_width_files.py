"""The published models as files: what is recognised of their names and shapes, the weights made when they are read."""

from __future__ import annotations

import json
import math

from golden.family_files import shapes_of
from golden.full_width_cases import DIFFUSERS, FULL_WIDTH, Published
from golden.model_checks import SeededSource
from golden.provenance import HERE, load_golden

from tinyldm.checkpoints.base import TensorSource
from tinyldm.checkpoints.components import text_encoder
from tinyldm.checkpoints.recognise import recognise
from tinyldm.checkpoints.recognised import Component, Recognised
from tinyldm.checkpoints.views import RenamedSource
from tinyldm.models.build import expected

# What is too small to need a golden of its own at this width, and CLIP's text encoder, whose golden is diffusers'.
SMALL = {
    "classes-1000": ("ClassEmbedder", {"num_classes": 1000, "embed_dim": 512}),
    "classes-1001": ("ClassEmbedder", {"num_classes": 1001, "embed_dim": 512}),
    "segments": ("SpatialRescaler", {"in_channels": 182, "out_channels": 3, "n_stages": 2}),
}


def source_of(name: str) -> SeededSource:
    """A case's tensors under the original's names."""
    return SeededSource(shapes_of(load_golden(f"full_width/{name}")[0]), 0, {})


def published_file(name: str, case: Published) -> Recognised:
    """What a file of a case in original names is recognised as."""
    source = source_of(name)
    prefix = {"unet": "model.diffusion_model.", "bert": "cond_stage_model.transformer."}.get(case.kind, "")
    renamed: TensorSource = RenamedSource(source, {prefix + n: n for n in source.names})
    return recognise(renamed)


def component_of(name: str, case: Published) -> Component:
    """The class, config and tensors of a case."""
    if case.repository == DIFFUSERS:
        return Component(case.kind, case.parameters, source_of(name))
    if name == "sd2-text-encoder":  # which leaves out the tower's last layer
        source = source_of(name)
        made = text_encoder(source, penultimate=True)
        assert made is not None
        return made
    return next(iter(published_file(name, case).components.values()))


def parameters_of(part: str) -> int:
    """How many numbers a part of a published model has, by the architecture that the code makes of it."""
    if part in SMALL:
        class_name, config = SMALL[part]
    elif part == "clip-l":
        config = json.loads((HERE / "configs" / "sd15_text_encoder.json").read_text())
        class_name = "CLIPTextModel"
    else:
        component = component_of(part, FULL_WIDTH[part])
        class_name, config = component.class_name, component.config
    return sum(math.prod(shape) for shape in expected(class_name, config).values())
