"""What models are written in: the operators, bound to nodes of the weight tree.

`conv2d(x, w.conv1)` takes the filters, the bias and the settings from the node, calls the operator of the backend
that was chosen at load, and tells the trace, if one is on, the output under the node's path. The reference backend is
`tinyldm.ops` in any float dtype; the Numba backend is `tinyldm.kernels` in float32, with weights packed once.
"""

from __future__ import annotations

import contextlib
import functools
import os
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
        """A runtime from arguments; `TINYLDM_BACKEND`, `_PRECISION` and `_THREADS` stand in for those not given."""
        named = os.environ.get("TINYLDM_THREADS")
        if threads is None and named:
            if not named.isascii() or not named.isdigit():
                raise InputError(f"TINYLDM_THREADS must be a whole number, not {named!r}")
            threads = int(named)
        backend = backend or os.environ.get("TINYLDM_BACKEND") or "numba"
        precision = precision or os.environ.get("TINYLDM_PRECISION") or "fast"
        return cls(backend, dtype, precision, threads, low_memory)

    @functools.cached_property
    def ops(self) -> Any:
        """The module whose functions compute: `tinyldm.ops` or the kernels."""
        return ops


# Tracing ----------------------------------------


class Trace(dict[str, np.ndarray]):
    """Outputs by module path, in the order of execution; images as `(N, C, H, W)`, sequences as `(N, tokens, C)`."""

    def __init__(self, select: str = "*", inputs: bool = False) -> None:
        super().__init__()
        self.select = select
        self.inputs: dict[str, tuple[np.ndarray, ...]] | None = {} if inputs else None


_trace: Trace | None = None


@contextlib.contextmanager
def trace(select: str = "*") -> Iterator[Trace]:
    """Record every module's output while the context is open: `with trace() as t: …; t["mid_block.resnets.0.conv1"]`.

    `select` is a glob pattern of paths. Fused operators run as the plain ones, so that nothing is hidden.
    """
    global _trace
    previous, _trace = _trace, Trace(select)
    try:
        yield _trace
    finally:
        _trace = previous


def channels_first(x: np.ndarray) -> np.ndarray:
    """`(N, H, W, C) -> (N, C, H, W)`; a sequence stays as it is."""
    return np.ascontiguousarray(np.moveaxis(x, -1, 1)) if x.ndim == 4 else x


def channels_last(x: np.ndarray) -> np.ndarray:
    """`(N, C, H, W) -> (N, H, W, C)`."""
    return np.ascontiguousarray(np.moveaxis(x, 1, -1))


def _traced(w: Weights, y: np.ndarray) -> np.ndarray:
    if _trace is not None and fnmatchcase(w.path, _trace.select):
        _trace[w.path] = channels_first(y).copy()
    return y


def module(function: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a function whose last positional argument is its node as a module: its output is traced under that path."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        y = function(*args, **kwargs)
        if _trace is not None:
            _traced(args[-1], y[0] if isinstance(y, tuple) else y)
        return y

    return run


# Operators ----------------------------------------


def linear(x: np.ndarray, w: Weights) -> np.ndarray:
    """`ops.linear` with the node's weight and bias; a 1×1 convolution's weight is taken as the matrix that it is."""
    return _traced(w, w.runtime.ops.linear(x, _matrix(w), w.get("bias")))


def conv2d(x: np.ndarray, w: Weights, stride: int = 1, padding: Padding | None = None) -> np.ndarray:
    """`ops.conv2d` with the node's weight and bias; the default padding keeps the size at stride 1."""
    padding = (w.shape()[-1] - 1) // 2 if padding is None else padding
    return _traced(w, w.runtime.ops.conv2d(x, w.weight, w.get("bias"), stride=stride, padding=padding))


def group_norm(x: np.ndarray, w: Weights) -> np.ndarray:
    """`ops.group_norm` with the node's weight, bias, groups and epsilon."""
    return _traced(w, w.runtime.ops.group_norm(x, w.weight, w.bias, w.setting("groups"), w.setting("eps")))


def layer_norm(x: np.ndarray, w: Weights) -> np.ndarray:
    """`ops.layer_norm` with the node's weight, bias and epsilon."""
    return _traced(w, w.runtime.ops.layer_norm(x, w.weight, w.bias, w.setting("eps")))


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, w: Weights, mask: np.ndarray | None = None) -> np.ndarray:
    """`ops.attention` with the node's number of heads."""
    return w.runtime.ops.attention(q, k, v, w.setting("heads"), mask)


def embedding(ids: np.ndarray, w: Weights) -> np.ndarray:
    """`ops.embedding` with the node's table."""
    return _traced(w, ops.embedding(ids, w.weight))


def silu(x: np.ndarray) -> np.ndarray:
    """`ops.silu`, for the small vectors of the time embedding."""
    return ops.silu(x)


def _matrix(w: Weights) -> np.ndarray:
    weight = w.weight
    return weight.reshape(weight.shape[:2]) if weight.ndim == 4 else weight


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
        h = conv2d(conv.runtime.ops.silu(group_norm(x, norm)), conv)
        h = h if shift is None else h + shift[:, None, None, :]
        return h if residual is None else h + residual
    padding = (conv.shape()[-1] - 1) // 2
    return conv.runtime.ops.norm_silu_conv2d(
        x,
        norm.weight,
        norm.bias,
        norm.setting("groups"),
        norm.setting("eps"),
        conv.weight,
        conv.get("bias"),
        padding=padding,
        shift=shift,
        residual=residual,
    )


def upsample_conv2d(x: np.ndarray, w: Weights, size: tuple[int, int] | None = None) -> np.ndarray:
    """`ops.upsample_conv2d`: repeat pixels to twice the size (or to `size`), then a 3×3 convolution."""
    return _traced(w, w.runtime.ops.upsample_conv2d(x, w.weight, w.get("bias"), size))


def linear_residual(x: np.ndarray, w: Weights, residual: np.ndarray) -> np.ndarray:
    """`ops.linear_residual`: a linear layer plus what goes around it."""
    if _trace is not None:
        return linear(x, w) + residual
    return w.runtime.ops.linear_residual(x, _matrix(w), w.get("bias"), residual)


def linear_geglu(x: np.ndarray, w: Weights) -> np.ndarray:
    """`ops.linear_geglu`: a linear layer to twice the channels, one half gating the other."""
    if _trace is not None:
        return w.runtime.ops.geglu(linear(x, w))
    return w.runtime.ops.linear_geglu(x, _matrix(w), w.get("bias"))


def linear_activation(x: np.ndarray, w: Weights, activation: str) -> np.ndarray:
    """`ops.linear_activation`: a linear layer and one of `silu`, `gelu`, `quick_gelu`."""
    if _trace is not None:
        return getattr(w.runtime.ops, activation)(linear(x, w))
    return w.runtime.ops.linear_activation(x, _matrix(w), w.get("bias"), activation)
