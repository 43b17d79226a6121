"""Tensors of any source written to a safetensors file a piece at a time, and JSON files as published ones look."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinyldm.checkpoints.base import FLOATING
from tinyldm.checkpoints.safetensors import SafetensorsWriter
from tinyldm.checkpoints.views import Place

METADATA = {"format": "pt"}  # without it the original libraries refuse the file


def write_tensors(
    path: Path, tensors: Mapping[str, Place], tag: str | None, metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors under new names; `tag` is the type of floating ones, by default the one that each has."""
    declared = {}
    for name, (source, inner) in tensors.items():
        stored = source.dtype(inner)
        declared[name] = (tag if tag and stored in FLOATING else stored, source.shape(inner))
    with SafetensorsWriter(path, declared, {**METADATA, **(metadata or {})}) as writer:
        for name, (source, inner) in tensors.items():
            writer.write(name, source.read(inner, None))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file as published ones look."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
