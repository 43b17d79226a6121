"""Any published layout on disk, brought to one form: a folder of components, one component's folder, or a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tinyldm.checkpoints.base import RenamedSource, TensorSource
from tinyldm.checkpoints.folder import find_weights, read_folder, read_json
from tinyldm.checkpoints.published_names import text_encoder_names, vae_names
from tinyldm.checkpoints.recognise import Component, Recognised, override, parameterization, recognise
from tinyldm.checkpoints.source import open_source
from tinyldm.errors import CheckpointError

Config = Mapping[str, Mapping[str, Any]]


def bert_names(source: TensorSource) -> TensorSource:
    """The first text encoder without the `model.` prefix of its published folder."""
    return RenamedSource(source, {name.removeprefix("model."): name for name in source.names})


# How the tensors of a class are named in its folder, where it is not by the names that the models here use.
NAMES: dict[str, Callable[[TensorSource], TensorSource]] = {
    "CLIPTextModel": text_encoder_names,
    "CLIPTextModelWithProjection": text_encoder_names,
    "LDMBertModel": bert_names,
    "AutoencoderKL": vae_names,
    "AsymmetricAutoencoderKL": vae_names,
    "VQModel": vae_names,
}
# The names of components in folders of the first latent-diffusion models, and the ones that are used here.
ALIASES = {"vqvae": "vae", "bert": "text_encoder"}
NO_TENSORS = ("scheduler", "tokenizer", "feature_extractor")


def open_checkpoint(
    path: str | Path,
    *,
    variant: str | None = None,
    prediction_type: str | None = None,
    ema: bool | None = None,
    config: Config | None = None,
) -> Recognised:
    """The components of a checkpoint in any layout; options as in `recognise`, `variant` as in `read_folder`.

    A configuration beside a file counts more than what is recognised: `NAME.yaml`, the original's, states what the
    UNet predicts; `config.json` is that of the file's only component. Raises `CheckpointError` for what is unknown.
    """
    path = Path(path)
    if (path / "model_index.json").is_file():
        found = open_folder(path, variant)
    elif path.is_dir() and (path / "config.json").is_file():
        found = open_component(path, variant)
    elif path.is_dir():
        raise CheckpointError(f"{path}: has neither a model_index.json nor a config.json: no published folder")
    else:
        return open_file(path, prediction_type, ema, config)
    if ema is not None:
        raise CheckpointError(f"{path}: a folder has one set of weights; EMA or plain can be chosen in single files")
    override(found, prediction_type, config or {})
    return found


def open_folder(path: Path, variant: str | None = None) -> Recognised:
    """A published folder with its components."""
    folder = read_folder(path, variant)
    title = str(read_json(path / "model_index.json").get("_class_name", "a pipeline"))
    found = Recognised("folder", title, notes=folder.notes)
    for name in folder.index:
        if name == "scheduler":
            found.scheduler = folder.config(name)
        elif not name.startswith(NO_TENSORS):
            kind = folder.class_of(name)
            tensors = NAMES.get(kind, lambda source: source)(folder.weights(name))
            found.components[ALIASES.get(name, name)] = Component(kind, folder.config(name), tensors)
    return found


def open_component(path: Path, variant: str | None = None) -> Recognised:
    """The folder of one component: its config and its weights."""
    config = read_json(path / "config.json")
    kind = config.get("_class_name") or (config.get("architectures") or ["unknown"])[0]
    tensors = NAMES.get(kind, lambda source: source)(open_source(find_weights(path, variant)))
    return Recognised("component", f"a folder of a {kind}", {path.name: Component(kind, config, tensors)})


def open_file(path: Path, prediction_type: str | None, ema: bool | None, config: Config | None) -> Recognised:
    """A single file in any layout, with what configuration lies beside it."""
    stated = parameterization(path)
    found = recognise(open_source(path), prediction_type=prediction_type or stated, ema=ema, config=config)
    if stated and not prediction_type:
        found.notes.append(f"prediction type {stated} is stated by {path.with_suffix('.yaml').name}")
    beside = path.parent / "config.json"
    if len(found.components) == 1 and beside.is_file() and not config:
        (name, component), published = *found.components.items(), read_json(beside)
        found.components[name] = Component(component.class_name, published, component.source)
        found.notes = [f"the config is that of {beside.name} beside the file"]
    return found
