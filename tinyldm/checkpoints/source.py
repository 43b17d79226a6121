"""Open whatever file weights come in, told apart by its content and not by its suffix.

`open_source(path)` takes a safetensors file, a torch checkpoint of either format, or the JSON index of a sharded
checkpoint, and returns a `TensorSource`.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from tinyldm.checkpoints.base import MappedFile, TensorSource, quoted
from tinyldm.checkpoints.file_kinds import kind_in_words
from tinyldm.checkpoints.folder import is_plain
from tinyldm.checkpoints.safetensors import PREFIX, parse_json_object, read_safetensors
from tinyldm.checkpoints.torch_pickle import LEGACY_START, ZIP_START, read_torch
from tinyldm.checkpoints.views import SourceView
from tinyldm.errors import CheckpointError

MAX_INDEX = 100_000_000


def open_source(path: str | PathLike[str]) -> TensorSource:
    """The tensors of a file of any known kind; a `CheckpointError` says what an unknown one looks like."""
    kind = kind_of(path)
    if kind == "safetensors":
        return read_safetensors(path)
    if kind == "torch":
        return read_torch(path)
    if kind == "index":
        return ShardedSource(path)
    raise CheckpointError(f"{path}: {kind}; wanted safetensors, a torch checkpoint or the index of a sharded one")


def kind_of(path: str | PathLike[str]) -> str:
    """`safetensors`, `torch` or `index`; for anything else, what it is in words."""
    file = MappedFile(path)
    head = bytes(file.view(0, min(file.size, 1024)))
    file.close()
    if head[PREFIX : PREFIX + 1] == b"{" and int.from_bytes(head[:PREFIX], "little") < 2**40:
        return "safetensors"
    if head.startswith(ZIP_START) or LEGACY_START in head[:32]:
        return "torch"
    if head.lstrip()[:1] == b"{":
        return "index"
    if kind := kind_in_words(head):
        return kind
    if head[:1] == b"\x80":
        return "a Python pickle, but not one that torch.save wrote"
    if Path(path).suffix == ".safetensors":
        return "safetensors"  # damaged: its reader says where
    return f"begins with {head[:8]!r}, a format that is not known"


class ShardedSource(SourceView):
    """The tensors of a sharded checkpoint: an index whose `weight_map` says which file beside it holds each name.

    Every file must exist beside the index and hold what the index says. A tensor that a file holds and the index does
    not list is offered too, after the others, so that nothing is passed over in silence.
    """

    def __init__(self, path: str | PathLike[str]):
        index = read_index(str(path))
        shards: dict[str, TensorSource] = {}
        try:
            file_of: dict[str, str] = dict(index["weight_map"])
            for name, file in file_of.items():
                if file not in shards:
                    shards[file] = open_shard(Path(path), file)
                if name not in shards[file]:
                    raise CheckpointError(f"{path}: says that {quoted(file)} holds {quoted(name)}, which it does not")
            add_unlisted(str(path), file_of, shards)
        except BaseException:
            for shard in shards.values():
                shard.close()
            raise
        metadata = {key: str(value) for key, value in index["metadata"].items()}
        places = {name: (shards[file], name) for name, file in file_of.items()}
        super().__init__(str(path), metadata, places, shards.values())


def add_unlisted(index: str, file_of: dict[str, str], shards: Mapping[str, TensorSource]) -> None:
    """Add the tensors that the files hold and the index does not list; no two files may hold the same one."""
    listed = frozenset(file_of)
    for file, shard in shards.items():
        for name in shard:
            if name in listed:
                continue
            if name in file_of:
                files = f"{quoted(file_of[name])} and {quoted(file)}"
                raise CheckpointError(f"{index}: does not list {quoted(name)}, which both {files} hold")
            file_of[name] = file


def read_index(path: str) -> dict[str, Any]:
    """The parsed index `{"metadata": {…}, "weight_map": {name: file}}` with its types checked."""
    file = MappedFile(path)
    try:
        if file.size > MAX_INDEX:
            raise CheckpointError(f"{path}: an index of {file.size} bytes, at most {MAX_INDEX} are allowed")
        index = parse_json_object(bytes(file.view(0, file.size)), f"{path}: index")
    finally:
        file.close()
    names = index.get("weight_map")
    if type(names) is not dict or not names or not all(type(value) is str for value in names.values()):
        raise CheckpointError(f"{path}: is JSON without a weight_map of names to files: not the index of a checkpoint")
    index.setdefault("metadata", {})
    if type(index["metadata"]) is not dict:
        raise CheckpointError(f"{path}: metadata must be an object")
    return index


def open_shard(index: Path, file: str) -> TensorSource:
    """Open a file that an index names. It must lie beside the index: no path, nothing that leads out of the folder."""
    if not is_plain(file):
        raise CheckpointError(f"{index}: names the file {quoted(file)}, wanted a file name in the same folder")
    path = index.with_name(file)
    if not path.exists():
        raise CheckpointError(f"{index}: names the file {quoted(file)}, which is not beside it")
    if kind_of(path) == "index":
        raise CheckpointError(f"{index}: names the index {quoted(file)} as a file of tensors")
    return open_source(path)
