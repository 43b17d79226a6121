"""`tinyldm convert`: a checkpoint in any layout to the published folder, or to one safetensors file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tinyldm.checkpoints.hub import local
from tinyldm.checkpoints.opening import open_checkpoint
from tinyldm.checkpoints.original_layout import original_tensors
from tinyldm.checkpoints.published_folder import TokenizerOf, write_folder
from tinyldm.checkpoints.recognised import Recognised
from tinyldm.checkpoints.writing import write_tensors
from tinyldm.errors import InputError

TAGS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64"}


def convert(
    source: str | Path,
    destination: str | Path,
    dtype: str | None = None,
    *,
    tokenizer_of: TokenizerOf,
    variant: str | None = None,
    prediction_type: str | None = None,
    ema: bool | None = None,
    config: Any = None,
) -> Recognised:
    """Write a checkpoint anew: to a file in original names if `destination` ends in `.safetensors`, else to a folder.

    `dtype` rounds floating tensors to `float32`, `float16` or `bfloat16`; without it every tensor keeps its type and
    its bytes. A file with a single component keeps canonical names. `tokenizer_of` gives the tokenizer of a text
    encoder whose file has none (`text.tokenizer_folder`). Returns what the source was recognised as.

    Raises `InputError` for an unknown dtype or a destination that exists, `CheckpointError` for the source.
    """
    destination = Path(destination)
    if dtype is not None and dtype not in TAGS:
        raise InputError(f"dtype {dtype!r} is unknown; known are {', '.join(TAGS)}")
    if destination.exists():
        raise InputError(f"{destination}: exists already; convert writes nothing over")
    source = local(source, variant)
    found = open_checkpoint(source, variant=variant, prediction_type=prediction_type, ema=ema, config=config)
    tag = TAGS[dtype] if dtype else None
    if destination.suffix == ".safetensors":
        write_tensors(destination, original_tensors(found), tag)
    else:
        write_folder(destination, found, tag, source, tokenizer_of)
    return found
