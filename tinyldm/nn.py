"""What models are written in: the operators, bound to nodes of the weight tree.

`conv2d(x, w.conv1)` takes the filters, the bias and the settings from the node, calls the operator of the backend
that was chosen at load, and tells the trace, if one is on, the output under the node's path. The reference backend is
`tinyldm.ops` in any float dtype; the Numba backend is `tinyldm.kernels` in float32, with weights packed once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from tinyldm import ops
from tinyldm.ops.composite import Operators
from tinyldm.ops.conv import Padding
from tinyldm.tracing import (
    activation_path,
    as_channels_first,
    as_module,
    as_tokens,
    operator,
    traced_end,
    traced_node,
    tracing,
    wants_inputs,
)
from tinyldm.tree import Weights
from tinyldm.typing import Array, Integers

T = TypeVar("T")


@operator
def linear(x: Array, w: Weights) -> Array:  # (…, C_in) -> (…, C_out)
    """`ops.linear` with the node's weight and bias; a 1×1 convolution's weight is taken as the matrix that it is."""
    y: Array = w.runtime.ops.linear(x, _matrix(w, x), w.get("bias"))
    return traced_node(w, y, x, layout=as_tokens)


@operator
def conv2d(x: Array, w: Weights, stride: int = 1, padding: Padding | None = None) -> Array:  # (N,H,W,C) -> (N,H',W',C')
    """`ops.conv2d` with the node's weight and bias; the default padding keeps the size at stride 1."""
    padding = _around(w) if padding is None else padding
    y: Array = w.runtime.ops.conv2d(x, _filters(w, stride), w.get("bias"), stride=stride, padding=padding)
    if isinstance(padding, tuple) and wants_inputs(w.path):
        x = np.pad(x, ((0, 0), padding[:2], padding[2:], (0, 0)))  # the original pads before its convolution
    return traced_node(w, y, x)


@operator
def group_norm(x: Array, w: Weights) -> Array:  # (N, …, C) -> (N, …, C)
    """`ops.group_norm` with the node's weight, bias, groups and epsilon."""
    y: Array = w.runtime.ops.group_norm(x, w.weight, w.bias, w.setting("groups"), w.setting("eps"))
    return traced_node(w, y, x, layout=as_channels_first)


@operator
def layer_norm(x: Array, w: Weights) -> Array:  # (…, C) -> (…, C)
    """`ops.layer_norm` with the node's weight, bias and epsilon."""
    y: Array = w.runtime.ops.layer_norm(x, w.weight, w.bias, w.setting("eps"))
    return traced_node(w, y, x)


@operator
def embedding(ids: Integers, w: Weights) -> Array:  # (…) -> (…, C)
    """`ops.embedding` with the node's table."""
    y: Array = w.runtime.ops.embedding(ids, w.weight)
    return traced_node(w, y, np.asarray(ids))


def attention(
    q: Array, k: Array, v: Array, w: Weights, mask: Array | None = None
) -> Array:  # (N,Lq,C), (N,Lk,C), (N,Lk,C) -> (N,Lq,C)
    """`ops.attention` with the node's number of heads."""
    how = {} if w.runtime.backend == "reference" else {"precision": w.runtime.precision}
    y: Array = w.runtime.ops.attention(q, k, v, w.setting("heads"), mask, **how)
    return y


def silu(x: Array, w: Weights) -> Array:  # (…) -> (…)
    """`ops.silu` in front of the layer `w`; `w` is the block where the original has a function and no module."""
    return _activation(x, "silu", w)


def _activation(x: Array, name: str, w: Weights) -> Array:
    path = activation_path(w) if tracing() else None
    return _activate(x, name, w) if path is None else as_module(path, _activate, x, name, w)


def _activate(x: Array, name: str, w: Weights) -> Array:
    y: Array = getattr(w.runtime.ops, name)(x)
    return y


# Composites: fused by a backend that can, taken apart by a trace ------------------------------------------------------


def norm_silu_conv2d(
    x: Array, norm: Weights, conv: Weights, *, shift: Array | None = None, residual: Array | None = None
) -> Array:  # (N,H,W,C), (N,C'), (N,H,W,C') -> (N,H,W,C')
    """`ops.norm_silu_conv2d` with padding that keeps the size: norm, SiLU, convolution, plus shift, plus residual."""
    settings = norm.setting("groups"), norm.setting("eps")
    arrays = norm.weight, norm.bias, *settings, _filters(conv), conv.get("bias")
    added = {"shift": shift, "residual": residual}
    return _composite(ops.norm_silu_conv2d, (norm, conv), x, *arrays, padding=_around(conv), **added)


def upsample_conv2d(x: Array, w: Weights, size: tuple[int, int] | None = None) -> Array:  # (N,H,W,C) -> (N,2H,2W,C')
    """`ops.upsample_conv2d`: repeat pixels to twice the size (or to `size`), then a 3×3 convolution."""
    return _composite(ops.upsample_conv2d, (w,), x, _upsampling_filters(w), w.get("bias"), size)


def linear_residual(x: Array, w: Weights, residual: Array) -> Array:  # (…, C_in), (…, C_out) -> (…, C_out)
    """`ops.linear_residual`: a linear layer plus what goes around it."""
    return _composite(ops.linear_residual, (w,), x, _matrix(w, x), w.get("bias"), residual)


def linears(x: Array, w: Weights, *names: str) -> list[Array]:  # (…, C_in) -> [(…, C_out), …]
    """`ops.linears`: the linear layers under these names of the node, all of the same x."""
    layers = [w[name] for name in names]
    return _composite(ops.linears, layers, x, _matrices(w, x, names), [layer.get("bias") for layer in layers])


def linear_geglu(x: Array, w: Weights) -> Array:  # (…, C_in) -> (…, C_out)
    """`ops.linear_geglu`: a linear layer to twice the channels, one half gating the other."""
    return _composite(ops.linear_geglu, (w,), x, _matrix(w, x, gated=True), w.get("bias"))


def linear_activation(x: Array, w: Weights, activation: str) -> Array:  # (…, C_in) -> (…, C_out)
    """`ops.linear_activation`: a linear layer and one of `silu`, `gelu`, `quick_gelu`."""
    return _composite(ops.linear_activation, (w,), x, _matrix(w, x), w.get("bias"), activation)


def _composite(composition: Callable[..., T], layers: Sequence[Weights], *args: Any, **more: Any) -> T:
    """The backend's composite of that name; while a trace is on its composition, so that nothing is hidden."""
    if tracing():
        return composition(*args, **more, operators=TakenApart(layers))
    y: T = getattr(layers[0].runtime.ops, composition.__name__)(*args, **more)
    return y


class TakenApart(Operators):
    """The plain operators of a composite, each traced: those that have weights are its layers, one after the other."""

    def __init__(self, layers: Sequence[Weights]) -> None:
        self._last, self._ops, self._next = layers[-1], layers[0].runtime.ops, iter(layers).__next__

    def linear(self, x: Array, weight: Array, bias: Array | None = None) -> Array:
        """The next layer: `(…, C_in) -> (…, C_out)`."""
        layer = self._next()
        return traced_end(layer, linear(x, layer))

    def conv2d(
        self, x: Array, weight: Array, bias: Array | None = None, *, stride: int = 1, padding: Padding = 0
    ) -> Array:
        """The next layer: `(N, H, W, C) -> (N, H', W', C')`."""
        return conv2d(x, self._next(), stride, padding)

    def group_norm(self, x: Array, weight: Array, bias: Array, groups: int, eps: float) -> Array:
        """The next layer: `(N, …, C) -> (N, …, C)`."""
        return group_norm(x, self._next())

    def activation(self, name: str, x: Array) -> Array:
        """The activation of a name, in front of the last layer or behind the only one: `(…) -> (…)`."""
        return _activation(x, name, self._last)

    def geglu(self, x: Array) -> Array:
        """`ops.geglu`, a part of the module that the composite is: `(…, 2·C) -> (…, C)`."""
        y: Array = self._ops.geglu(x)
        return y

    def upsample_nearest(self, x: Array, size: tuple[int, int] | None = None) -> Array:
        """`ops.upsample_nearest`, which is no module: `(N, H, W, C) -> (N, 2H, 2W, C)`, or to `size`."""
        y: Array = self._ops.upsample_nearest(x, size)
        return y


# What a backend makes of a weight: the array itself, or a copy that was arranged for its kernels once -----------------


def _around(w: Weights) -> int:
    """The padding that keeps the size."""
    return (w.shape()[-1] - 1) // 2


def _matrix(w: Weights, x: Array, gated: bool = False) -> Any:
    """The matrix of a linear layer of x, or of a 1×1 convolution; `gated` where a GEGLU is fused to it.

    Vectors of one a sample, `(N, C)`, are a time embedding and what is made of it: those are never rounded.
    """
    if w.runtime.backend == "reference":
        return _as_matrix(w.weight)
    prepare, gated = w.runtime.ops.prepare_linear, gated and not tracing()
    precision = w.runtime.precision if x.ndim > 2 else "strict"
    key = "linear", gated, precision
    return w.prepared(key, lambda node: prepare(_as_matrix(node.read("weight")), gated, precision))


def _matrices(w: Weights, x: Array, names: tuple[str, ...]) -> Any:
    """The matrices of the linear layers under these names."""
    if w.runtime.backend == "reference" or tracing():
        return [_matrix(w[name], x) for name in names]
    prepare, precision = w.runtime.ops.prepare_linears, w.runtime.precision
    key = "linears", names
    return w.prepared(key, lambda node: prepare([node[name].read("weight") for name in names], precision))


def _as_matrix(weight: Array) -> Array:
    return weight.reshape(weight.shape[:2]) if weight.ndim == 4 else weight


def _filters(w: Weights, stride: int = 1) -> Any:
    """The filters of a convolution."""
    if w.runtime.backend == "reference":
        return w.weight
    prepare, precision = w.runtime.ops.prepare_conv2d, w.runtime.precision
    return w.prepared(("conv2d", stride), lambda node: prepare(node.read("weight"), stride, precision))


def _upsampling_filters(w: Weights) -> Any:
    """The filters of a convolution to which an upsampling is fused."""
    if w.runtime.backend == "reference" or tracing():
        return _filters(w)
    prepare, precision = w.runtime.ops.prepare_upsample_conv2d, w.runtime.precision
    return w.prepared("upsample_conv2d", lambda node: prepare(node.read("weight"), precision))
