"""Named tensors and where they are stored: a file's bytes, element types, and the table by name that a source is.

A source is asked for one tensor at a time. Each element type has a published tag, a form in which it lies in a file,
and a conversion for when it is used. A tag is the name that the safetensors format gives a type (`F32`, `BF16`, `I64`,
…); torch storages map onto the same tags. NumPy has no bfloat16, so its bits are stored as `uint16` and widened to
float32: a bfloat16 is the upper half of the float32 with the same value.
"""

from __future__ import annotations

import mmap
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Generic, Literal, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from tinyldm.errors import CheckpointError
from tinyldm.errors import quoted as quoted  # where the readers look for it
from tinyldm.ops.bfloat16 import BFLOAT16, bfloat16_to_float32, float32_to_bfloat16

# How an element lies in the file, little-endian. BOOL is a byte: only zero is false.
STORED: dict[str, np.dtype] = {
    "BOOL": np.dtype("u1"),
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "I64": np.dtype("<i8"),
    "U64": np.dtype("<u8"),
}
HALVES = {"F16": np.dtype(np.float16), "BF16": BFLOAT16}  # types of 16 bits, and what they are unconverted
FLOATING = ("F64", "F32", "F16", "BF16")
TAG_OF_NUMPY = {dtype.newbyteorder("="): tag for tag, dtype in STORED.items() if tag not in ("BOOL", "BF16")}
TAG_OF_NUMPY[np.dtype(bool)] = "BOOL"


class MappedFile:
    """The bytes of one regular file, mapped into memory, read-only, without reading them: `size`, `view(begin, end)`.

    Pages come from the disk when they are touched and can be given back.
    """

    def __init__(self, path: str | PathLike[str]):
        self.path = Path(path)
        try:
            # Opening a named pipe would wait for a writer; so look first.
            mode = self.path.stat().st_mode
            if not stat.S_ISREG(mode):
                what = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
                raise CheckpointError(f"{path}: is {what}, wanted a checkpoint file")
            with self.path.open("rb") as file:
                self.size = file.seek(0, 2)
                self._map = mmap.mmap(file.fileno(), self.size, access=mmap.ACCESS_READ) if self.size else None
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None

    def view(self, begin: int, end: int) -> memoryview:
        """The bytes from `begin` up to `end`, not copied; the range must lie in the file."""
        if not 0 <= begin <= end <= self.size:
            raise CheckpointError(f"{self.path}: bytes {begin} to {end} asked of a file of {self.size} bytes")
        return memoryview(self._map or b"")[begin:end]

    def release(self) -> None:
        """Give the resident pages back to the system; touched again, they are read from the disk again."""
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Let go of the file. Arrays that were read from it without a copy stay valid, and keep the mapping alive."""
        if self._map is not None:
            with suppress(BufferError):  # arrays still point into it: it goes with the last of them
                self._map.close()
        self._map = None
        self.size = 0


class TensorSource(ABC):
    """Named tensors whose shapes and types are known at once and whose values are read one at a time when asked for.

    `path` is what messages call the whole source (a file, an index, …); `metadata` its free text entries; `extras` what
    it holds beside the tensors, by name and in a word each (`optimizer_states`: `list of 1`); `files` the open files
    that hold the tensors, none for a source in memory.
    """

    path: str
    metadata: Mapping[str, str]
    extras: Mapping[str, str] = MappingProxyType({})
    files: tuple[MappedFile, ...] = ()

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The tensors' names, in the order of the file."""

    @abstractmethod
    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor; a name that is not there is a `CheckpointError`, here and below."""

    @abstractmethod
    def dtype(self, name: str) -> str:
        """The published tag of a tensor's stored type: `F32`, `F16`, `BF16`, `F64`, `I64`, …"""

    @abstractmethod
    def read(self, name: str, dtype: DTypeLike | None = np.float32) -> np.ndarray:
        """A read-only, contiguous array converted to `dtype`; `None` keeps the stored type (bfloat16: as float32).

        Nothing is copied where nothing has to change.
        """

    def read_half(self, name: str) -> np.ndarray | None:
        """A tensor of 16-bit floats unconverted, as float16 or `BFLOAT16`; None for any other, or one that is changed.

        It is then to be had from `read` alone.
        """
        return None

    def path_of(self, name: str) -> str:
        """The file that holds a tensor, for messages."""
        self.shape(name)
        return self.path

    def original_name(self, name: str) -> str:
        """What the file calls a tensor, where a view has renamed it."""
        self.shape(name)
        return name

    def close(self) -> None:
        """Let go of the files; arrays that point into them stay valid."""
        for file in self.files:
            file.close()

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


# Element types -------------------------------------------------------------------------------------------------------


def tag_of(dtype: DTypeLike) -> str:
    """The published tag of a NumPy type, of either byte order; a type without one is a `CheckpointError`."""
    dtype = np.dtype(dtype)
    tag = TAG_OF_NUMPY.get(dtype.newbyteorder("="))
    if tag is None:
        raise CheckpointError(f"dtype {dtype} cannot be stored; those that can are {', '.join(STORED)}")
    return tag


def from_stored(stored: np.ndarray, tag: str, dtype: DTypeLike | None = None) -> np.ndarray:
    """A read-only array of `dtype` from elements as they lie in a file; `None` keeps the stored type.

    No copy is made when nothing has to change. Bfloat16 comes out as float32 if the type is to be kept, and as its
    bits for `BFLOAT16`. A value that is finite in the file and not in `dtype` is a `CheckpointError`; NaN and infinity
    pass between floating types.
    """
    if tag == "BF16" and dtype is BFLOAT16:
        values = stored.astype(np.uint16, copy=False).view(BFLOAT16)
    elif tag == "BF16":
        values = np.asarray(bfloat16_to_float32(stored))
    elif tag == "BOOL":
        values = np.asarray(stored != 0)
    else:
        values = stored
    wanted = values.dtype.newbyteorder("=") if dtype is None else np.dtype(dtype)
    # A signalling NaN raises the processor's "invalid" flag between floating types, where it is no error.
    invalid: Literal["ignore", "raise"] = "ignore" if wanted.kind in "fc" else "raise"
    try:
        with np.errstate(over="raise", invalid=invalid):
            values = values.astype(wanted, order="C", copy=False)
    except FloatingPointError:
        raise CheckpointError(f"holds values beyond the range of {wanted.name}") from None
    if not (values.flags.aligned and values.flags.c_contiguous):
        values = values.copy(order="C")
    values = values.view()
    values.flags.writeable = False
    return values


def to_stored(values: np.ndarray, tag: str) -> np.ndarray:
    """Elements as they lie in a file of type `tag`, contiguous; only floating types are converted, rounded to nearest.

    They are read-only. A value that is finite in `values` and not in the stored type is a `CheckpointError`.
    """
    found = tag_of(values.dtype)
    if tag not in STORED:
        raise CheckpointError(f"dtype {tag!r} is not one of {', '.join(STORED)}")
    if found != tag and not (found in FLOATING and tag in FLOATING):
        raise CheckpointError(f"dtype {found} cannot be stored as {tag}: only floating types are converted")
    if tag != "BF16":
        return from_stored(values, found, STORED[tag])
    single = from_stored(values, found, np.float32)
    stored = float32_to_bfloat16(single)
    if np.any(np.isinf(bfloat16_to_float32(stored)) & np.isfinite(single)):
        raise CheckpointError("holds values beyond the range of bfloat16")
    return stored


# Tables --------------------------------------------------------------------------------------------------------------


class StoredTensor(Protocol):
    """What a table knows of a tensor before its values are read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape."""

    @property
    def tag(self) -> str:
        """The published tag of the type."""

    def read(self, dtype: DTypeLike | None) -> np.ndarray:
        """The values in `dtype`, contiguous and read-only; `None` keeps the stored type."""


T = TypeVar("T", bound=StoredTensor)
V = TypeVar("V")


class Table(dict[str, V]):
    """What a source has by the names of its tensors; a name that is not there is a `CheckpointError`."""

    def __init__(self, path: object, entries: Mapping[str, V]) -> None:
        super().__init__(entries)
        self._path = path

    def __missing__(self, name: str) -> V:
        raise CheckpointError(f"{self._path}: has no tensor {quoted(name)}")


class TableSource(TensorSource, Generic[T]):
    """A source that holds its tensors in a table by name: of an open file, or in memory."""

    _tensors: Table[T]

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors' names, in the order of the table."""
        return tuple(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return self._tensors[name].shape

    def dtype(self, name: str) -> str:
        """The published tag of a tensor's type."""
        return self._tensors[name].tag

    def read(self, name: str, dtype: DTypeLike | None = np.float32) -> np.ndarray:
        """A tensor, converted to `dtype`; `None` keeps the stored type, as a view of what is stored where it can be.

        The files' pages that were read for it are given back to the system; those of a view return when needed.
        """
        tensor = self._tensors[name]
        try:
            array = tensor.read(dtype)
        except CheckpointError as error:
            raise CheckpointError(f"{self.path}: tensor {quoted(name)} {error}") from None
        for file in self.files:
            file.release()
        return array

    def read_half(self, name: str) -> np.ndarray | None:
        """A tensor of 16-bit floats, a view of what is stored where it can be."""
        half = HALVES.get(self.dtype(name))
        return None if half is None else self.read(name, half)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors


@dataclass(frozen=True)
class FileTensor:
    """A tensor of an open file, as a `StoredTensor`: its elements lie there in order, from byte `begin` to `end`."""

    file: MappedFile
    tag: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def raw(self) -> memoryview:
        """The bytes as they lie in the file."""
        return self.file.view(self.begin, self.end)

    def read(self, dtype: DTypeLike | None) -> np.ndarray:
        """The values in `dtype`; `None` keeps the stored type, as a view of the file where it is aligned."""
        values = np.frombuffer(self.file.view(self.begin, self.end), STORED[self.tag])
        return from_stored(values.reshape(self.shape), self.tag, dtype)


class HeldArray:
    """An array that is in memory already, as a `StoredTensor`."""

    def __init__(self, value: np.ndarray) -> None:
        self.value = value

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape."""
        return self.value.shape

    @property
    def tag(self) -> str:
        """The published tag of the type."""
        return tag_of(self.value.dtype)

    def read(self, dtype: DTypeLike | None) -> np.ndarray:
        """A read-only view of the array, or a converted copy of it."""
        # NumPy's own booleans need no decoding, so BOOL is read as the bytes that it is.
        return from_stored(self.value.view(np.uint8) if self.value.dtype == bool else self.value, self.tag, dtype)


class MemorySource(TableSource[HeldArray]):
    """Arrays that are already in memory, under the names of a dict."""

    def __init__(
        self, tensors: Mapping[str, np.ndarray], path: str = "memory", metadata: Mapping[str, str] | None = None
    ):
        self.path = path
        self.metadata = dict(metadata or {})
        self._tensors = Table(path, {name: HeldArray(np.asarray(value)) for name, value in tensors.items()})
        for name in self._tensors:
            self.dtype(name)  # a type without a tag is refused here and not when it is read
