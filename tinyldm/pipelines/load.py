"""From a path to a model that is ready to compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tinyldm.checkpoints.folder import Folder, read_folder
from tinyldm.checkpoints.published_names import text_encoder_names, vae_names
from tinyldm.errors import CheckpointError
from tinyldm.models.text_encoder import TextEncoder
from tinyldm.models.tokenizer import Tokenizer
from tinyldm.models.unet import UNet
from tinyldm.models.vae import AutoencoderKL
from tinyldm.nn import Runtime
from tinyldm.pipelines.model import LatentDiffusion

# The classes that a component of text-to-image may have.
CLASSES = {
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "text_encoder": ("CLIPTextModel",),
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
}


def embedded_checkpoint() -> Path:
    """The folder of the checkpoint that the package carries: in the installed package, or in the source tree."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "weights" / "emoji", package.parent / "weights" / "emoji"):
        if (folder / "model_index.json").is_file():
            return folder
    raise CheckpointError(f"{package}: the embedded checkpoint is not there; install the package again")


def load(
    path: str | Path | None = None,
    *,
    backend: str | None = None,
    dtype: str | type | np.dtype = "float32",
    precision: str | None = None,
    threads: int | None = None,
    low_memory: bool = False,
    variant: str | None = None,
) -> LatentDiffusion:
    """Open a checkpoint: a published folder, or without `path` the one that the package carries.

    `backend` is `"numba"` (the default; float32) or `"reference"` (float32 or float64); `precision` `"fast"` or
    `"strict"` and `threads` are the Numba backend's; `low_memory` reads weights anew each time instead of keeping
    them; `variant` prefers weight files with that word in their names (`"fp16"`). The environment variables
    `TINYLDM_BACKEND`, `TINYLDM_PRECISION` and `TINYLDM_THREADS` stand in for arguments that are not given.

    Files are memory-mapped and read when a weight is first used. Raises `CheckpointError` or `ConfigError` for what
    is wrong with the checkpoint, `InputError` for an argument that can't be honoured.
    """
    runtime = Runtime.choose(backend, dtype, precision, threads, low_memory)
    folder = read_folder(embedded_checkpoint() if path is None else path, variant)
    for component, classes in CLASSES.items():
        if folder.class_of(component) not in classes:
            raise CheckpointError(
                f"{folder.path / 'model_index.json'}: the {component} is a {folder.class_of(component)}; "
                f"supported: {', '.join(classes)}"
            )
    return LatentDiffusion(
        path=folder.path,
        tokenizer=Tokenizer.load(folder.path / "tokenizer"),
        text_encoder=TextEncoder(*_read(folder, "text_encoder"), runtime),
        unet=UNet(*_read(folder, "unet"), runtime),
        vae=AutoencoderKL(*_read(folder, "vae"), runtime),
        scheduler_config=folder.config("scheduler"),
        runtime=runtime,
        notes=folder.notes,
    )


def _read(folder: Folder, component: str) -> tuple[dict[str, Any], Any]:
    """The configuration and the tensors of a component, under the names that the models use."""
    names = {"text_encoder": text_encoder_names, "vae": vae_names}.get(component, lambda source: source)
    return folder.config(component), names(folder.weights(component))
