"""A checkpoint as one file in the original layout: its tensors, and what the header states, so that it reads back.

Names and shapes of the original layout tell a family; all else of a configuration would be taken from that family when
the file is read. So the header says it, in the names that others use where there are such (`modelspec.…`, the marks of
v-prediction in XL's files), and in our own (`tinyldm.…`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tinyldm.checkpoints.base import MemorySource, TensorSource
from tinyldm.checkpoints.families import Heads
from tinyldm.checkpoints.names.autoencoder import autoencoder_links
from tinyldm.checkpoints.names.links import LinkedSource
from tinyldm.checkpoints.names.text import bert_links, openclip_links
from tinyldm.checkpoints.names.unet import controlnet_links, unet_links
from tinyldm.checkpoints.recognise import recognise
from tinyldm.checkpoints.recognised import Component, Config, Recognised
from tinyldm.checkpoints.stated import COMPONENTS, PIPELINE, SCHEDULER
from tinyldm.checkpoints.views import Place, SourceView
from tinyldm.errors import CheckpointError

# Fields that a library writes beside what it computes with.
BOOKKEEPING = frozenset(
    "_class_name _diffusers_version architectures transformers_version torch_dtype model_type".split()
)


def single_file(found: Recognised, path: Path) -> tuple[dict[str, Place], dict[str, str], list[str]]:
    """The tensors of a checkpoint in the original layout, the header that belongs to them, and what is lost.

    Raises `CheckpointError` for a component that the layout has no place for.
    """
    views = dict(original_views(found))
    tensors: dict[str, Place] = {prefix + n: (view, n) for prefix, view in views.items() for n in view.names}
    plain = recognise(SourceView(str(path), {}, tensors, []))
    notes = [f"other programs will not see {fact}, which the header states" for fact in unseen(found, plain)]
    marks = marking_tensors(found)
    return tensors | marks, header(found), notes


def original_views(found: Recognised) -> Iterator[tuple[str, TensorSource]]:
    """Prefix and view of each component in original names; of a single component, its canonical names."""
    if len(found.components) == 1:
        yield "", next(iter(found.components.values())).source
        return
    two = "text_encoder_2" in found.components
    for name, component in found.components.items():
        source, kind = component.source, component.class_name
        if name == "unet":
            view = LinkedSource.of(source, "canonical", unet_links, heads_of(component), source.shape)
            yield "model.diffusion_model.", view
        elif kind in ("AutoencoderKL", "VQModel"):
            yield "first_stage_model.", LinkedSource.of(source, "canonical", autoencoder_links)
        elif kind == "LDMBertModel":
            yield "cond_stage_model.transformer.", LinkedSource.of(source, "canonical", bert_links)
        elif name == "text_encoder_2" or component.config.get("hidden_act") == "gelu":
            place = f"conditioner.embedders.{int('text_encoder' in found.components)}" if two else "cond_stage_model"
            projected = "text_projection.weight" in source
            yield f"{place}.model.", LinkedSource.of(source, "canonical", openclip_links, None, projected)
        elif kind == "CLIPTextModel":
            yield ("conditioner.embedders.0" if two else "cond_stage_model") + ".transformer.text_model.", source
        elif kind == "ControlNetModel":
            yield "control_model.", LinkedSource.of(source, "canonical", controlnet_links, source.shape)
        elif kind == "AutoencoderTiny":
            yield "first_stage_model.", source
        elif kind in ("ClassEmbedder", "SpatialRescaler"):
            yield "cond_stage_model.", source
        else:
            raise CheckpointError(f"{source.path}: a {kind} has no place in a single file")


def heads_of(component: Component) -> Heads:
    """How a UNet divides its attention over pixels; of transformers it does not matter here."""
    if component.class_name != "UNet2DModel":
        return Heads(count=1)
    count = component.config.get("num_attention_heads")
    return Heads(count=count) if count else Heads(channels=component.config.get("attention_head_dim", 8))


# The header -----------------------------------------------------------------------------------------------------------


def header(found: Recognised) -> dict[str, str]:
    """The entries of the header: configurations by component, the schedule, the pipeline and its options."""
    configs = {name: [component.class_name, component.config] for name, component in found.components.items()}
    entries = {COMPONENTS: as_json(configs)}
    if found.scheduler is not None:
        entries[SCHEDULER] = as_json(found.scheduler)
        predicted = found.scheduler.get("prediction_type", "epsilon")
        entries["modelspec.prediction_type"] = "v" if predicted == "v_prediction" else str(predicted)
    if found.pipeline:
        entries[PIPELINE] = as_json(found.pipeline)
    return entries


def as_json(value: Any) -> str:
    """JSON in one line."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def marking_tensors(found: Recognised) -> dict[str, Place]:
    """The tensors without numbers by which other programs know an XL file that predicts v, and zero terminal SNR."""
    schedule = found.scheduler or {}
    if "text_encoder_2" not in found.components or schedule.get("prediction_type") != "v_prediction":
        return {}
    names = ["v_pred", *(["ztsnr"] if schedule.get("rescale_betas_zero_snr") else [])]
    source = MemorySource({name: np.zeros(0, np.float32) for name in names})
    return {name: (source, name) for name in names}


def unseen(found: Recognised, plain: Recognised) -> Iterator[str]:
    """What a program that reads names and shapes alone takes for something else: the schedule, fields of configs."""
    marks = marking_tensors(found)
    marked = {"prediction_type"} if "v_pred" in marks else set()
    marked |= {"rescale_betas_zero_snr", "timestep_spacing"} if "ztsnr" in marks else set()
    if found.scheduler is not None and plain.scheduler is not None:
        changed = differences(found.scheduler, plain.scheduler) - marked
        if found.scheduler.get("_class_name") != plain.scheduler.get("_class_name"):
            changed.add("_class_name")
        if changed:
            yield "the schedule: " + shown(found.scheduler, changed)
    for name, component in found.components.items():
        usual = plain.components.get(name)
        if usual is None:
            yield f"the {name}"
        elif changed := differences(component.config, usual.config):
            yield f"of the {name} " + shown(component.config, changed)


def differences(config: Mapping[str, Any], usual: Mapping[str, Any]) -> set[str]:
    """The fields that are stated otherwise, or not at all in what is usual; None is what is not stated."""
    stated = {name for name, value in config.items() if value is not None and name not in BOOKKEEPING}
    return {name for name in stated if name not in usual or usual[name] != config[name]}


def shown(config: Config, names: set[str]) -> str:
    """Fields with their values."""
    return ", ".join(f"{name} {config.get(name)!r}" for name in sorted(names))
