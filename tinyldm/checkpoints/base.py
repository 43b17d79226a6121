"""What every place that weights come from can do, and the two sources that are not files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Self

import numpy as np
from numpy.typing import DTypeLike

from tinyldm.checkpoints.dtypes import from_stored, tag_of
from tinyldm.errors import CheckpointError
from tinyldm.errors import quoted as quoted  # where the readers look for it


class TensorSource(ABC):
    """Named tensors whose shapes and types are known at once and whose values are read one at a time when asked for.

    `path` is what messages call the whole source (a file, an index, …); `metadata` its free text entries; `extras` what
    it holds beside the tensors, by name and in a word each (`optimizer_states`: `list of 1`).
    """

    path: str
    metadata: Mapping[str, str]
    extras: Mapping[str, str] = MappingProxyType({})

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

    def path_of(self, name: str) -> str:
        """The file that holds a tensor, for messages."""
        self.shape(name)
        return self.path

    def original_name(self, name: str) -> str:
        """What the file calls a tensor, where a view has renamed it."""
        self.shape(name)
        return name

    def release(self) -> None:  # noqa: B027  (a source without pages has nothing to give back)
        """Give the memory pages of all that was read back to the system; they return from the disk when needed."""

    def close(self) -> None:  # noqa: B027
        """Let go of the files."""

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


class MemorySource(TensorSource):
    """Arrays that are already in memory, under the names of a dict."""

    def __init__(
        self, tensors: Mapping[str, np.ndarray], path: str = "memory", metadata: Mapping[str, str] | None = None
    ):
        self.path = path
        self.metadata = dict(metadata or {})
        self._tensors = {name: np.asarray(value) for name, value in tensors.items()}
        self._tags = {name: tag_of(value.dtype) for name, value in self._tensors.items()}

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in the order of the dict."""
        return tuple(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of an array."""
        return self._get(name).shape

    def dtype(self, name: str) -> str:
        """The tag of an array's type."""
        self._get(name)
        return self._tags[name]

    def read(self, name: str, dtype: DTypeLike | None = np.float32) -> np.ndarray:
        """A read-only view of an array, or a converted copy of it."""
        value = self._get(name)
        try:
            # NumPy's own booleans need no decoding, so BOOL is read as the bytes that it is.
            return from_stored(value.view(np.uint8) if value.dtype == bool else value, self._tags[name], dtype)
        except CheckpointError as error:
            raise CheckpointError(f"{self.path}: tensor {quoted(name)} {error}") from None

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def _get(self, name: str) -> np.ndarray:
        if name not in self._tensors:
            raise self.missing(name)
        return self._tensors[name]


class RenamedSource(TensorSource):
    """A view of a source under other names: `names` maps each new name to the one in `source`; the rest is hidden."""

    def __init__(self, source: TensorSource, names: Mapping[str, str]):
        for old in names.values():
            if old not in source:
                raise source.missing(old)
        self.path = source.path
        self.metadata = source.metadata
        self._source = source
        self._old = dict(names)

    @property
    def names(self) -> tuple[str, ...]:
        """The new names, in the order of the map."""
        return tuple(self._old)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of the tensor behind a new name."""
        return self._source.shape(self._get(name))

    def dtype(self, name: str) -> str:
        """The type of the tensor behind a new name."""
        return self._source.dtype(self._get(name))

    def read(self, name: str, dtype: DTypeLike | None = np.float32) -> np.ndarray:
        """The tensor behind a new name."""
        return self._source.read(self._get(name), dtype)

    def path_of(self, name: str) -> str:
        """The file that holds the tensor behind a new name."""
        return self._source.path_of(self._get(name))

    def original_name(self, name: str) -> str:
        """The name in the file."""
        return self._source.original_name(self._get(name))

    def release(self) -> None:
        """Give the source's pages back."""
        self._source.release()

    def close(self) -> None:
        """Close the source."""
        self._source.close()

    def __contains__(self, name: object) -> bool:
        return name in self._old

    def _get(self, name: str) -> str:
        if name not in self._old:
            raise self.missing(name)
        return self._old[name]
