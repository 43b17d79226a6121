"""What a run tells: the output of every module under its path, and the arrays between the models.

A trace belongs to the run that it was opened around (a context variable), not to the process.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from tinyldm.tree import Weights


class Trace(dict[str, np.ndarray]):
    """Outputs by module path, in the order of execution, in the layout that the original's modules have.

    Images are `(N, C, H, W)`, sequences `(N, tokens, C)`. This one keeps arrays; `tinyldm.golden` has one that writes a
    file. A module of the original without weights (an activation) is there under the original's name; where a block
    calls one several times, the original's second call is `nonlinearity#2`, the third `nonlinearity#3`.
    """

    def __init__(self, select: str = "*") -> None:
        super().__init__()
        self.select = select

    def begin(self, component: str, inputs: dict[str, np.ndarray]) -> None:
        """A model, such as `unet`, is called with these arrays."""

    def note(self, name: str, array: np.ndarray) -> None:
        """An array at the boundary of the model that began last: `epsilon`, `context`."""

    def milestone(self, name: str, array: np.ndarray) -> None:
        """An array between the models: the noise, the latents after a step."""

    def wants_inputs(self, path: str) -> bool:
        """Whether `record` is to be given the inputs of this module."""
        return False

    def wants_alone(self, path: str) -> bool:
        """Whether `alone` is to be told how this module is computed."""
        return False

    def alone(self, path: str, output: np.ndarray, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        """A module has ended whose output is that of `function(*arguments)`, or the first of its outputs.

        Images are channels-last here. Whoever wants to can compute it again, on these inputs, in another way.
        """

    def record(self, path: str, output: np.ndarray, inputs: tuple[np.ndarray, ...], w: Weights | None) -> None:
        """A module has ended; the arrays are not copied yet. `w` is its node, None for one without weights."""
        if fnmatchcase(path, self.select):
            self[path] = np.array(output)


_current: ContextVar[Trace | None] = ContextVar("trace", default=None)


@contextlib.contextmanager
def trace(select: str = "*", into: Trace | None = None) -> Iterator[Trace]:
    """Record every module's output while the context is open: `with trace() as t: …; t["mid_block.resnets.0.conv1"]`.

    `select` is a glob pattern of paths; `into` another kind of trace to record into. Fused operators run as the plain
    ones, so that nothing is hidden.
    """
    recording = Trace(select) if into is None else into
    token = _current.set(recording)
    try:
        yield recording
    finally:
        _current.reset(token)


def tracing() -> bool:
    """Whether a trace is on in this run."""
    return _current.get() is not None


def wants_inputs(path: str) -> bool:
    """Whether a trace is on that is to be given the inputs of the module `path`."""
    t = _current.get()
    return t is not None and t.wants_inputs(path)


def begin(component: str, **inputs: np.ndarray) -> None:
    """Tell the trace that a model is called."""
    t = _current.get()
    if t is not None:
        t.begin(component, inputs)


def note(**arrays: np.ndarray) -> None:
    """Tell the trace what a model returns."""
    t = _current.get()
    if t is not None:
        for name, array in arrays.items():
            t.note(name, array)


def milestone(name: str, array: np.ndarray) -> np.ndarray:
    """Tell the trace an array between the models, and hand it on."""
    t = _current.get()
    if t is not None:
        t.milestone(name, array)
    return array


def channels_first(x: np.ndarray) -> np.ndarray:
    """`(N, H, W, C) -> (N, C, H, W)`; a sequence stays as it is."""
    return np.ascontiguousarray(np.moveaxis(x, -1, 1)) if x.ndim == 4 else x


def channels_last(x: np.ndarray) -> np.ndarray:
    """`(N, C, H, W) -> (N, H, W, C)`."""
    return np.ascontiguousarray(np.moveaxis(x, 1, -1))


def traced(path: str, y: np.ndarray, *inputs: np.ndarray, w: Weights | None = None) -> np.ndarray:
    """Tell the trace the output of the module `path`, and hand it on; images are shown to the trace channels-first."""
    t = _current.get()
    if t is not None:
        given = tuple(_as_published(x) for x in inputs) if t.wants_inputs(path) else ()
        t.record(path, _as_published(y), given, w)
    return y


def _as_published(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, -1, 1) if x.ndim == 4 else x  # a view: the trace copies what it keeps


def traced_node(w: Weights, y: np.ndarray, *inputs: np.ndarray) -> np.ndarray:
    """Tell the trace the output of the module that the node `w` is, and hand it on."""
    return traced(w.path, y, *inputs, w=w)


def _computed(path: str, function: Callable[..., Any], *args: Any) -> Any:
    """`function(*args)`; the trace is told that it is what the module `path` computes."""
    t = _current.get()
    if t is None or not t.wants_alone(path):
        return function(*args)
    kept = tuple(_snapshot(arg) for arg in args)
    y = function(*args)
    t.alone(path, y[0] if isinstance(y, tuple) else y, function, kept)
    return y


def _snapshot(arg: Any) -> Any:
    """An argument as it is now: what is in it may be used up or written over."""
    return [x.copy() for x in arg] if isinstance(arg, list) else arg.copy() if isinstance(arg, np.ndarray) else arg


def module(function: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a function whose last positional argument is its node as a module: its output is traced under that path."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        t = _current.get()
        if t is None:
            return function(*args, **kwargs)
        w = args[-1]
        inputs = [x.copy() for x in _arrays(args[:-1], w)] if t.wants_inputs(w.path) else []
        y = _computed(w.path, functools.partial(function, **kwargs), *args)
        traced_node(w, y[0] if isinstance(y, tuple) else y, *inputs)
        return y

    return run


def as_module(path: str, function: Callable[..., np.ndarray], x: np.ndarray, *args: Any) -> np.ndarray:
    """`function(x, *args)` as the module `path`, which the original has and the weights' names do not show."""
    return traced(path, _computed(path, function, x, *args), x)


def operator(function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """Mark a function of an array and a node that traces its own output: the trace is told how it is computed."""

    @functools.wraps(function)
    def run(x: np.ndarray, w: Weights, *args: Any, **kwargs: Any) -> np.ndarray:
        t = _current.get()
        if t is None:
            return function(x, w, *args, **kwargs)
        return _computed(w.path, functools.partial(function, **kwargs), x, w, *args)

    return run


def _arrays(args: tuple[Any, ...], w: Weights) -> Iterator[np.ndarray]:
    """The arrays among the arguments; of the list of skips those that the block's resnets will use."""
    for arg in args:
        if isinstance(arg, np.ndarray):
            yield arg
        elif isinstance(arg, list):
            yield from arg[-len(w.resnets) :]
