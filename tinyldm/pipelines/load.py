"""From a path to a model that is ready to compute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tinyldm.checkpoints.base import TensorSource
from tinyldm.checkpoints.folder import Folder, read_folder
from tinyldm.checkpoints.published_names import text_encoder_names, vae_names
from tinyldm.checkpoints.recognise import recognise
from tinyldm.checkpoints.source import open_source
from tinyldm.errors import CheckpointError
from tinyldm.models.build import build
from tinyldm.models.tokenizer import Tokenizer
from tinyldm.nn import Runtime
from tinyldm.pipelines.model import LatentDiffusion

# The classes that a component of text-to-image may have, and which components there may be.
CLASSES = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel",),
    "text_encoder_2": ("CLIPTextModelWithProjection",),
}
TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast")


def embedded_checkpoint() -> Path:
    """The folder of the checkpoint that the package carries: in the installed package, or in the source tree."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "weights" / "emoji", package.parent / "weights" / "emoji"):
        if (folder / "model_index.json").is_file():
            return folder
    raise CheckpointError(f"{package}: the embedded checkpoint is not there; install the package again")


@dataclass
class Opened:
    """A checkpoint before its models are built: class, config and tensors of each component, and the rest."""

    path: Path
    components: dict[str, tuple[str, dict[str, Any], TensorSource]]
    tokenizers: dict[str, Tokenizer]
    scheduler_config: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def load(
    path: str | Path | None = None,
    *,
    backend: str | None = None,
    dtype: str | type | np.dtype = "float32",
    precision: str | None = None,
    threads: int | None = None,
    low_memory: bool = False,
    variant: str | None = None,
    config: Mapping[str, Mapping[str, Any]] | None = None,
    prediction_type: str | None = None,
    ema: bool | None = None,
) -> LatentDiffusion:
    """Open a checkpoint: a published folder or a single file, or without `path` the one that the package carries.

    `backend` is `"numba"` (the default; float32) or `"reference"` (float32 or float64); `precision` `"fast"` or
    `"strict"` and `threads` are the Numba backend's; `low_memory` reads weights anew each time instead of keeping
    them. The environment variables `TINYLDM_BACKEND`, `TINYLDM_PRECISION` and `TINYLDM_THREADS` stand in for arguments
    that are not given.

    `variant` prefers the weight files of a folder with that word in their names (`"fp16"`). Of a single file, `config`
    overrides fields of what was recognised (`{"unet": {…}}`) and `ema` chooses the running average of the weights or
    the plain ones; `prediction_type` overrides what the schedule of either says. `notes` tell what was assumed.

    Files are memory-mapped and read when a weight is first used. Raises `CheckpointError` or `ConfigError` for what
    is wrong with the checkpoint, `InputError` for an argument that can't be honoured.
    """
    runtime = Runtime.choose(backend, dtype, precision, threads, low_memory)
    path = embedded_checkpoint() if path is None else Path(path)
    opened = open_file(path, config, prediction_type, ema) if path.is_file() else open_folder(path, variant)
    if prediction_type is not None:
        opened.scheduler_config["prediction_type"] = prediction_type
    for name, (class_name, _, source) in opened.components.items():
        if class_name not in CLASSES[name]:
            raise CheckpointError(
                f"{source.path}: the {name} is a {class_name}; text to image takes {', '.join(CLASSES[name])}"
            )
    models = {name: build(*parts, runtime) for name, parts in opened.components.items()}
    return LatentDiffusion(
        path=path,
        **{"text_encoder": None, **models},
        **{"tokenizer": None, **opened.tokenizers},
        scheduler_config=opened.scheduler_config,
        runtime=runtime,
        options=opened.options,
        notes=opened.notes,
    )


# A published folder ---------------------------------------------------------------------------------------------------


def open_folder(path: Path, variant: str | None) -> Opened:
    """The components of a published folder."""
    folder = read_folder(path, variant)
    for name in ("unet", "vae", "scheduler"):
        folder.class_of(name)  # says what is missing
    if "text_encoder" not in folder and "text_encoder_2" not in folder:
        folder.class_of("text_encoder")
    components = {name: (folder.class_of(name), *read_component(folder, name)) for name in CLASSES if name in folder}
    tokenizers = {}
    for name in ("tokenizer", "tokenizer_2"):
        if name in folder:
            if folder.class_of(name) not in TOKENIZERS:
                raise CheckpointError(f"{path}: the {name} is a {folder.class_of(name)}; supported: {TOKENIZERS[0]}")
            tokenizers[name] = Tokenizer.load(path / name)
    if not tokenizers:
        folder.class_of("tokenizer")
    scheduler = as_pipeline_does(folder.config("scheduler"), folder.notes)
    return Opened(path, components, tokenizers, scheduler, folder.options, folder.notes)


def read_component(folder: Folder, component: str) -> tuple[dict[str, Any], TensorSource]:
    """The configuration and the tensors of a component, under the names that the models use."""
    names = {"text_encoder": text_encoder_names, "text_encoder_2": text_encoder_names, "vae": vae_names}
    source = folder.weights(component)
    return folder.config(component), names[component](source) if component in names else source


def as_pipeline_does(scheduler: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    """The schedule as the original's pipelines correct it in old files, which were published with other defaults.

    Latents are not clipped to [-1, 1], and the first step is one later than `leading` spacing has it.
    """
    scheduler = dict(scheduler)
    for name, right in (("clip_sample", False), ("steps_offset", 1)):
        if scheduler.get(name, right) != right:
            notes.append(f"scheduler: {name} {scheduler[name]} is taken as {right}, as the original's pipelines do")
            scheduler[name] = right
    return scheduler


# A single file --------------------------------------------------------------------------------------------------------


def open_file(
    path: Path, config: Mapping[str, Mapping[str, Any]] | None, prediction_type: str | None, ema: bool | None
) -> Opened:
    """The components of a single file in the original layout; it has no tokenizer, so CLIP's is the package's own."""
    found = recognise(open_source(path), prediction_type=prediction_type, ema=ema, config=config)
    components = {name: (c.class_name, c.config, c.source) for name, c in found.components.items()}
    missing = [name for name in ("unet", "vae") if name not in components]
    if missing or not any(name.startswith("text_encoder") for name in components):
        has = ", ".join(components) or "nothing"
        raise CheckpointError(
            f"{path}: is {found.title} and holds {has}; text to image wants unet, vae and text_encoder"
        )
    unused = [name for name in components if name not in CLASSES]
    if unused:
        raise CheckpointError(f"{path}: is {found.title}, whose {', '.join(unused)} no prompt describes")
    tokenizers = {}
    if "text_encoder" in components:
        openclip = "text_encoder_2" not in components and components["text_encoder"][1].get("hidden_act") == "gelu"
        tokenizers["tokenizer"] = clip_tokenizer(zero_padded=openclip)
    if "text_encoder_2" in components:
        tokenizers["tokenizer_2"] = clip_tokenizer(zero_padded=True)
    options = {
        "force_zeros_for_empty_prompt": "text_encoder" in components,
        "requires_aesthetics_score": "text_encoder" not in components,
    }
    notes = [f"recognised as {found.title}", *found.notes]
    if found.unknown:
        notes.append(f"{len(found.unknown)} tensors are not known and not used: {found.unknown[0]}, …")
    return Opened(path, components, tokenizers, dict(found.scheduler or {}), options, notes)


def clip_tokenizer(zero_padded: bool) -> Tokenizer:
    """CLIP's tokenizer; OpenCLIP's pads with the token 0 instead of the end token."""
    tokenizer = Tokenizer.clip()
    if not zero_padded:
        return tokenizer
    merges = sorted(tokenizer.ranks, key=tokenizer.ranks.__getitem__)
    return Tokenizer.from_vocabulary(tokenizer.vocab, merges, pad_token="!")
