"""`tinyldm convert`: a checkpoint in any layout to the published folder, or to one safetensors file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tinyldm.checkpoints.hub import local
from tinyldm.checkpoints.opening import open_checkpoint
from tinyldm.checkpoints.published_folder import METADATA, Tokenizers, write_folder
from tinyldm.checkpoints.recognised import Recognised
from tinyldm.checkpoints.safetensors import write_tensors
from tinyldm.checkpoints.single_file import single_file
from tinyldm.checkpoints.temporary import ended_cleanly, remove_stale
from tinyldm.errors import InputError

OTHER_FILES = (".bin", ".ckpt", ".pt", ".pth", ".gguf", ".onnx", ".h5", ".msgpack")
CLIP_TOKENS = 49408
TAGS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64"}


def convert(
    source: str | Path,
    destination: str | Path,
    dtype: str | None = None,
    *,
    tokenizers: Tokenizers,
    variant: str | None = None,
    prediction_type: str | None = None,
    ema: bool | None = None,
    config: Any = None,
) -> Recognised:
    """Write a checkpoint anew: to a file in original names if `destination` ends in `.safetensors`, else to a folder.

    `dtype` rounds floating tensors to `float32`, `float16` or `bfloat16`; without it every tensor keeps its type and
    its bytes. A file with a single component keeps canonical names. `tokenizers` knows that of a text encoder whose
    file has none (`text.tokenizer_folder.TOKENIZERS`). Returns what the source was recognised as, with notes on what is
    lost and what other programs will not see.

    Raises `InputError` for an unknown dtype or a destination that exists, `CheckpointError` for the source.
    """
    destination = Path(destination)
    if dtype is not None and dtype not in TAGS:
        raise InputError(f"dtype {dtype!r} is unknown; known are {', '.join(TAGS)}")
    if destination.suffix in OTHER_FILES:
        raise InputError(f"{destination}: a file is written as .safetensors, and a folder has no such suffix")
    if destination.exists():
        raise InputError(f"{destination}: exists already; convert writes nothing over")
    source = local(source, variant)
    found = open_checkpoint(source, variant=variant, prediction_type=prediction_type, ema=ema, config=config)
    tag = TAGS[dtype] if dtype else None
    found.notes += [f"removed {name}, which a run that was killed left" for name in remove_stale(destination.parent)]
    with ended_cleanly():
        if destination.suffix == ".safetensors":
            tensors, header, notes = single_file(found, source)
            write_tensors(destination, tensors, tag, METADATA | header)
            found.notes += [*notes, *lost_tokenizers(found, source, tokenizers)]
        else:
            write_folder(destination, found, tag, source, tokenizers)
            found.notes += unread_tokens(found)
    return found


def lost_tokenizers(found: Recognised, folder: Path, tokenizers: Tokenizers) -> Iterator[str]:
    """What a file loses of a folder whose tokenizers are not those that a file is read with."""
    for name, component in found.components.items():
        place = folder / name.replace("text_encoder", "tokenizer")
        if name.startswith("text_encoder") and place.is_dir() and not tokenizers.is_usual(component, place):
            yield f"the {place.name} is lost: it is not the usual one, and a single file has none of its own"


def unread_tokens(found: Recognised) -> Iterator[str]:
    """Where the usual tokenizer, which a folder is given, has more tokens than the text encoder."""
    for name, component in found.components.items():
        words = component.config.get("vocab_size")
        written = found.family != "folder" and component.class_name.startswith("CLIP")
        if written and isinstance(words, int) and words < CLIP_TOKENS:
            yield f"the {name} has {words} tokens, fewer than CLIP's tokenizer, which is written for want of its own"
