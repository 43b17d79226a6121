"""Latent files: what `tinyldm encode` writes, and `decode` and `img2img` read.

A safetensors file with one tensor, `latent`, `(N, C, h, w)` float32 as the diffusion works on it (scaling applied),
and metadata that says where it came from.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tinyldm.checkpoints.safetensors import read_safetensors, write_safetensors
from tinyldm.errors import InputError
from tinyldm.pipelines.parts import Parts
from tinyldm.typing import Array
from tinyldm.version import __version__


def is_latent_file(path: Path) -> bool:
    """Whether a file begins as safetensors files do: eight bytes of length, then the brace of a JSON header."""
    try:
        with path.open("rb") as file:
            return file.read(9)[8:] == b"{"
    except OSError:
        return False


def read_latent(path: Path) -> Array:
    """The latent of a file, `(N, C, h, w)` float32. Raises `TinyldmError` where the file holds none."""
    latent = stored_latent(path)
    if latent.ndim != 4 or not np.isfinite(latent).all():
        raise InputError(f"{path}: the latent must be finite and of shape (N, C, h, w), not {latent.shape}")
    return latent


def stored_latent(path: Path) -> Array:
    """What stands under `latent` in a file, of any shape. Raises `TinyldmError` where nothing does."""
    with read_safetensors(path) as file:
        if "latent" not in file:
            held = ", ".join(file.names) or "nothing"
            raise InputError(f"{path}: wanted a tensor named 'latent', as `tinyldm encode` writes it; found {held}")
        return np.array(file.read("latent"))


def write_latent(path: Path, latent: Array, *, parts: Parts, source: str, seed: int | None) -> None:
    """Write a latent file, whole or not at all. Raises `InputError` where that can't be done."""
    metadata = {
        "tinyldm_version": __version__,
        "model": parts.path.name,
        "scaling_factor": repr(parts.vae.config.scaling_factor),
        "source": source,
        "posterior": "mean" if seed is None else f"draw of seed {seed}",
    }
    try:
        write_safetensors(path, {"latent": latent.astype(np.float32)}, metadata)
    except OSError as error:
        raise InputError(f"{path}: can't be written: {error.strerror or error}") from None
