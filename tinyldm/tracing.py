"""What a run tells: the output of every module under its path, and the arrays between the models.

A trace belongs to the run that it was opened around (a context variable), not to the process.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from fnmatch import fnmatchcase
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from tinyldm.tree import Weights
from tinyldm.typing import Array

P = ParamSpec("P")
T = TypeVar("T")
X = TypeVar("X", bound=NDArray[Any])  # an array of floats or of integers

Layout = Callable[[Array, Weights | None], Array]  # of an array that a node is about: as the original has it

# The activations, which have no weights, by the layers that they stand before, in the order in which the original's
# block calls them (of a perceptron's first layer, behind it).
ACTIVATIONS = {
    "nonlinearity": ("conv1", "time_emb_proj", "conv2"),
    "conv_act": ("conv_out",),
    "act": ("linear_2",),
    "activation_fn": ("fc1",),
}
# The last layers of attentions and perceptrons, behind which the original's module ends and the residual is added.
ENDS = re.compile(r"(.*\.(?:attn[12]|self_attn|ff|mlp))\.(?:to_out\.0|out_proj|net\.2|fc2)")


class Trace(dict[str, Array]):
    """Outputs by module path, in the order of execution, in the layout that the original's modules have.

    Images are `(N, C, H, W)`, sequences `(N, tokens, C)`. This one keeps arrays; `tinyldm.golden` has one that writes a
    file. A module of the original without weights (an activation) is there under the original's name; where a block
    calls one several times, the original's second call is `nonlinearity#2`, the third `nonlinearity#3`.
    """

    def __init__(self, select: str = "*") -> None:
        super().__init__()
        self.select = select

    def begin(self, component: str, inputs: dict[str, NDArray[Any]]) -> None:
        """A model, such as `unet`, is called with these arrays."""

    def note(self, name: str, array: Array) -> None:
        """An array at the boundary of the model that began last: `epsilon`, `context`."""

    def milestone(self, name: str, array: Array) -> None:
        """An array between the models: the noise, the latents after a step."""

    def wants_inputs(self, path: str) -> bool:
        """Whether `record` is to be given the inputs of this module."""
        return False

    def wants_call(self, path: str) -> bool:
        """Whether `call` is to be told how this module is computed."""
        return False

    def call(self, path: str, output: Array, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        """A module has ended whose output is that of `function(*arguments)`, or the first of its outputs.

        Images are channels-last here. Whoever wants to can compute it again, on these inputs, in another way.
        """

    def record(self, path: str, output: Array, inputs: tuple[Array, ...], w: Weights | None) -> None:
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


def begin(component: str, **inputs: NDArray[Any]) -> None:
    """Tell the trace that a model is called."""
    t = _current.get()
    if t is not None:
        t.begin(component, inputs)


def note(**arrays: Array) -> None:
    """Tell the trace what a model returns."""
    t = _current.get()
    if t is not None:
        for name, array in arrays.items():
            t.note(name, array)


def milestone(name: str, array: Array) -> Array:
    """Tell the trace an array between the models, and hand it on."""
    t = _current.get()
    if t is not None:
        t.milestone(name, array)
    return array


def channels_first(x: Array) -> Array:
    """`(N, H, W, C) -> (N, C, H, W)`; a sequence stays as it is."""
    return np.ascontiguousarray(np.moveaxis(x, -1, 1)) if x.ndim == 4 else x


def channels_last(x: Array) -> Array:
    """`(N, C, H, W) -> (N, H, W, C)`."""
    return np.ascontiguousarray(np.moveaxis(x, 1, -1))


# Layouts of the original: views, since the trace copies what it keeps -------------------------------------------------


def as_images(x: Array, w: Weights | None) -> Array:
    """`(N, H, W, C) -> (N, C, H, W)`; a sequence stays as it is."""
    return np.moveaxis(x, -1, 1) if x.ndim == 4 else x


def as_channels_first(x: Array, w: Weights | None) -> Array:
    """`(N, …, C) -> (N, C, …)`, of tokens too: so the original's group norm has them."""
    return np.moveaxis(x, -1, 1)


def as_tokens(x: Array, w: Weights | None) -> Array:
    """`(N, H, W, C) -> (N, H·W, C)`: the original's linear layers see tokens, its 1×1 convolutions images."""
    linear = w is not None and len(w.shape()) == 2
    return x.reshape(len(x), -1, x.shape[-1]) if linear and x.ndim == 4 else as_images(x, w)


# Modules --------------------------------------------------------------------------------------------------------------


def traced(path: str, y: X, *inputs: Array, w: Weights | None = None, layout: Layout = as_images) -> X:
    """Tell the trace the output of the module `path`, in the original's layout, and hand it on."""
    t = _current.get()
    if t is not None:
        given = tuple(layout(x, w) for x in inputs) if t.wants_inputs(path) else ()
        t.record(path, layout(y, w), given, w)
    return y


def traced_node(w: Weights, y: X, *inputs: Array, layout: Layout = as_images) -> X:
    """Tell the trace the output of the module that the node `w` is, and hand it on."""
    return traced(w.path, y, *inputs, w=w, layout=layout)


def traced_end(w: Weights, y: Array) -> Array:
    """After the last layer of an attention or a perceptron, its output as that of the whole, too."""
    ends = ENDS.fullmatch(w.path)
    return y if ends is None else traced(ends[1], y)


def activation_path(w: Weights) -> str | None:
    """What the original calls the activation before the layer `w`, if it is a module there.

    One that a block calls again is `name#2`, `name#3`, counted in the order of the original, whatever ours is.
    """
    block, layer = w.parent, w.path.rpartition(".")[2]
    for name, layers in ACTIVATIONS.items():
        if layer in layers:
            call = [other for other in layers if other in block].index(layer) + 1
            path = f"{block.path}.{name}" if block.path else name
            return path if call == 1 else f"{path}#{call}"
    return None


def _computed(path: str, function: Callable[..., T], *args: Any) -> T:
    """`function(*args)`; the trace is told that it is what the module `path` computes."""
    t = _current.get()
    if t is None or not t.wants_call(path):
        return function(*args)
    kept = tuple(_snapshot(arg) for arg in args)
    y = function(*args)
    t.call(path, _first(y), function, kept)
    return y


def _first(output: Any) -> Any:
    """What a module returns, or the first of its outputs."""
    return output[0] if isinstance(output, tuple) else output


def _snapshot(arg: Any) -> Any:
    """An argument as it is now: what is in it may be used up or written over."""
    return [x.copy() for x in arg] if isinstance(arg, list) else arg.copy() if isinstance(arg, np.ndarray) else arg


def module(function: Callable[P, T]) -> Callable[P, T]:
    """Mark a function whose last positional argument is its node as a module: its output is traced under that path."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        t = _current.get()
        if t is None:
            return function(*args, **kwargs)
        w: Any = args[-1]
        inputs = [x.copy() for x in _arrays(args[:-1], w)] if t.wants_inputs(w.path) else []
        y = _computed(w.path, functools.partial(function, **kwargs), *args)
        traced_node(w, _first(y), *inputs)
        return y

    return run


def as_module(path: str, function: Callable[..., Array], x: Array, *args: Any) -> Array:  # (…) -> (…)
    """`function(x, *args)` as the module `path`, which the original has and the weights' names do not show."""
    return traced(path, _computed(path, function, x, *args), x)


def operator(function: Callable[Concatenate[X, Weights, P], Array]) -> Callable[Concatenate[X, Weights, P], Array]:
    """Mark a function of an array and a node that traces its own output: the trace is told how it is computed."""

    @functools.wraps(function)
    def run(x: X, w: Weights, /, *args: P.args, **kwargs: P.kwargs) -> Array:
        t = _current.get()
        if t is None:
            return function(x, w, *args, **kwargs)
        return _computed(w.path, functools.partial(function, **kwargs), x, w, *args)

    return run


def _arrays(args: tuple[Any, ...], w: Weights) -> Iterator[Array]:
    """The arrays among the arguments; of the list of skips those that the block's resnets will use."""
    for arg in args:
        if isinstance(arg, np.ndarray):
            yield arg
        elif isinstance(arg, list):
            yield from arg[-len(w.resnets) :]
