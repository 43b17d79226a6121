"""Recording what a model computes, key by key, in memory or straight into a golden file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from typing import Any

import numpy as np

from tinyldm import tracing
from tinyldm.golden.store import GoldenWriter, selected

Sink = Callable[[str, np.ndarray, tuple[np.ndarray, ...]], None]  # key, output, inputs


class GoldenTrace(tracing.Trace):
    """Tensors by golden key, in the order of execution: `t["0000/unet/mid_block.resnets.0.conv1"]`.

    The step in a key counts the calls of that model: for a UNet it is the step of the sampler. `inputs` has the inputs
    of each module, where they were asked for. With a `sink`, tensors go there and are not kept. `rename` makes the
    names of the original layout out of keys.
    """

    def __init__(
        self,
        select: str | Sequence[str] = "*",
        inputs: bool = False,
        sink: Sink | None = None,
        rename: Callable[[str], str] | None = None,
    ) -> None:
        super().__init__()
        self.named = rename or (lambda key: key)
        self.patterns = [select] if isinstance(select, str) else list(select)
        self.inputs: dict[str, tuple[np.ndarray, ...]] = {}
        self._keep_inputs = inputs
        self._sink = sink or self._keep
        self._calls: dict[str, int] = {}
        self._at = "0000/model"  # a node that is called by itself, outside any model
        self._method = ""

    def begin(self, component: str, inputs: dict[str, np.ndarray]) -> None:
        """Begin a step of a model: `vae.decode` is a call of the component `vae`, whose arrays are `vae:decode.z`, …"""
        step = self._calls.get(component, 0)
        self._calls[component] = step + 1
        name, _, method = component.partition(".")
        self._at, self._method = f"{step:04d}/{name}", f"{method}." if method else ""
        for argument, array in inputs.items():
            self.note(argument, array)

    def note(self, name: str, array: np.ndarray) -> None:
        """Record an array at the boundary of the model that is running."""
        self._take(f"{self._at}:{self._method}{name}", array)

    def milestone(self, name: str, array: np.ndarray) -> None:
        """Record an array between the models."""
        self._take(name, array)

    def wants_inputs(self, path: str) -> bool:
        """Whether inputs are kept and the module is one that was selected."""
        return self._keep_inputs and self.selected(self.key(path))

    def key(self, path: str) -> str:
        """The key of a module of the model that is running, before it is renamed."""
        return f"{self._at}/{path}"

    def record(self, path: str, output: np.ndarray, inputs: tuple[np.ndarray, ...], w: Any) -> None:
        """Record the output of a module."""
        self._take(self.key(path), output, inputs)

    def save(self, path: str | PathLike[str], **metadata: Any) -> None:
        """Write what was kept as a golden file."""
        with GoldenWriter(path, metadata) as golden:
            for key, array in self.items():
                golden.add(key, array, self.inputs.get(key, ()))

    def selected(self, key: str) -> bool:
        """Whether a key, or what `rename` makes of it, matches one of the patterns."""
        return selected(key, self.patterns) or selected(self.named(key), self.patterns)

    def _take(self, key: str, array: np.ndarray, inputs: tuple[np.ndarray, ...] = ()) -> None:
        if self.selected(key):
            self._sink(self.named(key), np.asarray(array), inputs)

    def _keep(self, key: str, array: np.ndarray, inputs: tuple[np.ndarray, ...]) -> None:
        self[key] = np.array(array, order="C")
        if inputs:
            self.inputs[key] = tuple(np.array(x, order="C") for x in inputs)


@contextmanager
def trace(select: str | Sequence[str] = "*", inputs: bool = False, sink: Sink | None = None) -> Iterator[GoldenTrace]:
    """Record all that the models compute while the context is open.

    ```python
    with tinyldm.golden.trace("*/unet/mid_block*") as t:
        model.unet(z, 500, context)
    t["0000/unet/mid_block.resnets.0.conv1"]  # (N, C, H, W)
    ```

    `select` is a glob pattern of keys, or several; `inputs=True` keeps the inputs of each module too.
    """
    recording = GoldenTrace(select, inputs, sink)
    with tracing.trace(into=recording):
        yield recording
