"""Tensors of other sources under other names, or changed on their way: views, which hold nothing themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import DTypeLike

from tinyldm.checkpoints.base import Table, TensorSource

Place = tuple[TensorSource, str]  # a source, and the name of a tensor there


class SourceView(TensorSource):
    """Tensors of other sources under names of its own, in the order of `places`: where each name's tensor is.

    A view that changes what it shows overrides `shown`, and where it has to `changes` and `shape`. `sources` are those
    whose files are the view's, too: it lets go of them with `close`.
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
        """The tensor behind a name, as the view shows it."""
        source, inner = self._places[name]
        value = source.read(inner, dtype)
        if self.changes(name):
            value = self.shown(name, value)
            value.flags.writeable = False
        return value

    def read_half(self, name: str) -> np.ndarray | None:
        """The tensor behind a name, where the view shows it as it is."""
        source, inner = self._places[name]
        return None if self.changes(name) else source.read_half(inner)

    def changes(self, name: str) -> bool:
        """Whether the view shows something else than the tensor behind a name."""
        return type(self).shown is not SourceView.shown

    def shown(self, name: str, value: np.ndarray) -> np.ndarray:
        """What the view shows in place of the value of a tensor that it `changes`, in the same dtype."""
        return value

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
            source.shape(old)  # a `CheckpointError` where it is not there
        super().__init__(source.path, source.metadata, {new: (source, old) for new, old in names.items()}, [source])


class ChangedSource(SourceView):
    """A view of a source under the same names, for views that show some of its tensors changed."""

    def __init__(self, source: TensorSource):
        super().__init__(source.path, source.metadata, {name: (source, name) for name in source.names}, [source])


def inner(source: TensorSource, prefix: str) -> TensorSource:
    """The tensors below a prefix, without it."""
    return RenamedSource(source, {name[len(prefix) :]: name for name in source.names if name.startswith(prefix)})
