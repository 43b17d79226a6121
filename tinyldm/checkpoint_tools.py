"""Checkpoints as files: what one is and holds, and the same in another layout or type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tinyldm.checkpoints import convert as conversion
from tinyldm.checkpoints import inspect as inspection
from tinyldm.checkpoints.recognised import Recognised
from tinyldm.models.build import expected
from tinyldm.text.tokenizer_folder import TOKENIZERS


def inspect(path: str | Path, *, tensors: bool = True, **options: Any) -> str:
    """What a checkpoint in any layout is and what it holds, in lines of text; with `tensors`, one for each tensor too.

    `options` are `variant`, `prediction_type`, `ema` and `config`, as of `tinyldm.load`. Raises `CheckpointError` for
    what is no readable file of tensors.
    """
    return inspection.inspect(path, expected, tensors, **options)


def convert(source: str | Path, destination: str | Path, dtype: str | None = None, **options: Any) -> Recognised:
    """Write a checkpoint anew: to a file in original names if `destination` ends in `.safetensors`, else to a folder.

    `dtype` rounds floating tensors to `float32`, `float16` or `bfloat16`; without it every tensor keeps its type and
    its bytes. `options` as of `inspect`. Returns what the source was recognised as, with notes on what is lost.

    Raises `InputError` for an unknown dtype or a destination that exists, `CheckpointError` for the source.
    """
    return conversion.convert(source, destination, dtype, tokenizers=TOKENIZERS, **options)
