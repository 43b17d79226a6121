"""What models are written in: the operators, bound to nodes of the weight tree.

`conv2d(x, w.conv1)` takes the filters, the bias and the settings from the node, calls the operator of the backend
that was chosen at load, and tells the trace, if one is on, the output under the node's path. The reference backend is
`tinyldm.ops` in any float dtype; the Numba backend is `tinyldm.kernels` in float32, with weights packed once.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from tinyldm import ops
from tinyldm.ops.conv import Padding
from tinyldm.tracing import as_module, operator, traced, traced_node, tracing, wants_inputs
from tinyldm.tree import Weights

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
    if tracing() and y.ndim == 4 and len(w.shape()) == 2:  # the original's linear layers see tokens
        traced_node(w, _tokens(y), _tokens(x))
        return y
    return traced_node(w, y, x)


def _tokens(x: np.ndarray) -> np.ndarray:
    return x.reshape(x.shape[0], -1, x.shape[-1])


@operator
def conv2d(x: np.ndarray, w: Weights, stride: int = 1, padding: Padding | None = None) -> np.ndarray:
    """`ops.conv2d` with the node's weight and bias; the default padding keeps the size at stride 1."""
    padding = (w.shape()[-1] - 1) // 2 if padding is None else padding
    y = w.runtime.ops.conv2d(x, _filters(w, stride), w.get("bias"), stride=stride, padding=padding)
    if isinstance(padding, tuple) and wants_inputs(w.path):
        x = np.pad(x, ((0, 0), padding[:2], padding[2:], (0, 0)))  # the original pads before its convolution
    return traced_node(w, y, x)


@operator
def group_norm(x: np.ndarray, w: Weights) -> np.ndarray:
    """`ops.group_norm` with the node's weight, bias, groups and epsilon."""
    y = w.runtime.ops.group_norm(x, w.weight, w.bias, w.setting("groups"), w.setting("eps"))
    if tracing() and y.ndim == 3:  # the original's group norm has the channels first, of tokens too
        traced_node(w, np.moveaxis(y, -1, 1), np.moveaxis(x, -1, 1))
        return y
    return traced_node(w, y, x)


@operator
def layer_norm(x: np.ndarray, w: Weights) -> np.ndarray:
    """`ops.layer_norm` with the node's weight, bias and epsilon."""
    return traced_node(w, w.runtime.ops.layer_norm(x, w.weight, w.bias, w.setting("eps")), x)


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, w: Weights, mask: np.ndarray | None = None) -> np.ndarray:
    """`ops.attention` with the node's number of heads."""
    return w.runtime.ops.attention(q, k, v, w.setting("heads"), mask)


@operator
def embedding(ids: np.ndarray, w: Weights) -> np.ndarray:
    """`ops.embedding` with the node's table."""
    return traced_node(w, w.runtime.ops.embedding(ids, w.weight), np.asarray(ids))


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
    if tracing():
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
    if wants_inputs(w.path):  # what the original's convolution sees
        x = ops.upsample_nearest(x, size)
    return traced_node(w, y, x)


def linear_residual(x: np.ndarray, w: Weights, residual: np.ndarray) -> np.ndarray:
    """`ops.linear_residual`: a linear layer plus what goes around it."""
    if tracing():
        y = linear(x, w)
        _traced_parent(w, y)
        return y + residual
    return w.runtime.ops.linear_residual(x, _matrix(w), w.get("bias"), residual)


def linears(x: np.ndarray, w: Weights, *names: str) -> list[np.ndarray]:
    """`ops.linears`: the linear layers under these names of the node, all of the same x."""
    nodes = [w[name] for name in names]
    if tracing():
        return [linear(x, node) for node in nodes]
    return w.runtime.ops.linears(x, _matrices(w, names), [node.get("bias") for node in nodes])


def linear_geglu(x: np.ndarray, w: Weights) -> np.ndarray:
    """`ops.linear_geglu`: a linear layer to twice the channels, one half gating the other."""
    if tracing():
        return as_module(w.path.removesuffix(".proj"), _linear_then_geglu, x, w)
    return w.runtime.ops.linear_geglu(x, _matrix(w, gated=True), w.get("bias"))


def _linear_then_geglu(x: np.ndarray, w: Weights) -> np.ndarray:
    return w.runtime.ops.geglu(linear(x, w))


def linear_activation(x: np.ndarray, w: Weights, activation: str) -> np.ndarray:
    """`ops.linear_activation`: a linear layer and one of `silu`, `gelu`, `quick_gelu`."""
    if tracing():
        h = linear(x, w)
        return as_module(f"{w.path.rpartition('.')[0]}.activation_fn", _activate, h, activation, w)
    return w.runtime.ops.linear_activation(x, _matrix(w), w.get("bias"), activation)
