"""What every place that weights come from can do: files and memory hold a table of tensors, views look into others."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Generic, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from tinyldm.checkpoints.stored import HALVES, MappedFile, from_stored, tag_of
from tinyldm.errors import CheckpointError
from tinyldm.errors import quoted as quoted  # where the readers look for it


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

    def release(self) -> None:
        """Give the memory pages of all that was read back to the system; they return from the disk when needed."""
        for file in self.files:
            file.release()

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

    def missing(self, name: str) -> CheckpointError:
        """The error for a name that is not there."""
        return CheckpointError(f"{self.path}: has no tensor {quoted(name)}")


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
        """A tensor, converted to `dtype`; `None` keeps the stored type, as a view of what is stored where it can be."""
        tensor = self._tensors[name]
        try:
            return tensor.read(dtype)
        except CheckpointError as error:
            raise CheckpointError(f"{self.path}: tensor {quoted(name)} {error}") from None

    def read_half(self, name: str) -> np.ndarray | None:
        """A tensor of 16-bit floats, a view of what is stored where it can be."""
        half = HALVES.get(self.dtype(name))
        return None if half is None else self.read(name, half)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors


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


Place = tuple[TensorSource, str]  # a source, and the name of a tensor there


class SourceView(TensorSource):
    """Tensors of other sources under names of its own, in the order of `places`: where each name's tensor is.

    A view that changes what it shows overrides `shape`, `read` and `changes`. `sources` are those whose files are the
    view's, too: it lets go of them with `close`.
    """

    def __init__(
        self, path: str, metadata: Mapping[str, str], places: Mapping[str, Place], sources: Iterable[TensorSource]
    ):
        self.path = path
        self.metadata = metadata
        self._places = Table(path, places)
        self.files = tuple(file for source in sources for file in source.files)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the view, in the order of the map."""
        return tuple(self._places)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of the tensor behind a name."""
        source, inner = self._places[name]
        return source.shape(inner)

    def dtype(self, name: str) -> str:
        """The stored type of the tensor behind a name."""
        source, inner = self._places[name]
        return source.dtype(inner)

    def read(self, name: str, dtype: DTypeLike | None = np.float32) -> np.ndarray:
        """The tensor behind a name."""
        source, inner = self._places[name]
        return source.read(inner, dtype)

    def read_half(self, name: str) -> np.ndarray | None:
        """The tensor behind a name, where the view shows it as it is."""
        source, inner = self._places[name]
        return None if self.changes(name) else source.read_half(inner)

    def changes(self, name: str) -> bool:
        """Whether `read` gives something else than the tensor behind a name: a view of its own `read` says of what."""
        return type(self).read is not SourceView.read

    def path_of(self, name: str) -> str:
        """The file that holds the tensor behind a name."""
        source, inner = self._places[name]
        return source.path_of(inner)

    def original_name(self, name: str) -> str:
        """The name in the file."""
        source, inner = self._places[name]
        return source.original_name(inner)

    def __contains__(self, name: object) -> bool:
        return name in self._places


class RenamedSource(SourceView):
    """A view of a source under other names: `names` maps each new name to the one in `source`; the rest is hidden."""

    def __init__(self, source: TensorSource, names: Mapping[str, str]):
        for old in names.values():
            if old not in source:
                raise source.missing(old)
        super().__init__(source.path, source.metadata, {new: (source, old) for new, old in names.items()}, [source])


class ChangedSource(SourceView):
    """A view of a source under the same names, for views that show some of its tensors changed."""

    def __init__(self, source: TensorSource):
        super().__init__(source.path, source.metadata, {name: (source, name) for name in source.names}, [source])


def inner(source: TensorSource, prefix: str) -> TensorSource:
    """The tensors below a prefix, without it."""
    return RenamedSource(source, {name[len(prefix) :]: name for name in source.names if name.startswith(prefix)})
