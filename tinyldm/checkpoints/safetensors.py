"""The safetensors format, read with nothing trusted before it is checked, and written a tensor at a time.

A file is

    8 bytes     n, the length of the header, unsigned little-endian
    n bytes     the header: a JSON object, UTF-8, that begins with `{` and may end in spaces
    the rest    the tensors' bytes, little-endian, row-major, without gaps

and the header has an entry `name: {"dtype": tag, "shape": [...], "data_offsets": [begin, end]}` for each tensor, the
offsets counted from the end of the header, and optionally `"__metadata__": {text: text}`.

Source: the format's description in the README of huggingface/safetensors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, NoReturn, Self

import numpy as np

from tinyldm.checkpoints.base import (
    FLOATING,
    STORED,
    FileTensor,
    MappedFile,
    MemorySource,
    Table,
    TableSource,
    TensorSource,
    quoted,
    to_stored,
)
from tinyldm.checkpoints.file_kinds import kind_in_words
from tinyldm.checkpoints.temporary import held, temporary_for, writing
from tinyldm.errors import CheckpointError

PREFIX = 8  # bytes of the header's length
MAX_HEADER = 100_000_000
MAX_RANK = 64  # NumPy's
MAX_COUNT = 2**58  # elements of a shape, so that their bytes can still be counted in 63 bits
# The published writer puts the types in this order, names in theirs within a type.
WRITTEN_ORDER = ("U64", "I64", "F64", "F32", "U32", "I32", "BF16", "F16", "U16", "I16", "I8", "U8", "BOOL")


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies: its type, its shape, and its bytes counted from the end of the header."""

    tag: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_safetensors(path: str | PathLike[str]) -> SafetensorsFile:
    """Open a safetensors file; everything in it but the values themselves is checked here.

    Raises `CheckpointError`, one line that names the file and the tensor, for whatever does not follow the format.
    """
    return SafetensorsFile(path)


class SafetensorsFile(TableSource[FileTensor]):
    """An open, memory-mapped safetensors file: a `TensorSource` that reads a tensor when it is asked for."""

    def __init__(self, path: str | PathLike[str]):
        self.path = str(path)
        file = MappedFile(path)
        self.files = (file,)
        try:
            header, data = read_header(file)
            self.metadata = check_metadata(header.pop("__metadata__", {}), self.path)
            entries = {name: check_entry(name, entry, self.path) for name, entry in header.items()}
            check_layout(entries, file.size - data, self.path)
        except BaseException:
            file.close()
            raise
        self._tensors = Table(
            path, {n: FileTensor(file, e.tag, e.shape, data + e.begin, data + e.end) for n, e in entries.items()}
        )

    def raw(self, name: str) -> memoryview:
        """The bytes of a tensor as they lie in the file."""
        return self._tensors[name].raw


def read_header(file: MappedFile) -> tuple[dict[str, Any], int]:
    """The header of a mapped file as parsed, unchecked JSON, and where the data begins."""
    length = int.from_bytes(file.view(0, min(PREFIX, file.size)), "little")
    inside = length <= MAX_HEADER and PREFIX + length <= file.size
    text = bytes(file.view(PREFIX, PREFIX + length)) if inside else b""
    if text.startswith(b"{"):
        return parse_json_object(text, f"{file.path}: header"), PREFIX + length
    if kind := kind_in_words(bytes(file.view(0, min(file.size, 300)))):
        raise CheckpointError(f"{file.path}: is {kind}, wanted a safetensors file")
    if file.size < PREFIX:
        raise CheckpointError(f"{file.path}: {file.size} bytes are too few for a safetensors file (truncated?)")
    if length > MAX_HEADER:
        raise CheckpointError(
            f"{file.path}: not safetensors, or damaged: a header of {length} bytes, at most {MAX_HEADER} are allowed"
        )
    if PREFIX + length > file.size:
        raise CheckpointError(f"{file.path}: header of {length} bytes in a file of {file.size} (truncated?)")
    raise CheckpointError(f"{file.path}: the header begins with {text[:1]!r}, wanted b'{{': not safetensors")


def parse_json_object(text: bytes, where: str, infinite: bool = False) -> dict[str, Any]:
    """A JSON object by the letter of RFC 8259: UTF-8, no key twice, no NaN or infinity; else a `CheckpointError`.

    `infinite` lets `NaN` and `-Infinity` pass, which the original library writes into configurations.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise CheckpointError(f"{where} has the key {quoted(key)} twice")
            found[key] = value
        return found

    def refuse(constant: str) -> NoReturn:
        raise CheckpointError(f"{where} has {constant}, which is not JSON")

    try:
        found = json.loads(text.decode("utf-8"), object_pairs_hook=unique, parse_constant=None if infinite else refuse)
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{where} is not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise CheckpointError(f"{where} is nested too deeply") from None
    except ValueError as error:  # a JSONDecodeError, or a number of too many digits
        raise CheckpointError(f"{where} is not JSON: {error}") from None
    if type(found) is not dict:
        raise CheckpointError(f"{where} is a JSON {type(found).__name__}, wanted an object")
    return found


def check_metadata(metadata: Any, path: str) -> dict[str, str]:
    """The free text entries: text to text, nothing else."""
    if type(metadata) is not dict or not all(type(v) is str and encodable(k + v) for k, v in metadata.items()):
        raise CheckpointError(f"{path}: __metadata__ must be an object of strings")
    return metadata


def check_entry(name: str, entry: Any, path: str) -> Entry:
    """One header entry, its types and its arithmetic checked; how it lies among the others is `check_layout`'s."""
    if fault := fault_of(name, entry):
        raise CheckpointError(f"{path}: tensor {quoted(name)}{fault}")
    return Entry(entry["dtype"], tuple(entry["shape"]), *entry["data_offsets"])


def fault_of(name: str, entry: Any) -> str | None:
    """What is wrong with a header entry, in words that follow its name; None where nothing is."""
    if not encodable(name):
        return ": its name is not Unicode text (a lone surrogate)"
    if type(entry) is not dict or set(entry) != {"dtype", "shape", "data_offsets"}:
        return ": its entry must have exactly dtype, shape and data_offsets"
    tag, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if type(tag) is not str or tag not in STORED:
        return f" has dtype {quoted(tag)}, wanted one of {', '.join(STORED)}"
    if type(shape) is not list or not all(type(size) is int and size >= 0 for size in shape):
        return f" has shape {quoted(shape)}, wanted a list of integers not below zero"
    if type(offsets) is not list or len(offsets) != 2 or not all(type(o) is int and 0 <= o < 2**63 for o in offsets):
        return f" has data_offsets {quoted(offsets)}, wanted two 63-bit integers"
    if not countable(shape):
        return f" has shape {quoted(shape)}, more than any memory holds"
    begin, end = offsets
    wanted = math.prod(shape) * STORED[tag].itemsize
    if end - begin != wanted:
        return f" has {end - begin} bytes, but {tag} of shape {quoted(shape)} takes {wanted}"
    return None


def countable(shape: Sequence[int]) -> bool:
    """Whether NumPy can index such a shape; it counts the sizes without the zeros among them."""
    return len(shape) <= MAX_RANK and math.prod(max(size, 1) for size in shape) <= MAX_COUNT


def encodable(text: str) -> bool:
    """Whether a text is Unicode, without the lone surrogates that JSON and pickles can smuggle in."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def check_layout(entries: Mapping[str, Entry], available: int, path: str) -> None:
    """The tensors must tile the data: in the file, none over another, nothing between them or behind the last."""
    position = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.end > available:
            fault = f", but the data has {available} (truncated?)"
        elif entry.begin < position:
            fault = f" overlaps the one before, which ends at {position}"
        elif entry.begin > position:
            fault = f" leaves a hole behind the one before, which ends at {position}"
        else:
            position = entry.end
            continue
        raise CheckpointError(f"{path}: tensor {quoted(name)} at bytes {entry.begin} to {entry.end}{fault}")
    if position != available:
        raise CheckpointError(f"{path}: {available - position} bytes follow the last tensor, wanted none")


def write_safetensors(
    path: str | PathLike[str],
    tensors: Mapping[str, np.ndarray] | Iterable[tuple[str, np.ndarray]],
    metadata: Mapping[str, str] | None = None,
    dtype: str | None = None,
) -> None:
    """Write a safetensors file: the same bytes for the same tensors, all of it or nothing.

    `dtype`, a floating tag (`F32`, `F16`, `BF16`, …), is what floating tensors are rounded to; other types and, without
    it, all types are kept.
    """
    source = MemorySource(dict(tensors))
    write_tensors(path, {name: (source, name) for name in source.names}, dtype, metadata)


def write_tensors(
    path: str | PathLike[str],
    tensors: Mapping[str, tuple[TensorSource, str]],
    dtype: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """As `write_safetensors`, tensors of any sources under new names: each is read, written and let go of."""
    declared = {}
    for name, (source, inner) in tensors.items():
        stored = source.dtype(inner)
        declared[name] = (dtype if dtype and stored in FLOATING else stored, source.shape(inner))
    with SafetensorsWriter(path, declared, metadata) as writer:
        for name, (source, inner) in tensors.items():
            writer.write(name, source.read(inner, None))


class SafetensorsWriter:
    """Write a safetensors file a tensor at a time, so that memory holds one: declare all, then write each in any order.

    ```python
    with SafetensorsWriter(path, {"conv.weight": ("F16", (8, 3, 3, 3))}) as writer:
        writer.write("conv.weight", array)
    ```

    The file appears under its name when the block ends without an error and every declared tensor was written; until
    then it is a temporary file in the same folder, which an error removes.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        declared: Mapping[str, tuple[str, Sequence[int]]],
        metadata: Mapping[str, str] | None = None,
    ):
        self.path = Path(path)
        self._entries = lay_out(declared, str(path))
        self._header = build_header(self._entries, metadata or {}, str(path))
        self._pending = set(self._entries)
        self._temporary, self._lock = temporary_for(self.path), ExitStack()

    def __enter__(self) -> Self:
        with writing(self.path):
            self._file = self._temporary.open("xb")
        self._lock.enter_context(held(self._temporary))
        try:
            self._put(0, self._header)
        except BaseException:
            self._discard()
            raise
        return self

    def write(self, name: str, array: np.ndarray) -> None:
        """Write one declared tensor, rounded to the declared type where both are floating."""
        if name not in self._pending:
            reason = "was written before" if name in self._entries else "was not declared"
            raise CheckpointError(f"{self.path}: tensor {quoted(name)} {reason}")
        entry = self._entries[name]
        array = np.asarray(array)
        if array.shape != entry.shape:
            raise CheckpointError(f"{self.path}: tensor {quoted(name)} has shape {array.shape}, declared {entry.shape}")
        try:
            stored = to_stored(array, entry.tag)
        except CheckpointError as error:
            raise CheckpointError(f"{self.path}: tensor {quoted(name)}: {error}") from None
        if stored.size:
            self._put(len(self._header) + entry.begin, stored.reshape(-1).data.cast("B"))
        self._pending.remove(name)

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        try:
            if kind is None and self._pending:
                raise CheckpointError(f"{self.path}: tensor {quoted(min(self._pending))} was declared but not written")
            if kind is None:
                with writing(self.path):
                    self._file.close()
                    self._temporary.replace(self.path)
        finally:
            self._discard()  # by then a whole file has its own name

    def _put(self, position: int, data: bytes | memoryview) -> None:
        with writing(self.path):
            self._file.seek(position)
            self._file.write(data)

    def _discard(self) -> None:
        with suppress(OSError):  # what is still unwritten may not fit: it is to go anyway
            self._file.close()
        self._lock.close()
        self._temporary.unlink(missing_ok=True)


def lay_out(declared: Mapping[str, tuple[str, Sequence[int]]], path: str) -> dict[str, Entry]:
    """The place of each tensor: wide types first, so that each lies at a multiple of its own size; then by name."""
    for name, (tag, shape) in declared.items():
        where = f"{path}: tensor {quoted(name)}"
        if type(name) is not str or name == "__metadata__" or not encodable(name):
            raise CheckpointError(f"{where}: not a name that the format can hold")
        if tag not in STORED:
            raise CheckpointError(f"{where} has dtype {quoted(tag)}, wanted one of {', '.join(STORED)}")
        if not all(size >= 0 for size in shape) or not countable(shape):
            raise CheckpointError(f"{where} has shape {quoted(shape)}, which cannot be stored")
    entries, position = {}, 0
    for name in sorted(declared, key=lambda name: (WRITTEN_ORDER.index(declared[name][0]), name)):
        tag, shape = declared[name][0], tuple(int(size) for size in declared[name][1])
        end = position + math.prod(shape) * STORED[tag].itemsize
        entries[name] = Entry(tag, shape, position, end)
        position = end
    return entries


def build_header(entries: Mapping[str, Entry], metadata: Mapping[str, str], path: str) -> bytes:
    """The header with its length in front, padded with spaces to a multiple of 8 bytes, so that the data is aligned."""
    if not all(type(k) is str and type(v) is str and encodable(k + v) for k, v in metadata.items()):
        raise CheckpointError(f"{path}: metadata must be text to text")
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    for name, entry in entries.items():
        header[name] = {"dtype": entry.tag, "shape": list(entry.shape), "data_offsets": [entry.begin, entry.end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % PREFIX)
    if len(text) > MAX_HEADER:
        raise CheckpointError(f"{path}: header of {len(text)} bytes, at most {MAX_HEADER} are allowed")
    return len(text).to_bytes(PREFIX, "little") + text
