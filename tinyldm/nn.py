"""What models are written in: the operators, bound to nodes of the weight tree.

`conv2d(x, w.conv1)` takes the filters, the bias and the settings from the node, calls the operator of the backend
that was chosen at load, and tells the trace, if one is on, the output under the node's path. The reference backend is
`tinyldm.ops` in any float dtype; the Numba backend is `tinyldm.kernels` in float32, with weights packed once.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from tinyldm import ops
from tinyldm.errors import InputError
from tinyldm.ops.conv import Padding

Weights = Any  # tinyldm.checkpoints.tree.Weights, which lies beside this module and is not imported

BACKENDS = ("numba", "reference")
PRECISIONS = ("fast", "strict")


@dataclass(frozen=True)
class Runtime:
    """How to compute: the backend, its dtype, and for the Numba backend the precision, threads and memory policy.

    `backend="reference"` takes float32 and float64, `backend="numba"` float32 only. Raises `InputError` otherwise.
    """

    backend: str = "reference"
    dtype: np.dtype = field(default=np.dtype(np.float32))
    precision: str = "fast"
    threads: int | None = None
    low_memory: bool = False

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "dtype", np.dtype(self.dtype))
        except TypeError:
            raise InputError(f"dtype {self.dtype!r} is unknown; known are float32 and float64") from None
        if self.backend not in BACKENDS:
            raise InputError(f"backend {self.backend!r} is unknown; known are {', '.join(BACKENDS)}")
        if self.precision not in PRECISIONS:
            raise InputError(f"precision {self.precision!r} is unknown; known are {', '.join(PRECISIONS)}")
        if self.dtype not in (np.float32, np.float64):
            raise InputError(f"dtype {self.dtype} is not supported; supported are float32 and float64")
        if self.backend == "numba" and self.dtype != np.float32:
            raise InputError(f"the numba backend computes in float32, not {self.dtype}; choose backend='reference'")
        if self.threads is not None and self.threads < 1:
            raise InputError(f"threads must be at least 1, not {self.threads}")

    @classmethod
    def choose(
        cls,
        backend: str | None = None,
        dtype: Any = "float32",
        precision: str | None = None,
        threads: int | None = None,
        low_memory: bool = False,
    ) -> Runtime:
        """A runtime from arguments; `TINYLDM_BACKEND`, `_PRECISION` and `_THREADS` stand in for those not given.

        Raises `InputError` for a value that is not known, with the name of the variable where it came from one.
        """
        for name, given, known in (("BACKEND", backend, BACKENDS), ("PRECISION", precision, PRECISIONS)):
            value = os.environ.get(f"TINYLDM_{name}")
            if not given and value and value not in known:
                raise InputError(f"TINYLDM_{name} {value!r} is unknown; known are {', '.join(known)}")
        named = os.environ.get("TINYLDM_THREADS")
        if threads is None and named:
            if not named.isascii() or not named.isdigit() or not int(named):
                raise InputError(f"TINYLDM_THREADS must be a whole number of 1 or more, not {named!r}")
            threads = int(named)
        backend = backend or os.environ.get("TINYLDM_BACKEND") or "numba"
        precision = precision or os.environ.get("TINYLDM_PRECISION") or "fast"
        return cls(backend, dtype, precision, threads, low_memory)

    @functools.cached_property
    def ops(self) -> Any:
        """The module whose functions compute: `tinyldm.ops` or `tinyldm.kernels`."""
        if self.backend == "reference":
            return ops
        from tinyldm import kernels  # here, because Numba takes a while to import

        if self.threads is not None:
            kernels.set_threads(self.threads)
        return kernels


# Tracing ----------------------------------------


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


_trace: Trace | None = None


@contextlib.contextmanager
def trace(select: str = "*", into: Trace | None = None) -> Iterator[Trace]:
    """Record every module's output while the context is open: `with trace() as t: …; t["mid_block.resnets.0.conv1"]`.

    `select` is a glob pattern of paths; `into` another kind of trace to record into. Fused operators run as the plain
    ones, so that nothing is hidden.
    """
    global _trace
    previous, _trace = _trace, Trace(select) if into is None else into
    try:
        yield _trace
    finally:
        _trace = previous


def tracing() -> bool:
    """Whether a trace is on."""
    return _trace is not None


def begin(component: str, **inputs: np.ndarray) -> None:
    """Tell the trace that a model is called."""
    if _trace is not None:
        _trace.begin(component, inputs)


def note(**arrays: np.ndarray) -> None:
    """Tell the trace what a model returns."""
    if _trace is not None:
        for name, array in arrays.items():
            _trace.note(name, array)


def milestone(name: str, array: np.ndarray) -> np.ndarray:
    """Tell the trace an array between the models, and hand it on."""
    if _trace is not None:
        _trace.milestone(name, array)
    return array


def channels_first(x: np.ndarray) -> np.ndarray:
    """`(N, H, W, C) -> (N, C, H, W)`; a sequence stays as it is."""
    return np.ascontiguousarray(np.moveaxis(x, -1, 1)) if x.ndim == 4 else x


def channels_last(x: np.ndarray) -> np.ndarray:
    """`(N, C, H, W) -> (N, H, W, C)`."""
    return np.ascontiguousarray(np.moveaxis(x, 1, -1))


def traced(path: str, y: np.ndarray, *inputs: np.ndarray, w: Weights | None = None) -> np.ndarray:
    """Tell the trace the output of the module `path`, and hand it on; images are shown to the trace channels-first."""
    if _trace is not None:
        given = tuple(_as_published(x) for x in inputs) if _trace.wants_inputs(path) else ()
        _trace.record(path, _as_published(y), given, w)
    return y


def _as_published(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, -1, 1) if x.ndim == 4 else x  # a view: the trace copies what it keeps


def _traced(w: Weights, y: np.ndarray, *inputs: np.ndarray) -> np.ndarray:
    return traced(w.path, y, *inputs, w=w)


def _computed(path: str, function: Callable[..., Any], *args: Any) -> Any:
    """`function(*args)`; the trace is told that it is what the module `path` computes."""
    if _trace is None or not _trace.wants_alone(path):
        return function(*args)
    kept = tuple(_snapshot(arg) for arg in args)
    y = function(*args)
    _trace.alone(path, y[0] if isinstance(y, tuple) else y, function, kept)
    return y


def _snapshot(arg: Any) -> Any:
    """An argument as it is now: what is in it may be used up or written over."""
    return [x.copy() for x in arg] if isinstance(arg, list) else arg.copy() if isinstance(arg, np.ndarray) else arg


def module(function: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a function whose last positional argument is its node as a module: its output is traced under that path."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        if _trace is None:
            return function(*args, **kwargs)
        w = args[-1]
        inputs = [x.copy() for x in _arrays(args[:-1], w)] if _trace.wants_inputs(w.path) else []
        y = _computed(w.path, functools.partial(function, **kwargs), *args)
        _traced(w, y[0] if isinstance(y, tuple) else y, *inputs)
        return y

    return run


def as_module(path: str, function: Callable[..., np.ndarray], x: np.ndarray, *args: Any) -> np.ndarray:
    """`function(x, *args)` as the module `path`, which the original has and the weights' names do not show."""
    return traced(path, _computed(path, function, x, *args), x)


def operator(function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """Mark a function of an array and a node that traces its own output: the trace is told how it is computed."""

    @functools.wraps(function)
    def run(x: np.ndarray, w: Weights, *args: Any, **kwargs: Any) -> np.ndarray:
        if _trace is None:
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


# Modules of the original that have no weights, or whose residual it adds outside: named here, from a neighbour's path


_ENDS = re.compile(r"(.*\.(?:attn[12]|self_attn|ff|mlp))\.(?:to_out\.0|out_proj|net\.2|fc2)")


def _traced_parent(w: Weights, y: np.ndarray) -> None:
    """After the last layer of an attention or a perceptron, its output as that of the whole."""
    ends = _ENDS.fullmatch(w.path)
    if ends is not None:
        traced(ends[1], y)


def _silu_after(norm: Weights) -> str:
    """The path of the SiLU behind a norm: a residual block calls its own again for the time embedding in between."""
    block, _, name = norm.path.rpartition(".")
    prefix = f"{block}." if block else ""
    if name != "norm1" and name != "norm2":
        return f"{prefix}conv_act"
    call = "" if name == "norm1" else "#3" if f"{prefix}time_emb_proj.weight" in norm.source else "#2"
    return f"{prefix}nonlinearity{call}"


# Operators ----------------------------------------


@operator
def linear(x: np.ndarray, w: Weights) -> np.ndarray:
    """`ops.linear` with the node's weight and bias; a 1×1 convolution's weight is taken as the matrix that it is."""
    y = w.runtime.ops.linear(x, _matrix(w), w.get("bias"))
    if _trace is not None and y.ndim == 4 and len(w.shape()) == 2:  # the original's linear layers see tokens
        _traced(w, _tokens(y), _tokens(x))
        return y
    return _traced(w, y, x)


def _tokens(x: np.ndarray) -> np.ndarray:
    return x.reshape(x.shape[0], -1, x.shape[-1])


@operator
def conv2d(x: np.ndarray, w: Weights, stride: int = 1, padding: Padding | None = None) -> np.ndarray:
    """`ops.conv2d` with the node's weight and bias; the default padding keeps the size at stride 1."""
    padding = (w.shape()[-1] - 1) // 2 if padding is None else padding
    y = w.runtime.ops.conv2d(x, _filters(w, stride), w.get("bias"), stride=stride, padding=padding)
    if _trace is not None and isinstance(padding, tuple) and _trace.wants_inputs(w.path):
        x = np.pad(x, ((0, 0), padding[:2], padding[2:], (0, 0)))  # the original pads before its convolution
    return _traced(w, y, x)


@operator
def group_norm(x: np.ndarray, w: Weights) -> np.ndarray:
    """`ops.group_norm` with the node's weight, bias, groups and epsilon."""
    y = w.runtime.ops.group_norm(x, w.weight, w.bias, w.setting("groups"), w.setting("eps"))
    if _trace is not None and y.ndim == 3:  # the original's group norm has the channels first, of tokens too
        _traced(w, np.moveaxis(y, -1, 1), np.moveaxis(x, -1, 1))
        return y
    return _traced(w, y, x)


@operator
def layer_norm(x: np.ndarray, w: Weights) -> np.ndarray:
    """`ops.layer_norm` with the node's weight, bias and epsilon."""
    return _traced(w, w.runtime.ops.layer_norm(x, w.weight, w.bias, w.setting("eps")), x)


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, w: Weights, mask: np.ndarray | None = None) -> np.ndarray:
    """`ops.attention` with the node's number of heads."""
    return w.runtime.ops.attention(q, k, v, w.setting("heads"), mask)


@operator
def embedding(ids: np.ndarray, w: Weights) -> np.ndarray:
    """`ops.embedding` with the node's table."""
    return _traced(w, w.runtime.ops.embedding(ids, w.weight), np.asarray(ids))


def silu(x: np.ndarray, w: Weights, name: str) -> np.ndarray:
    """`ops.silu`, for the small vectors of the time embedding; to the original, it is the module `name` of the node."""
    return as_module(f"{w.path}.{name}", _activate, x, "silu", w)


def _activate(x: np.ndarray, name: str, w: Weights) -> np.ndarray:
    return getattr(w.runtime.ops, name)(x)


# What a backend makes of a weight: the array itself, or a copy that was arranged for its kernels once -----------------


def _matrix(w: Weights, gated: bool = False) -> Any:
    """The matrix of a linear layer, or of a 1×1 convolution; `gated` where a GEGLU follows."""
    if w.runtime.backend == "reference":
        return _as_matrix(w.weight)
    prepare = w.runtime.ops.prepare_linear
    return w.prepared(("linear", gated), lambda node: prepare(_as_matrix(node.read("weight")), gated=gated))


def _matrices(w: Weights, names: tuple[str, ...]) -> Any:
    """The matrices of the linear layers under these names."""
    if w.runtime.backend == "reference":
        return [_as_matrix(w[name].weight) for name in names]
    prepare = w.runtime.ops.prepare_linears
    return w.prepared(("linears", names), lambda node: prepare([node[name].read("weight") for name in names]))


def _as_matrix(weight: np.ndarray) -> np.ndarray:
    return weight.reshape(weight.shape[:2]) if weight.ndim == 4 else weight


def _filters(w: Weights, stride: int = 1) -> Any:
    """The filters of a convolution."""
    if w.runtime.backend == "reference":
        return w.weight
    prepare, precision = w.runtime.ops.prepare_conv2d, w.runtime.precision
    return w.prepared(("conv2d", stride), lambda node: prepare(node.read("weight"), stride, precision))


def _upsampling_filters(w: Weights) -> Any:
    """The filters of a convolution that follows an upsampling."""
    if w.runtime.backend == "reference":
        return w.weight
    prepare, precision = w.runtime.ops.prepare_upsample_conv2d, w.runtime.precision
    return w.prepared("upsample_conv2d", lambda node: prepare(node.read("weight"), precision))


# Composites: fused by a backend that can, unfused while tracing ----------------------------------------


def norm_silu_conv2d(
    x: np.ndarray,
    norm: Weights,
    conv: Weights,
    *,
    shift: np.ndarray | None = None,
    residual: np.ndarray | None = None,
) -> np.ndarray:
    """`ops.norm_silu_conv2d` with padding that keeps the size: norm, SiLU, convolution, plus shift, plus residual."""
    if _trace is not None:
        h = group_norm(x, norm)
        h = conv2d(as_module(_silu_after(norm), _activate, h, "silu", conv), conv)
        h = h if shift is None else h + shift[:, None, None, :]
        return h if residual is None else h + residual
    padding = (conv.shape()[-1] - 1) // 2
    return conv.runtime.ops.norm_silu_conv2d(
        x,
        norm.weight,
        norm.bias,
        norm.setting("groups"),
        norm.setting("eps"),
        _filters(conv),
        conv.get("bias"),
        padding=padding,
        shift=shift,
        residual=residual,
    )


@operator
def upsample_conv2d(x: np.ndarray, w: Weights, size: tuple[int, int] | None = None) -> np.ndarray:
    """`ops.upsample_conv2d`: repeat pixels to twice the size (or to `size`), then a 3×3 convolution."""
    y = w.runtime.ops.upsample_conv2d(x, _upsampling_filters(w), w.get("bias"), size)
    if _trace is not None and _trace.wants_inputs(w.path):  # what the original's convolution sees
        x = ops.upsample_nearest(x, size)
    return _traced(w, y, x)


def linear_residual(x: np.ndarray, w: Weights, residual: np.ndarray) -> np.ndarray:
    """`ops.linear_residual`: a linear layer plus what goes around it."""
    if _trace is not None:
        y = linear(x, w)
        _traced_parent(w, y)
        return y + residual
    return w.runtime.ops.linear_residual(x, _matrix(w), w.get("bias"), residual)


def linears(x: np.ndarray, w: Weights, *names: str) -> list[np.ndarray]:
    """`ops.linears`: the linear layers under these names of the node, all of the same x."""
    nodes = [w[name] for name in names]
    if _trace is not None:
        return [linear(x, node) for node in nodes]
    return w.runtime.ops.linears(x, _matrices(w, names), [node.get("bias") for node in nodes])


def linear_geglu(x: np.ndarray, w: Weights) -> np.ndarray:
    """`ops.linear_geglu`: a linear layer to twice the channels, one half gating the other."""
    if _trace is not None:
        return as_module(w.path.removesuffix(".proj"), _linear_then_geglu, x, w)
    return w.runtime.ops.linear_geglu(x, _matrix(w, gated=True), w.get("bias"))


def _linear_then_geglu(x: np.ndarray, w: Weights) -> np.ndarray:
    return w.runtime.ops.geglu(linear(x, w))


def linear_activation(x: np.ndarray, w: Weights, activation: str) -> np.ndarray:
    """`ops.linear_activation`: a linear layer and one of `silu`, `gelu`, `quick_gelu`."""
    if _trace is not None:
        h = linear(x, w)
        return as_module(f"{w.path.rpartition('.')[0]}.activation_fn", _activate, h, activation, w)
    return w.runtime.ops.linear_activation(x, _matrix(w), w.get("bias"), activation)
