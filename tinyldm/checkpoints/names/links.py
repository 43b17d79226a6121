"""A link joins an original tensor and the canonical ones that hold the same numbers; views of a source through links.

Nothing is converted ahead of time: a view reads, and where needed splits or joins, when a tensor is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import DTypeLike

from tinyldm.checkpoints.base import Table, TensorSource, quoted
from tinyldm.checkpoints.views import SourceView
from tinyldm.errors import CheckpointError

Side = Literal["original", "canonical"]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Link:
    """One original tensor and its canonical counterparts.

    Several canonical tensors are stacked along the first axis of the original: all of one and then all of the next, or
    with `heads` above 1 all of them for one head and then for the next. `transposed` and `unit_axes` (a 1×1 convolution
    whose canonical form is a matrix) say what else is done to the original to bring it to canonical form.
    """

    original: str
    canonical: tuple[str, ...]
    heads: int = 1
    transposed: bool = False
    unit_axes: int = 0

    def part_shape(self, shape: Shape) -> Shape:
        """The shape of each canonical tensor, for that of the original; `ValueError` where it cannot be split."""
        shape = shape[:2] if self.unit_axes and len(shape) > 2 and set(shape[2:]) == {1} else shape
        shape = shape[::-1] if self.transposed else shape
        parts = len(self.canonical)
        if parts == 1:
            return shape
        if not shape or shape[0] % (parts * self.heads):
            raise ValueError(f"does not split into {parts} tensors of {self.heads} heads")
        return shape[0] // parts, *shape[1:]

    def part(self, whole: np.ndarray, i: int) -> np.ndarray:
        """The canonical tensor number `i` out of the original."""
        shape = self.part_shape(whole.shape)
        a = whole.T if self.transposed else whole
        if len(self.canonical) == 1:
            return a.reshape(shape)
        return a.reshape(self.heads, len(self.canonical), -1, *shape[1:])[:, i].reshape(shape)

    def whole_shape(self, shape: Shape) -> Shape:
        """The shape of the original for that of its canonical tensors."""
        if len(self.canonical) > 1:
            if not shape or shape[0] % self.heads:
                raise ValueError(f"does not split into {self.heads} heads")
            shape = (shape[0] * len(self.canonical), *shape[1:])
        shape = shape[::-1] if self.transposed else shape
        return (*shape, *[1] * self.unit_axes) if len(shape) == 2 else shape

    def whole(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """The original out of its canonical tensors."""
        rest = parts[0].shape[1:]
        a = parts[0]
        if len(parts) > 1:
            a = np.stack([p.reshape(self.heads, -1, *rest) for p in parts], axis=1).reshape(-1, *rest)
        return (a.T if self.transposed else a).reshape(self.whole_shape(parts[0].shape))


def rename(names: Mapping[str, str]) -> list[Link]:
    """Links for tensors that differ in name only: `{original: canonical}`."""
    return [Link(original, (canonical,)) for original, canonical in names.items()]


# What is below a module: `{original: canonical}`, without a dot in front; an empty name is the module itself.
Below = Mapping[str, str]


def module_links(original: str, canonical: str, table: Below, names: Collection[str], side: Side) -> Iterator[Link]:
    """The links of one module's weights and biases, those that `names` of the given side has; `` is the whole model."""
    for below, canonical_below in table.items():
        for kind in ("weight", "bias"):
            link = Link(dotted(original, below, kind), (dotted(canonical, canonical_below, kind),))
            if (link.original if side == "original" else link.canonical[0]) in names:
                yield link


def dotted(*parts: str) -> str:
    """A path of the parts that are not empty."""
    return ".".join(filter(None, parts))


def prefix_links(original: str, canonical: str, names: Iterable[str], side: Side) -> Iterator[Link]:
    """The links of a module whose inner names are the same on both sides."""
    module, renamed_module = (original, canonical) if side == "original" else (canonical, original)
    for name in names:
        if name.startswith(f"{module}."):
            renamed = renamed_module + name[len(module) :]
            yield Link(name, (renamed,)) if side == "original" else Link(renamed, (name,))


def consecutive(names: Collection[str], pattern: str) -> int:
    """How many of the names `pattern.format(0)`, `pattern.format(1)`, … there are without a gap."""
    count = 0
    while pattern.format(count) in names:
        count += 1
    return count


LinksOf = Callable[..., Iterable[Link]]  # of the names of a side, the side, and what else a kind of model needs


class LinkedSource(SourceView):
    """A view of a source through links: of an original file under canonical names, or the other way round.

    Raises `CheckpointError` where a tensor that a link needs is not there or cannot be split as the link says.
    """

    def __init__(self, source: TensorSource, links: Iterable[Link], to: Side = "canonical"):
        self._source, self._to = source, to
        linked: dict[str, tuple[Link, int, Shape]] = {}
        for link in links:
            shape = self._shape_through(link)
            for i, name in enumerate(link.canonical if to == "canonical" else (link.original,)):
                linked[name] = link, i, shape
        self._links = Table(source.path, linked)
        places = {name: (source, self._inputs(link)[0]) for name, (link, _, _) in linked.items()}
        super().__init__(source.path, source.metadata, places, [source])

    @classmethod
    def of(cls, source: TensorSource, side: Side, links_of: LinksOf, *more: object) -> LinkedSource:
        """A source with the names of one side under those of the other: `links_of(names, side, *more)` joins them."""
        return cls(source, links_of(source.names, side, *more), "original" if side == "canonical" else "canonical")

    def _shape_through(self, link: Link) -> Shape:
        first, *others = self._inputs(link)
        shape = self._source.shape(first)
        try:
            if any(self._source.shape(name) != shape for name in others):
                raise ValueError("differs in shape from those that it is joined with")
            return link.part_shape(shape) if self._to == "canonical" else link.whole_shape(shape)
        except ValueError as error:
            where = self._source.path_of(first)
            raise CheckpointError(f"{where}: tensor {quoted(first)} of shape {shape} {error}") from None

    def _inputs(self, link: Link) -> tuple[str, ...]:
        return (link.original,) if self._to == "canonical" else link.canonical

    def shape(self, name: str) -> Shape:
        """The shape of a tensor as the view gives it."""
        return self._links[name][2]

    def read(self, name: str, dtype: DTypeLike | None = np.float32) -> np.ndarray:
        """The tensor under a new name, split or joined as its link says."""
        return self._linked(name, [self._source.read(old, dtype) for old in self._inputs(self._links[name][0])])

    def read_half(self, name: str) -> np.ndarray | None:
        """The same of 16-bit floats, where all that are joined are of one type."""
        halves = [self._source.read_half(old) for old in self._inputs(self._links[name][0])]
        known = [half for half in halves if half is not None]
        alike = len(known) == len(halves) and len({half.dtype for half in known}) == 1
        return self._linked(name, known) if alike else None

    def _linked(self, name: str, arrays: list[np.ndarray]) -> np.ndarray:
        link, i, _ = self._links[name]
        linked = np.ascontiguousarray(link.part(arrays[0], i) if self._to == "canonical" else link.whole(arrays))
        linked.flags.writeable = False
        return linked
