"""Torch checkpoints (`.ckpt`, `.pt`, `.pth`, `.bin`) read without torch, without risk, and without reading them whole.

Two formats. Since torch 1.6 a zip archive holds `…/data.pkl`, the pickled structure, and `…/data/<key>`, the bytes of
each storage. Before, four pickles follow each other (a magic number, a version, facts on the machine, the structure),
then the pickled list of storage keys, then for each key its element count (8 bytes) and its bytes. In the structure a
tensor is a view of a storage, and a storage is a persistent id.

Source: the file formats as torch.serialization writes them (`_save`, `_legacy_save`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from os import PathLike
from typing import Any

from tinyldm.checkpoints.base import STORED, MappedFile, Table, TableSource, quoted
from tinyldm.checkpoints.pickle_globals import NumpyArray
from tinyldm.checkpoints.pickle_reader import Name, PickleReader
from tinyldm.checkpoints.torch_tensors import BUILDERS, LazyTensor, Storage, typed_storage
from tinyldm.checkpoints.zip_entries import ZipEntry, read_directory, read_entry
from tinyldm.errors import CheckpointError

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
LEGACY_VERSION = 1001
ZIP_START = b"PK\3\4"
LEGACY_START = b"\x8a\n" + MAGIC_NUMBER.to_bytes(10, "little") + b"."  # LONG1, 10 bytes, STOP; behind the protocol

MAX_DEPTH = 32
MAX_EXTRAS = 1000
MAX_TEXT = 1000
MAX_REPEATED = 16  # how many times the file's size all tensors together may have
ALWAYS_ALLOWED = 1 << 20  # bytes, however small the file is
# What training loops keep beside the weights, at the top of a file that has no `state_dict`.
TRAINING = frozenset(
    "optimizer optimizers optimizer_state optimizer_states optimizer_state_dict optim lr_scheduler lr_schedulers "
    "scheduler scaler grad_scaler amp loops callbacks hyper_parameters rng_state".split()
)


def read_torch(path: str | PathLike[str]) -> TorchFile:
    """Open a torch checkpoint; everything in it but the tensors' values is read and checked here.

    Raises `CheckpointError`, one line that names the file and what is wrong or refused, for anything but tensors in
    plain containers.
    """
    return TorchFile(path)


class TorchFile(TableSource[LazyTensor | NumpyArray]):
    """An open torch checkpoint: a `TensorSource` that reads a tensor when it is asked for.

    `root` is the pickled structure with `LazyTensor`s in it. The names are those of its `state_dict` if it has one,
    else of all that it holds, nested names joined by dots. `extras` says what was passed over: optimizer states,
    counters, and whatever is no tensor; `metadata` has the numbers and texts at the top (`global_step`: `875000`).
    """

    def __init__(self, path: str | PathLike[str]):
        self.path = str(path)
        file = MappedFile(path)
        self.files = (file,)
        try:
            is_zip = file.view(0, min(4, file.size)) == ZIP_START
            self.root, length = open_zip(file) if is_zip else open_legacy(file)
            tensors, self.extras = flatten(self.root, length, self.path)
            self._tensors = Table(path, tensors)
            self.metadata = plain_entries(self.root)
            check_total(self._tensors, file.size, self.path)
        except BaseException:
            file.close()
            raise


# The zip format -------------------------------------------------------------------------------------------------------


def open_zip(file: MappedFile) -> tuple[Any, int]:
    """The structure of a zip checkpoint, and how long its pickle is."""
    entries = read_directory(file)
    prefix = zip_prefix(entries, file)
    big_endian = zip_byte_order(file, entries.get(prefix + "byteorder"))

    def resolve(identity: Any) -> Storage:
        key, tag, count = typed_storage(identity, fields=5)
        entry = entries.get(f"{prefix}data/{key}")
        if entry is None:
            raise CheckpointError(f"refers to the storage {quoted(key)}, which is not in the archive")
        if entry.size != count * STORED[tag].itemsize:
            raise CheckpointError(f"says {count} elements {tag} of the storage {quoted(key)} of {entry.size} bytes")
        return Storage(tag, entry.size, file.size, lambda: read_entry(file, entry), big_endian)

    pickle = read_entry(file, entries[prefix + "data.pkl"])
    reader = PickleReader(pickle, f"{file.path}: {quoted(prefix + 'data.pkl')}", BUILDERS, resolve)
    return reader.load(), len(pickle)


def zip_prefix(entries: dict[str, ZipEntry], file: MappedFile) -> str:
    """The folder in the archive that holds `data.pkl`, with its slash."""
    pickles = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise CheckpointError(f"{file.path}: a zip archive without the data.pkl of a torch checkpoint")
    prefix = pickles[0].removesuffix("data.pkl")
    if f"{prefix}constants.pkl" in entries:
        raise CheckpointError(f"{file.path}: a TorchScript program, not a checkpoint: save its state_dict with torch")
    return prefix


def zip_byte_order(file: MappedFile, entry: ZipEntry | None) -> bool:
    """Whether the storages are big-endian; files from before torch wrote it down are not."""
    order = b"little" if entry is None else bytes(read_entry(file, entry)[:8])
    if order not in (b"little", b"big"):
        raise CheckpointError(f"{file.path}: has the byte order {order!r}, wanted b'little' or b'big'")
    return order == b"big"


# The legacy format ----------------------------------------------------------------------------------------------------


def open_legacy(file: MappedFile) -> tuple[Any, int]:
    """The structure of a legacy checkpoint, and how long its pickles are."""
    sizes: dict[str, tuple[int, int]] = {}  # storage key: bytes, width of an element
    begins: dict[str, int] = {}  # where the bytes are, known after the structure has been read

    def resolve(identity: Any) -> Storage | Name:
        if type(identity) is tuple and identity[:1] == ("module",):
            return module_class(identity)
        key, tag, count = typed_storage(identity, fields=6)
        width = STORED[tag].itemsize
        size, _ = sizes.setdefault(key, (count * width, width))
        if size != count * width:
            raise CheckpointError(f"says {count * width} and {size} bytes of the same storage {quoted(key)}")
        return Storage(tag, size, file.size, lambda: file.view(begins[key], begins[key] + size))

    reader = PickleReader(file.view(0, file.size), str(file.path), BUILDERS, resolve)
    if reader.load() != MAGIC_NUMBER or reader.load() != LEGACY_VERSION:
        raise CheckpointError(f"{file.path}: not a torch checkpoint of version {LEGACY_VERSION}")
    machine = reader.load()
    if type(machine) is not dict or machine.get("little_endian") is not True:
        raise CheckpointError(f"{file.path}: was not written by a little-endian machine; save it again with torch")
    root = reader.load()
    keys = reader.load()
    length = reader.position
    place_storages(file, reader.position, keys, sizes, begins)
    return root, length


def module_class(identity: tuple[Any, ...]) -> Name:
    """The persistent id `("module", class, file, source code)` of a class: its name, which the list has to allow."""
    if len(identity) != 4 or not isinstance(identity[1], Name):
        raise CheckpointError("refuses a persistent id that is not a class with its source")
    return identity[1]


def place_storages(
    file: MappedFile, position: int, keys: Any, sizes: dict[str, tuple[int, int]], begins: dict[str, int]
) -> None:
    """Walk over the storages behind the pickles and note where each begins."""
    if type(keys) is not list or not all(type(key) is str for key in keys) or sorted(keys) != sorted(sizes):
        raise CheckpointError(f"{file.path}: the list of storages is not that of the storages that tensors use")
    for key in keys:
        where, (size, width) = f"{file.path}: the storage {quoted(key)}", sizes[key]
        if position + 8 + size > file.size:
            raise CheckpointError(f"{where} ends behind the end of the file (truncated?)")
        count = int.from_bytes(file.view(position, position + 8), "little")
        if count * width != size:
            raise CheckpointError(f"{where} has {count} elements, wanted {size // width}")
        begins[key] = position + 8
        position += 8 + size


# From the structure to names ------------------------------------------------------------------------------------------


def flatten(root: Any, length: int, path: str) -> tuple[dict[str, LazyTensor | NumpyArray], dict[str, str]]:
    """The tensors of a structure by name, and what else it holds.

    A structure can refer to the same part many times, so it can be far larger than the `length` of its pickle; the
    walk ends with an error where that is not what weights look like.
    """
    weights, extras = choose_weights(root)
    tensors: dict[str, LazyTensor | NumpyArray] = {}
    characters, steps = 16 * length + 65536, 4 * length + 1024
    pending = [("", weights, 0)]
    while pending:
        name, value, depth = pending.pop()
        characters -= len(name)
        if isinstance(value, (LazyTensor, NumpyArray)):
            name = name or "tensor"
            if name in tensors:
                raise CheckpointError(f"{path}: holds the tensor {quoted(name)} twice")
            tensors[name] = value
        elif isinstance(value, (dict, list, tuple)):
            steps -= len(value)
            characters -= len(value) * len(name)
            if depth == MAX_DEPTH or steps < 0 or characters < 0:
                raise CheckpointError(f"{path}: a structure that is nested too deeply or refers to itself")
            items = value.items() if isinstance(value, dict) else enumerate(value)
            pending += reversed([(join(name, key), child, depth + 1) for key, child in items])
        elif len(extras) < MAX_EXTRAS:
            extras[name] = describe(value)
    if not tensors:
        raise CheckpointError(f"{path}: holds no tensors")
    return tensors, extras


def check_total(tensors: Mapping[str, LazyTensor | NumpyArray], size: int, path: str) -> None:
    """Check that the tensors together are not far larger than their file, which they can be by repeating elements.

    Each alone is bounded by the file's size; thousands of them would make a huge file when they are written anew.
    """
    total = sum(math.prod(tensor.shape) * STORED[tensor.tag].itemsize for tensor in tensors.values())
    if total > MAX_REPEATED * size + ALWAYS_ALLOWED:
        raise CheckpointError(f"{path}: its tensors repeat elements: {total} bytes out of a file of {size}")


def choose_weights(root: Any) -> tuple[Any, dict[str, str]]:
    """The part of a checkpoint that holds weights, and the entries beside it that are passed over."""
    if not isinstance(root, dict):
        return root, {}
    nested = isinstance(root.get("state_dict"), dict)
    beside = {key: value for key, value in root.items() if (key != "state_dict" if nested else key in TRAINING)}
    weights = root["state_dict"] if nested else {key: value for key, value in root.items() if key not in beside}
    return weights, {join("", key): describe(value) for key, value in list(beside.items())[:MAX_EXTRAS]}


def plain_entries(root: Any) -> dict[str, str]:
    """The numbers and short texts at the top of a checkpoint, as text."""
    items = list(root.items())[:MAX_EXTRAS] if isinstance(root, dict) else []
    plain = {key: value for key, value in items if type(key) is str and type(value) in (int, float, bool, str)}
    return {key: str(value)[:MAX_TEXT] for key, value in plain.items()}


def join(name: str, key: Any) -> str:
    """The name of an entry of a container."""
    text = key if type(key) is str else key.name if isinstance(key, Name) else quoted(key)
    return f"{name}.{text}" if name else text


def describe(value: Any) -> str:
    """A value that is no tensor, in a word."""
    if isinstance(value, (dict, list, tuple, set, frozenset)):
        return f"{type(value).__name__} of {len(value)}"
    return getattr(value, "name", type(value).__name__)
