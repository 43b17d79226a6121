"""Any published layout on disk, brought to one form: a folder of components, one component's folder, or a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tinyldm.checkpoints.base import TensorSource
from tinyldm.checkpoints.digests import known_prediction_type
from tinyldm.checkpoints.folder import FOREIGN_SCHEDULES, find_weights, foreign, read_folder, read_json
from tinyldm.checkpoints.hub import SUFFIXES, local
from tinyldm.checkpoints.lora_facts import distilled_for
from tinyldm.checkpoints.names.published import OLDER, present_names
from tinyldm.checkpoints.original_config import stated_by_config
from tinyldm.checkpoints.overrides import override
from tinyldm.checkpoints.recognise import recognise
from tinyldm.checkpoints.recognised import Component, Recognised, class_of
from tinyldm.checkpoints.safetensors import read_safetensors
from tinyldm.checkpoints.source import open_source
from tinyldm.errors import CheckpointError

Config = Mapping[str, Mapping[str, Any]]


# The names of components in folders of the first latent-diffusion models, and the ones that are used here.
ALIASES = {"vqvae": "vae", "bert": "text_encoder"}
STEP_OF_2_BASE = "875000"  # the global_step of 512-base-ema.ckpt
SHOWN = 5


def open_checkpoint(
    path: str | Path,
    *,
    variant: str | None = None,
    prediction_type: str | None = None,
    ema: bool | None = None,
    config: Config | None = None,
) -> Recognised:
    """The components of a checkpoint in any layout; options as in `recognise`, `variant` as in `read_folder`.

    `path` is a folder, a file, or a name on the Hugging Face hub. A configuration beside a file counts more than what
    is recognised: `NAME.yaml`, the original's; `config.json` is that of the file's only component. A folder with a
    single file of weights and no configuration is that file.

    Raises `CheckpointError` for what is unknown.
    """
    path = Path(path) if Path(path).exists() else local(path, variant)
    whole, alone = ((path / name).is_file() for name in ("model_index.json", "config.json"))
    if whole or alone:
        if ema is not None:
            what = "EMA or plain can be chosen in single files"
            raise CheckpointError(f"{path}: a folder has one set of weights; {what}")
        found = open_folder(path, variant) if whole else open_component(path, variant)
        if prediction_type is not None or config:
            override(found, prediction_type, config or {})
    else:
        path = only_file(path) if path.is_dir() else path
        if variant is not None:
            raise CheckpointError(f"{path}: is one file; a variant chooses among those of a folder")
        found = open_file(path, prediction_type, ema, config)
    found.path = path
    return found


def only_file(folder: Path) -> Path:
    """The file of weights in a folder that is not laid out as a published one. Raises `CheckpointError` without one."""
    files = sorted(p.name for p in folder.iterdir() if p.suffix[1:] in SUFFIXES and p.is_file())
    if len(files) == 1:
        return folder / files[0]
    parts = sorted(p.name for p in folder.iterdir() if p.is_dir() and any(p.glob("*config.json")))
    hint = f"; give one of its files: {', '.join(files[:SHOWN])}" if files else ""
    hint += f"; a model_index.json has to name its components {', '.join(parts[:SHOWN])}" if parts else ""
    raise CheckpointError(f"{folder}: has neither a model_index.json nor a config.json: no published folder{hint}")


def open_folder(path: Path, variant: str | None = None) -> Recognised:
    """A published folder with its components."""
    folder = read_folder(path, variant)
    title = str(folder.options.get("_class_name", "a pipeline"))
    for name in (title, *folder.index.values()):
        if kind := foreign(name):
            raise CheckpointError(f"{path}: has a {name}: it is of {kind}, which is not supported")
    found = Recognised("folder", title, notes=folder.notes, pipeline=folder.options)
    for name, kind in folder.index.items():
        if name == "scheduler":
            found.scheduler = folder.config(name)
            if schedule := foreign(str(found.scheduler.get("_class_name") or kind), FOREIGN_SCHEDULES):
                raise CheckpointError(f"{path}: its scheduler has {schedule}, which is not supported")
        elif name.startswith("tokenizer"):
            found.tokenizers[name] = kind
        elif not name.startswith(("scheduler", "feature_extractor")):
            weights, config = folder.weights(name), folder.config(name)
            found.components[ALIASES.get(name, name)] = opened(kind, config, weights, found.notes)
    return found


def open_tensors(file: Path, class_name: str) -> TensorSource:
    """The tensors of a component's file of weights, under the names that the models here use."""
    try:
        tensors: TensorSource = read_safetensors(file)
    except CheckpointError:  # of another kind, or damaged
        tensors = open_source(file)
    return present_names(class_name, tensors) if any(map(OLDER.search, tensors.names)) else tensors


def opened(kind: str, config: dict[str, Any], weights: Path, notes: list[str]) -> Component:
    """A component of a folder. Folders of before 2023 do not state the scale of a VQ first stage's latents: none.

    Source: the original configurations in CompVis/latent-diffusion; that of text2img-large is a KL stage.
    """
    if kind == "VQModel" and "scaling_factor" not in config:
        notes.append("the VQ first stage states no scaling factor: its latents are not scaled, as in the original")
        config = {**config, "scaling_factor": 1.0}
    return Component(kind, config, open_tensors(weights, kind))


def open_component(path: Path, variant: str | None = None) -> Recognised:
    """The folder of one component: its config and its weights."""
    config = read_json(path / "config.json")
    kind = class_of(config)
    if model := foreign(kind):
        raise CheckpointError(f"{path}: is a {kind}: it is of {model}, which is not supported")
    found = Recognised("component", f"a folder of a {kind}")
    found.components[path.name] = opened(kind, config, find_weights(path, variant), found.notes)
    return found


def open_file(path: Path, prediction_type: str | None, ema: bool | None, config: Config | None) -> Recognised:
    """A single file in any layout, with what configuration lies beside it."""
    source = open_source(path)
    beside = stated_by_config(path)
    found = recognise(source, prediction_type=prediction_type, ema=ema, config=config, beside=beside)
    if "prediction_type" in found.assumed:
        predicted, where = prediction_by_content(path, source)
        if predicted:
            override(found, predicted, config or {})
            found.notes.append(f"prediction type {predicted} {where}")
    if "unet" in found.components and (usual := distilled_for(path.name, source.metadata)):
        found.notes.append(f"{path.name} {usual}")
    published = path.parent / "config.json"
    if len(found.components) == 1 and published.is_file() and not config:
        (name, component), stated = *found.components.items(), read_json(published)
        if class_of(stated) == component.class_name:
            found.components[name] = replace(component, config=stated)
            found.notes = [f"the config is that of {published.name} beside the file"]
            found.assumed.discard("scaling_factor")
    return found


def prediction_by_content(path: Path, source: TensorSource) -> tuple[str | None, str]:
    """What a file predicts, and how that is known: by its training step, or by the digest of the whole file."""
    if source.metadata.get("global_step") == STEP_OF_2_BASE:
        return "epsilon", "is that of Stable Diffusion 2-base, which the file's global_step tells"
    return known_prediction_type(path), "is that of the published file with this digest"
