"""The weight tree: a checkpoint seen as the nested modules that its names describe.

`w.down_blocks[0].resnets[1].conv1.weight` is the tensor `down_blocks.0.resnets.1.conv1.weight` of the file. A node
knows its path, reads its arrays when first asked, and keeps what a kernel prepared from them. Model code walks the tree
as it would walk the original's modules.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase, translate
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike

from tinyldm.errors import CheckpointError
from tinyldm.ops.bfloat16 import count_not_finite
from tinyldm.typing import Array

Settings = Iterable[tuple[str, Mapping[str, Any]]]  # (path pattern, {name: value}); a later match wins


class TensorSource(Protocol):
    """What the tree asks of the place that its weights come from (`tinyldm.checkpoints.base.TensorSource`)."""

    @property
    def path(self) -> str:
        """What messages call the whole source."""

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors' names."""

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it."""

    def read(self, name: str, dtype: DTypeLike | None = np.float32) -> Array:
        """A tensor, converted to `dtype`."""

    def read_half(self, name: str) -> Array | None:
        """A tensor of 16-bit floats unconverted, as float16 or `BFLOAT16`; None for any other."""
        return None

    def path_of(self, name: str) -> str:
        """The file that holds a tensor; the whole source, where it is not made of files."""
        return self.path


class Weights:
    """A node of the tree; the root is made from a source of tensors, and with it every other node.

    `path` is the node's place, `shapes` has the shapes of its own arrays by name, `settings` what the configuration
    says of it: the groups and epsilon of a norm, the heads of an attention, bound by path pattern. `dtype` is what
    arrays are converted to; `keep=False` reads them anew each time instead of keeping them (low memory).
    """

    def __init__(
        self,
        source: TensorSource,
        *,
        runtime: Any = None,
        settings: Settings = (),
        dtype: np.dtype | type = np.float32,
        keep: bool = True,
    ) -> None:
        self.path = ""
        self.runtime = runtime
        self.source = source
        self.dtype = np.dtype(dtype)
        self.keep = keep
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.settings: dict[str, Any] = {}
        self._children: dict[str, Weights] = {}
        self._cache: dict[Any, Any] = {}
        self._root = self
        for name in source.names:
            self._insert(name)
        self.bind(settings)

    def _insert(self, name: str) -> None:
        """Create the nodes on the way to the tensor `name`."""
        node = self
        *modules, leaf = name.split(".")
        for module in modules:
            if module not in node._children:
                node._children[module] = node._child(module)
            node = node._children[module]
        node.shapes[leaf] = tuple(self.source.shape(name))

    def _child(self, name: str) -> Weights:
        child = Weights.__new__(Weights)
        child.path = f"{self.path}.{name}" if self.path else name
        child.runtime, child.source, child.dtype, child.keep = self.runtime, self.source, self.dtype, self.keep
        child._root, child._children, child._cache, child.shapes, child.settings = self._root, {}, {}, {}, {}
        return child

    def bind(self, settings: Settings) -> None:
        """Give the nodes here and below what a configuration says of them; of two rules for a node the later wins."""
        rules = [(re.compile(translate(pattern)).match, values) for pattern, values in settings]
        for node in self.modules():
            for matches, values in rules:
                if matches(node.path):
                    node.settings |= values

    # Walking -------------------------------------------------------------------------------------------------------

    def __getattr__(self, key: str | int) -> Any:
        """A child node, by its name or its number (`w.resnets[0]`), or an array in the tree's dtype."""
        name = str(key)
        if name.startswith("__"):
            raise AttributeError(name)
        if name in self._children:
            return self._children[name]
        if name in self.shapes:
            return self.prepared(name, lambda node: node.read(name))
        here = ", ".join(sorted([*self._children, *self.shapes])) or "nothing"
        full = f"{self.path}.{name}" if self.path else name
        raise CheckpointError(f"the weights have no {full}; at {self.path or 'the root'} there is: {here}")

    __getitem__ = __getattr__

    def __contains__(self, name: str) -> bool:
        return name in self._children or name in self.shapes

    def __iter__(self) -> Iterator[Weights]:
        """The numbered children in order: `for resnet in w.resnets`."""
        return (self._children[key] for key in sorted(self._children, key=int))

    def __len__(self) -> int:
        return len(self._children)

    def modules(self) -> Iterator[Weights]:
        """This node and all below it."""
        yield self
        for child in self._children.values():
            yield from child.modules()

    @property
    def parent(self) -> Weights:
        """The node around this one; the root's is the root."""
        return self._root.at(self.path.rpartition(".")[0])

    def __repr__(self) -> str:
        return f"<Weights {self.path or 'root'}: {', '.join([*self._children, *sorted(self.shapes)])}>"

    # Reading -------------------------------------------------------------------------------------------------------

    def read(self, name: str, dtype: np.dtype | type | None = None) -> Array:
        """Read the array `name` from the source in `dtype` (by default the tree's), and keep nothing.

        Raises `CheckpointError` for an array that holds NaN or infinity.
        """
        full = f"{self.path}.{name}" if self.path else name
        array = self.source.read(full, self.dtype if dtype is None else dtype)
        with np.errstate(all="ignore"):  # the sum is only asked whether it is finite, which is quicker than to ask each
            suspect = array.dtype.kind == "f" and not np.isfinite(array.sum())
        if suspect:
            self._check_finite(full, int(array.size - np.isfinite(array).sum()))
        return array

    def read_unconverted(self, name: str) -> Array:
        """As `read`, but 16-bit floats as they are stored: for what converts them a block at a time."""
        full = f"{self.path}.{name}" if self.path else name
        half = self.source.read_half(full)
        if half is None:
            return self.read(name)
        self._check_finite(full, count_not_finite(half))
        return half

    def _check_finite(self, full: str, bad: int) -> None:
        if bad:
            where = self.source.path_of(full)
            raise CheckpointError(f"{where}: the weight {full} holds {bad} values that are NaN or infinite")

    def get(self, name: str) -> Array | None:
        """The array `name`, or None where the node has none (a layer without a bias)."""
        return getattr(self, name) if name in self.shapes else None

    def prepared(self, key: Any, make: Callable[[Weights], Any]) -> Any:
        """What `make` builds from this node, built once and kept under `key` unless the tree was told not to."""
        if key in self._cache:
            return self._cache[key]
        value = make(self)
        if self.keep:
            self._cache[key] = value
        return value

    def at(self, path: str) -> Weights:
        """The node below this one at a path: `w.at("down_blocks.0.resnets.1")`."""
        node = self
        for part in path.split(".") if path else ():
            node = node[part]
        return node

    def computed_by(self, runtime: Any) -> Weights:
        """This node and all below it under another runtime of the same backend; what is kept is shared, dropped too."""
        return self._copied(runtime, None)

    def _copied(self, runtime: Any, root: Weights | None) -> Weights:
        node = copy.copy(self)
        node.runtime, node._root = runtime, node if root is None else root
        node._children = {name: child._copied(runtime, node._root) for name, child in self._children.items()}
        return node

    def forget(self) -> None:
        """Forget all that was read and prepared at this node, and not below; the next use reads the file again."""
        self._cache.clear()

    def drop(self) -> None:
        """Forget all that was read and prepared at this node and below."""
        for node in self.modules():
            node.forget()


def bind_weights(
    source: TensorSource,
    expected: Mapping[str, tuple[int, ...]],
    runtime: Any,
    *,
    component: str,
    settings: Settings = (),
    extras: Iterable[str] = (),
) -> Weights:
    """The tree of a model: its weights checked, its settings bound, its arrays in the dtype of the runtime."""
    check_weights(source, expected, component=component, extras=extras)
    keep = not runtime.low_memory
    return Weights(source, runtime=runtime, settings=settings, dtype=runtime.dtype, keep=keep)


def check_weights(
    source: TensorSource,
    expected: Mapping[str, tuple[int, ...]],
    *,
    component: str,
    extras: Iterable[str] = (),
) -> None:
    """Check that a file holds what the architecture needs and nothing unknown, before anything is computed.

    `expected` is `{name: shape}`; `extras` are patterns of names that may be there and are not used. A 1×1 convolution
    and a linear layer of the same channels are the same weight, so `(a, b, 1, 1)` passes for `(a, b)` and back.

    Raises `CheckpointError` naming the file, the weight, and the shape found and wanted.
    """
    names = set(source.names)
    missing = [name for name in expected if name not in names]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise CheckpointError(
            f"{source.path}: the {component} needs the weight {missing[0]} of shape {expected[missing[0]]}, "
            f"which is not there{more}"
        )
    for name, wanted in expected.items():
        found = tuple(source.shape(name))
        if _squeezed(found) != _squeezed(tuple(wanted)):
            raise CheckpointError(
                f"{source.path_of(name)}: the weight {name} has the shape {found}, "
                f"the {component}'s config wants {tuple(wanted)}"
            )
    unknown = sorted(n for n in names - set(expected) if not any(fnmatchcase(n, p) for p in extras))
    if unknown:
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        shape = tuple(source.shape(unknown[0]))
        raise CheckpointError(
            f"{source.path_of(unknown[0])}: the weight {unknown[0]} of shape {shape} has no place in the {component} "
            f"that the config describes{more}"
        )


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[:2] if len(shape) == 4 and shape[2:] == (1, 1) else shape
