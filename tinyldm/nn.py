"""What models are written in: the operators, bound to nodes of the weight tree.

`conv2d(x, w.conv1)` takes the filters, the bias and the settings from the node, calls the operator of the backend
that was chosen at load, and tells the trace, if one is on, the output under the node's path. The reference backend is
`tinyldm.ops` in any float dtype; the Numba backend is `tinyldm.kernels` in float32, with weights packed once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np

from tinyldm import ops
from tinyldm.ops.composite import ACTIVATIONS, Operators
from tinyldm.ops.conv import Padding
from tinyldm.tracing import activated, as_channels_first, as_tokens, ended, module, module_with, tracing
from tinyldm.tree import Weights
from tinyldm.typing import Array, Integers

T = TypeVar("T")
WITH_CONVOLUTION = (ops.norm_silu_conv2d, ops.conv2d_residual, ops.upsample_conv2d)


@module_with(layout=as_tokens)
def linear(x: Array, w: Weights) -> Array:  # (…, C_in) -> (…, C_out)
    """`ops.linear` with the node's weight and bias; a 1×1 convolution's weight is taken as the matrix that it is."""
    y: Array = w.runtime.ops.linear(x, arranged(w, "linear", vectors=x.ndim < 3), w.get("bias"))
    return y


def _padded(x: Array, w: Weights, stride: int = 1, padding: Padding | None = None) -> list[Array]:
    """What the original's convolution is given: where the sides differ, it pads before."""
    return [np.pad(x, ((0, 0), padding[:2], padding[2:], (0, 0))) if isinstance(padding, tuple) else x]


@module_with(inputs=_padded)
def conv2d(x: Array, w: Weights, stride: int = 1, padding: Padding | None = None) -> Array:  # (N,H,W,C) -> (N,H',W',C')
    """`ops.conv2d` with the node's weight and bias; the default padding keeps the size at stride 1."""
    padding = (w.shapes["weight"][-1] - 1) // 2 if padding is None else padding
    if w.runtime.seamless is not None:
        x, padding = continued(x, padding, w.runtime.seamless)
    weight = arranged(w, "conv2d", stride)
    y: Array = w.runtime.ops.conv2d(x, weight, w.get("bias"), stride=stride, padding=padding)
    return y


def continued(x: Array, padding: Padding, axes: str) -> tuple[Array, Padding]:  # (N,H,W,C) -> (N,H',W',C)
    """Images padded by what is at their other side along these axes, and the padding by zeros that is left to do."""
    sides = (padding,) * 4 if isinstance(padding, int) else padding
    rows, columns = (sides[:2] if axes != "x" else (0, 0)), (sides[2:] if axes != "y" else (0, 0))
    around: list[int] = [side - done for side, done in zip(sides, (*rows, *columns), strict=True)]
    return np.pad(x, ((0, 0), rows, columns, (0, 0)), mode="wrap"), (around[0], around[1], around[2], around[3])


@module_with(layout=as_channels_first)
def group_norm(x: Array, w: Weights) -> Array:  # (N, …, C) -> (N, …, C)
    """`ops.group_norm` with the node's weight, bias, groups and epsilon."""
    y: Array = w.runtime.ops.group_norm(x, w.weight, w.bias, w.settings["groups"], w.settings["eps"])
    return y


@module
def layer_norm(x: Array, w: Weights) -> Array:  # (…, C) -> (…, C)
    """`ops.layer_norm` with the node's weight, bias and epsilon."""
    y: Array = w.runtime.ops.layer_norm(x, w.weight, w.bias, w.settings["eps"])
    return y


@module
def embedding(ids: Integers, w: Weights) -> Array:  # (…) -> (…, C)
    """`ops.embedding` with the node's table."""
    y: Array = w.runtime.ops.embedding(ids, arranged(w, "embedding"))
    return y


def attention(
    q: Array, k: Array, v: Array, w: Weights, mask: Array | None = None
) -> Array:  # (N,Lq,C), (N,Lk,C), (N,Lk,C) -> (N,Lq,C)
    """`ops.attention` with the node's number of heads."""
    how = {} if w.runtime.backend == "reference" else {"precision": w.runtime.precision}
    y: Array = w.runtime.ops.attention(q, k, v, w.settings["heads"], mask, **how)
    return y


def silu(x: Array, w: Weights) -> Array:  # (…) -> (…)
    """`ops.silu` in front of the layer `w`; `w` is the block where the original has a function and no module."""
    y: Array = activated(x, "silu", w) if tracing() else w.runtime.ops.silu(x)
    return y


def frugal(w: Weights) -> contextlib.AbstractContextManager[None]:
    """A block in which the backend keeps little memory for results to come."""
    context: contextlib.AbstractContextManager[None] = getattr(w.runtime.ops, "frugal", contextlib.nullcontext)()
    return context


# Composites: fused by a backend that can, taken apart by a trace ------------------------------------------------------


def norm_silu_conv2d(
    x: Array, norm: Weights, conv: Weights, *, shift: Array | None = None, residual: Array | None = None
) -> Array:  # (N,H,W,C), (N,C'), (N,H,W,C') -> (N,H,W,C')
    """`ops.norm_silu_conv2d` with padding that keeps the size: norm, SiLU, convolution, plus shift, plus residual."""
    of_norm = norm.weight, norm.bias, norm.settings["groups"], norm.settings["eps"]
    of_conv = arranged(conv, "conv2d"), conv.get("bias")
    more = {"padding": (conv.shapes["weight"][-1] - 1) // 2, "shift": shift, "residual": residual}
    return _composite(ops.norm_silu_conv2d, (norm, conv), x, *of_norm, *of_conv, **more)


def moments(x: Array, w: Weights) -> Array:  # (N,H,W,C) -> (N,2,C)
    """`ops.moments`, which those of the other parts of the image are added to; `w` is the norm that asks for them."""
    y: Array = w.runtime.ops.moments(x)
    return y


def conv2d_relu(x: Array, w: Weights, residual: Array | None = None) -> Array:  # (N,H,W,C) -> (N,H,W,C')
    """`ops.conv2d_residual` with ReLU and padding that keeps the size."""
    how = {"padding": (w.shapes["weight"][-1] - 1) // 2, "relu": True}
    return _composite(ops.conv2d_residual, (w,), x, arranged(w, "conv2d"), w.get("bias"), residual, **how)


def affine_silu_conv2d(
    x: Array,
    gain_shift: tuple[Array, Array],
    conv: Weights,
    padding: Padding,
    residual: Array | None = None,
) -> Array:  # (N,H,W,C), ((N,C), (N,C)), (N,H',W',C') -> (N,H',W',C')
    """`ops.affine_silu_conv2d`: `norm_silu_conv2d` of a part of an image whose norm is given as gain and shift."""
    of_conv = arranged(conv, "conv2d"), conv.get("bias")
    if conv.runtime.seamless is not None:
        x, padding = continued(x, padding, conv.runtime.seamless)
    y: Array = conv.runtime.ops.affine_silu_conv2d(x, *gain_shift, *of_conv, padding=padding, residual=residual)
    return y


def upsample_conv2d(
    x: Array, w: Weights, size: tuple[int, int] | None = None, inner: slice = slice(None)
) -> Array:  # (N,H,W,C) -> (N,2H,2W,C')
    """`ops.upsample_conv2d`: repeat pixels to twice the size (or to `size`), then a 3×3 convolution; rows `inner`."""
    weight = arranged(w, "upsample_conv2d" if w.runtime.seamless is None else "conv2d")
    return _composite(ops.upsample_conv2d, (w,), x, weight, w.get("bias"), size, inner)


def linear_residual(x: Array, w: Weights, residual: Array) -> Array:  # (…, C_in), (…, C_out) -> (…, C_out)
    """`ops.linear_residual`: a linear layer plus what goes around it."""
    return _composite(ops.linear_residual, (w,), x, arranged(w, "linear", vectors=x.ndim < 3), w.get("bias"), residual)


def linears(x: Array, w: Weights, *names: str) -> list[Array]:  # (…, C_in) -> [(…, C_out), …]
    """`ops.linears`: the linear layers under these names of the node, all of the same x."""
    layers = [w[name] for name in names]
    if w.runtime.backend == "reference" or tracing():
        weights: Any = [arranged(layer, "linear", vectors=x.ndim < 3) for layer in layers]
    else:
        prepare, how = w.runtime.ops.prepare_linears, w.runtime.precision
        key = "linears", names
        weights = w.prepared(key, lambda node: prepare([node[name].read_unconverted("weight") for name in names], how))
    return _composite(ops.linears, layers, x, weights, [layer.get("bias") for layer in layers])


@module
def linear_geglu(x: Array, w: Weights) -> Array:  # (…, C_in) -> (…, C_out)
    """`ops.linear_geglu`: the node's linear layer `proj` to twice the channels, one half gating the other."""
    return _composite(ops.linear_geglu, (w.proj,), x, arranged(w.proj, "linear_geglu"), w.proj.get("bias"))


def linear_activation(x: Array, w: Weights, activation: str) -> Array:  # (…, C_in) -> (…, C_out)
    """`ops.linear_activation`: a linear layer and one of `silu`, `gelu`, `quick_gelu`."""
    return _composite(
        ops.linear_activation, (w,), x, arranged(w, "linear", vectors=x.ndim < 3), w.get("bias"), activation
    )


def _composite(composition: Callable[..., T], layers: Sequence[Weights], *args: Any, **more: Any) -> T:
    """The backend's composite of that name; while a trace is on its composition, so that nothing is hidden.

    So too a convolution of images that continue on their other side, which the composite does not know.
    """
    if tracing() or (layers[0].runtime.seamless is not None and composition in WITH_CONVOLUTION):
        return composition(*args, **more, operators=TakenApart(layers))
    y: T = getattr(layers[0].runtime.ops, composition.__name__)(*args, **more)
    return y


def arranged(w: Weights, operator: str, stride: int = 1, vectors: bool = False) -> Any:
    """What the backend makes of the node's weight for an operator, made once; the reference takes it as it is.

    A trace takes composites apart, so that the weight is for the plain operator. `vectors`, one a sample, `(N, C)`, are
    a time embedding and what is made of it: those are never rounded.
    """
    if w.runtime.backend == "reference":
        return w.weight
    if tracing():
        operator = {"linear_geglu": "linear", "upsample_conv2d": "conv2d"}.get(operator, operator)
    kernels, precision = w.runtime.ops, "strict" if vectors else w.runtime.precision
    prepare: Callable[[Array], Any] = {
        "linear": lambda weight: kernels.prepare_linear(weight, False, precision),
        "linear_geglu": lambda weight: kernels.prepare_linear(weight, True, precision),
        "conv2d": lambda weight: kernels.prepare_conv2d(weight, stride, precision),
        "upsample_conv2d": lambda weight: kernels.prepare_upsample_conv2d(weight, precision),
        "embedding": lambda table: table,  # of which a few rows are converted
    }[operator]
    return w.prepared((operator, stride, precision), lambda node: prepare(node.read_unconverted("weight")))


class TakenApart(Operators):
    """The plain operators of a composite, each traced: those that have weights are its layers, one after the other."""

    def __init__(self, layers: Sequence[Weights]) -> None:
        self._ops, self._next = layers[0].runtime.ops, iter(layers).__next__
        # In front of the last layer or behind the only one.
        self.activations = {name: partial(activated, name=name, w=layers[-1]) for name in ACTIVATIONS}

    def linear(self, x: Array, weight: Array, bias: Array | None = None) -> Array:
        """The next layer: `(…, C_in) -> (…, C_out)`."""
        layer = self._next()
        return ended(layer, linear(x, layer))

    def conv2d(
        self, x: Array, weight: Array, bias: Array | None = None, *, stride: int = 1, padding: Padding = 0
    ) -> Array:
        """The next layer: `(N, H, W, C) -> (N, H', W', C')`."""
        return conv2d(x, self._next(), stride, padding)

    def group_norm(self, x: Array, weight: Array, bias: Array, groups: int, eps: float) -> Array:
        """The next layer: `(N, …, C) -> (N, …, C)`."""
        return group_norm(x, self._next())

    def geglu(self, x: Array) -> Array:
        """`ops.geglu`, a part of the module that the composite is: `(…, 2·C) -> (…, C)`."""
        y: Array = self._ops.geglu(x)
        return y

    def upsample_nearest(self, x: Array, size: tuple[int, int] | None = None) -> Array:
        """`ops.upsample_nearest`, which is no module: `(N, H, W, C) -> (N, 2H, 2W, C)`, or to `size`."""
        y: Array = self._ops.upsample_nearest(x, size)
        return y
