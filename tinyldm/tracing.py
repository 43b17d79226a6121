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
from typing import Any, ParamSpec, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from tinyldm.tree import Weights
from tinyldm.typing import Array

P = ParamSpec("P")
T = TypeVar("T")

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


def milestone(name: str, array: Array) -> None:
    """Tell the trace an array between the models."""
    t = _current.get()
    if t is not None:
        t.milestone(name, array)


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
    linear = w is not None and len(w.shapes["weight"]) == 2
    return x.reshape(len(x), -1, x.shape[-1]) if linear and x.ndim == 4 else as_images(x, w)


# Modules --------------------------------------------------------------------------------------------------------------


def arrays_before(*args: Any, **more: Any) -> list[Array]:
    """The arrays in front of the node; of the list of skips those that the block's residual blocks will use."""
    arrays: list[Array] = []
    for arg in args[: _place(args)]:
        if isinstance(arg, np.ndarray):
            arrays.append(arg)
        elif isinstance(arg, list):
            arrays += arg[-len(args[_place(args)].resnets) :]
    return arrays


def module_with(
    layout: Layout = as_images, inputs: Callable[..., list[Array]] = arrays_before, path: str | None = None
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Mark a function of arrays and a node as a module: a trace is told its output under the node's path.

    `layout` is that of the original, `inputs` makes of the arguments the arrays that the original's module is given,
    and `path` names a module that the original has and the weights' names do not show.
    """

    def mark(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> T:
            t = _current.get()
            if t is None:
                return function(*args, **kwargs)
            node = cast(Weights, args[_place(args)])
            name, w = (node.path, node) if path is None else (path, None)
            given = [x.copy() for x in inputs(*args, **kwargs)] if t.wants_inputs(name) else []
            y = _computed(t, name, functools.partial(function, **kwargs), *args)
            t.record(name, layout(_first(y), w), tuple(layout(x, w) for x in given), w)
            return y

        return run

    return mark


module = module_with()


def _place(args: tuple[object, ...]) -> int:
    """Where the node is among the arguments."""
    return next(i for i, arg in enumerate(args) if isinstance(arg, Weights))


def _computed(t: Trace, path: str, function: Callable[..., T], *args: Any) -> T:
    """`function(*args)`; the trace is told that it is what the module `path` computes."""
    if not t.wants_call(path):
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


def ended(w: Weights, y: Array) -> Array:
    """After the last layer of an attention or a perceptron, its output as that of the whole, too."""
    t, ends = _current.get(), ENDS.fullmatch(w.path)
    if t is not None and ends is not None:
        t.record(ends[1], as_images(y, None), (), None)
    return y


def activated(x: Array, name: str, w: Weights) -> Array:  # (…) -> (…)
    """The activation in front of the layer `w`, as a module where the original has one there."""
    path = activation_path(w)
    return _activation(x, name, w) if path is None else module_with(path=path)(_activation)(x, name, w)


def _activation(x: Array, name: str, w: Weights) -> Array:
    y: Array = getattr(w.runtime.ops, name)(x)
    return y


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
