"""Open whatever file weights come in, told apart by its content and not by its suffix.

`open_source(path)` takes a safetensors file, a torch checkpoint of either format, or the JSON index of a sharded
checkpoint, and returns a `TensorSource`.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from tinyldm.checkpoints.base import MemorySource, RenamedSource, TensorSource, quoted
from tinyldm.checkpoints.mapped_file import MappedFile
from tinyldm.checkpoints.safetensors import PREFIX, encodable, parse_json_object, read_safetensors
from tinyldm.checkpoints.torch_pickle import LEGACY_START, ZIP_START, read_torch
from tinyldm.errors import CheckpointError

__all__ = ["MemorySource", "RenamedSource", "ShardedSource", "TensorSource", "open_source"]

MAX_INDEX = 100_000_000
LONGEST_NAME = 255  # bytes, of a file on common systems


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
    if head[257:262] == b"ustar":
        return "a tar archive, as the first versions of torch wrote checkpoints (load and save it with torch ≥ 1.6)"
    if head[:1] == b"\x80":
        return "a Python pickle, but not one that torch.save wrote"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file that it points to (fetch it with `git lfs pull`)"
    if head.lstrip()[:1] == b"<":
        return "a web page, not a checkpoint (a download that needed a login?)"
    if Path(path).suffix == ".safetensors":
        return "safetensors"  # damaged: its reader says where
    return "an empty file" if not head else f"begins with {head[:8]!r}, a format that is not known"


class ShardedSource(TensorSource):
    """The tensors of a sharded checkpoint: an index whose `weight_map` says which file beside it holds each name.

    Every file must exist beside the index and hold what the index says. A tensor that a file holds and the index does
    not list is offered too, after the others, so that nothing is passed over in silence.
    """

    def __init__(self, path: str | PathLike[str]):
        self.path = str(path)
        index = read_index(self.path)
        self.metadata = {key: str(value) for key, value in index["metadata"].items()}
        self._shards: dict[str, TensorSource] = {}
        try:
            for name, file in index["weight_map"].items():
                self._check_listed(name, file)
            self._file_of = dict(index["weight_map"])
            self._add_unlisted()
        except BaseException:
            self.close()
            raise

    def _check_listed(self, name: str, file: str) -> None:
        if file not in self._shards:
            self._shards[file] = open_shard(Path(self.path), file)
        if name not in self._shards[file]:
            raise CheckpointError(f"{self.path}: says that {quoted(file)} holds {quoted(name)}, which it does not")

    def _add_unlisted(self) -> None:
        listed = frozenset(self._file_of)
        for file, shard in self._shards.items():
            for name in shard:
                if name in listed:
                    continue
                if name in self._file_of:
                    files = f"{quoted(self._file_of[name])} and {quoted(file)}"
                    raise CheckpointError(f"{self.path}: does not list {quoted(name)}, which both {files} hold")
                self._file_of[name] = file

    @property
    def names(self) -> tuple[str, ...]:
        """The names in the order of the index, then those that only the files have."""
        return tuple(self._file_of)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return self._shard(name).shape(name)

    def dtype(self, name: str) -> str:
        """The published tag of a tensor's type."""
        return self._shard(name).dtype(name)

    def read(self, name: str, dtype: DTypeLike | None = np.float32) -> np.ndarray:
        """A tensor out of the file that holds it."""
        return self._shard(name).read(name, dtype)

    def path_of(self, name: str) -> str:
        """The file that holds a tensor."""
        return self._shard(name).path_of(name)

    def release(self) -> None:
        """Give the pages of all files back."""
        for shard in self._shards.values():
            shard.release()

    def close(self) -> None:
        """Close all files."""
        for shard in self._shards.values():
            shard.close()

    def __contains__(self, name: object) -> bool:
        return name in self._file_of

    def _shard(self, name: str) -> TensorSource:
        if name not in self._file_of:
            raise self.missing(name)
        return self._shards[self._file_of[name]]


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


def is_plain(name: str) -> bool:
    """Whether a name is that of a file or folder beside the one that mentions it: no path, nothing that leads out."""
    plain = name not in ("", ".", "..") and not set(name) & set('/\\:"\0')
    return plain and encodable(name) and len(name.encode()) <= LONGEST_NAME


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
