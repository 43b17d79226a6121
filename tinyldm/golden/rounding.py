"""An honest evaluation in a smaller type: every operator's result rounded to it, sums in float32.

That is what a good port in that arithmetic computes, no better and no worse: weights and inputs rounded to the type,
each operator (a matrix product, a norm, an activation, each of attention's three, an addition) computed in float32 and
rounded once. Its difference from the float64 oracle is the yardstick of `--tolerance auto`.

What that leaves open is the order in which the terms of a sum are added: a matrix product's, a norm's, a softmax's.
Two orders round differently, a deep network grows the difference, and a single evaluation comes out exact in some
tensor by luck. So the model is evaluated `EVALUATIONS` times, the terms added one by one in an order of each time's
own, and the yardstick is the largest of the errors.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import numpy as np
from numpy.typing import DTypeLike

from tinyldm import ops
from tinyldm.checkpoints.base import TensorSource
from tinyldm.checkpoints.views import ChangedSource
from tinyldm.errors import InputError
from tinyldm.golden.seeded import integers, stream_key
from tinyldm.models.build import rebuilt
from tinyldm.models.network import Network
from tinyldm.ops.bfloat16 import bfloat16_to_float32, float32_to_bfloat16
from tinyldm.ops.conv import Padding
from tinyldm.pipelines.model import LatentDiffusion
from tinyldm.runtime import Runtime

Round = Callable[[np.ndarray], np.ndarray]


def to_float16(x: np.ndarray) -> np.ndarray:
    """The nearest float16 values, as float32; beyond its range infinity, as the hardware gives."""
    with np.errstate(over="ignore"):
        return x.astype(np.float16).astype(np.float32)


def to_bfloat16(x: np.ndarray) -> np.ndarray:
    """The nearest bfloat16 values, as float32."""
    return bfloat16_to_float32(float32_to_bfloat16(x))


def to_float32(x: np.ndarray) -> np.ndarray:
    """The nearest float32 values."""
    return x.astype(np.float32, copy=False)


ROUNDINGS: dict[str, Round] = {"float32": to_float32, "float16": to_float16, "bfloat16": to_bfloat16}


def rounding(arithmetic: str) -> Round:
    """The rounding to a type by its name. Raises `InputError` for a type that is not known."""
    if arithmetic not in ROUNDINGS:
        raise InputError(f"arithmetic {arithmetic!r} is unknown; known are {', '.join(ROUNDINGS)}")
    return ROUNDINGS[arithmetic]


EVALUATIONS = 8


@functools.lru_cache(1024)
def order_of_terms(evaluation: int, terms: int) -> np.ndarray:
    """The order in which an evaluation adds: 0 first to last, the others by the ranks of a seeded stream."""
    if evaluation == 0:
        return np.arange(terms)
    return np.argsort(integers(stream_key(f"order:{evaluation}"), 0, terms), kind="stable")


def ordered_product(a: np.ndarray, b: np.ndarray, evaluation: int = 0) -> np.ndarray:
    """`a @ b` in float32, the terms added one by one in the evaluation's order: `(…, M, K), (…, K, N) -> (…, M, N)`.

    A matrix product of a library adds in several partial sums and is more exact than it need be; a port's may not be.
    """
    from tinyldm.kernels.ordered import ordered_matmul  # here, because Numba takes a while to import

    return ordered_matmul(a, b, order_of_terms(evaluation, a.shape[-1]))


class Rounded(np.ndarray):
    """An array whose every further operation is rounded too: the additions and products that a model writes out."""

    round_: Round

    def __array_finalize__(self, parent: Any) -> None:
        if isinstance(parent, Rounded):
            self.round_ = parent.round_

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if "out" in kwargs:
            kwargs["out"] = tuple(plain(x) for x in kwargs["out"])
        with np.errstate(over="ignore", invalid="ignore"):
            result = getattr(ufunc, method)(*map(plain, inputs), **kwargs)
        if not isinstance(result, np.ndarray) or result.dtype.kind != "f":
            return result
        result[...] = self.round_(result)
        return as_rounded(result, self.round_)


def plain(value: Any) -> Any:
    """A `Rounded` as an ordinary array; anything else as it is."""
    return value.view(np.ndarray) if isinstance(value, Rounded) else value


def as_rounded(array: np.ndarray, round_: Round) -> Rounded:
    """An array, whose values are rounded already, as a `Rounded`."""
    out = array.view(Rounded)
    out.round_ = round_
    return out


class RoundedOps:
    """The operators of `tinyldm.ops`, their inputs and their result rounded to a type; composites are taken apart.

    `evaluation` says in which order the terms of sums are added (`order_of_terms`); `sums` counts the operators that
    it made a difference to.
    """

    def __init__(self, round_: Round, evaluation: int = 0) -> None:
        self._to_type = round_
        self.evaluation = evaluation
        self.sums = 0

    def _round(self, x: np.ndarray) -> np.ndarray:
        return self._to_type(plain(x))

    def _out(self, x: np.ndarray) -> Rounded:
        return as_rounded(self._round(x), self._to_type)

    def _product(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        self.sums += 1
        return ordered_product(a, b, self.evaluation)

    def _sum(self, x: np.ndarray) -> np.ndarray:
        """The sum over the second axis, term by term: `(N, terms, G) -> (N, 1, G)`."""
        return self._product(np.ones((len(x), 1, x.shape[1]), np.float32), x)

    def _standardised(self, x: np.ndarray, eps: float) -> np.ndarray:
        """Mean 0 and variance 1 over the second axis of `(N, terms, G)`."""
        count = np.float32(x.shape[1])
        with np.errstate(over="ignore", invalid="ignore"):
            centred = x - self._sum(x) / count
            return centred / np.sqrt(self._sum(np.square(centred)) / count + np.float32(eps))

    def __getattr__(self, name: str) -> Callable[..., np.ndarray]:
        """Any operator that is one rounding and no sum: the activations, resampling."""
        operator = getattr(ops, name)

        def rounded(*args: Any, **kwargs: Any) -> np.ndarray:
            with np.errstate(over="ignore", invalid="ignore"):
                return self._out(operator(*map(self._in, args), **{k: self._in(v) for k, v in kwargs.items()}))

        return rounded

    def _in(self, value: Any) -> Any:
        return self._round(value) if isinstance(value, np.ndarray) and value.dtype.kind == "f" else value

    def linear(self, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
        """`ops.linear`, its sums in float32 term by term."""
        x = self._round(x)
        matrix = plain(weight).reshape(weight.shape[:2])  # of a 1×1 convolution, too
        y = self._product(x.reshape(-1, x.shape[-1]), matrix.T).reshape(*x.shape[:-1], -1)
        return self._out(y if bias is None else y + plain(bias))

    def conv2d(
        self,
        x: np.ndarray,
        weight: np.ndarray,
        bias: np.ndarray | None = None,
        *,
        stride: int = 1,
        padding: Padding = 0,
    ) -> np.ndarray:
        """`ops.conv2d`, its sums in float32 term by term: all channels of a tap, then the next tap."""
        top, bottom, left, right = (padding,) * 4 if isinstance(padding, int) else padding
        k_h, k_w = weight.shape[2:]
        x = np.pad(self._round(x), ((0, 0), (top, bottom), (left, right), (0, 0)))
        # (N, H', W', C, k_h, k_w), a view
        windows = np.lib.stride_tricks.sliding_window_view(x, (k_h, k_w), axis=(1, 2))[:, ::stride, ::stride]
        shape = windows.shape[:3]
        terms = np.moveaxis(windows, 3, 5).reshape(math.prod(shape), -1)  # (pixels, k_h·k_w·C)
        y = self._product(terms, np.moveaxis(plain(weight), 1, 3).reshape(len(weight), -1).T).reshape(*shape, -1)
        return self._out(y if bias is None else y + plain(bias))

    def group_norm(self, x: np.ndarray, weight: np.ndarray, bias: np.ndarray, groups: int, eps: float) -> np.ndarray:
        """`ops.group_norm`, its two sums in float32 term by term, rounded once."""
        x = self._round(x)
        split = x.reshape(len(x), -1, groups, x.shape[-1] // groups)  # (N, P, G, C/G)
        n, pixels, _, channels = split.shape
        terms = split.transpose(0, 1, 3, 2).reshape(n, pixels * channels, groups)
        y = self._standardised(terms, eps).reshape(n, pixels, channels, groups).transpose(0, 1, 3, 2)
        return self._out(y.reshape(x.shape) * self._round(weight) + self._round(bias))

    def layer_norm(self, x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float) -> np.ndarray:
        """`ops.layer_norm`, its two sums in float32 term by term, rounded once."""
        x = self._round(x)
        y = self._standardised(x.reshape(1, -1, x.shape[-1]).swapaxes(1, 2), eps).swapaxes(1, 2)
        return self._out(y.reshape(x.shape) * self._round(weight) + self._round(bias))

    def softmax(self, x: np.ndarray, axis: int = -1) -> np.ndarray:
        """`ops.softmax`, its sum in float32 term by term, rounded once."""
        x = np.moveaxis(self._round(x), axis, -1)
        powers = np.exp(x - x.max(axis=-1, keepdims=True, initial=-np.inf))
        total = self._sum(powers.reshape(1, -1, x.shape[-1]).swapaxes(1, 2))
        return self._out(np.moveaxis(powers / total.reshape(*x.shape[:-1], 1), -1, axis))

    def geglu(self, x: np.ndarray) -> np.ndarray:
        """`ops.geglu` as two operators: the activation, then the product."""
        a, g = np.split(self._round(x), 2, axis=-1)
        return self._out(a * plain(self.gelu(g)))

    def attention(
        self,
        q: np.ndarray,
        k: np.ndarray,
        v: np.ndarray,
        heads: int,
        mask: np.ndarray | None = None,
        scale: float | None = None,
    ) -> np.ndarray:
        """`ops.attention` as three operators: the scaled scores, their softmax, the weighted mean."""
        n, queries, channels = q.shape
        q, k, v = (self._round(x).reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3) for x in (q, k, v))
        s = np.float32(1 / math.sqrt(channels // heads) if scale is None else scale)
        with np.errstate(over="ignore", invalid="ignore"):
            scores = self._round(s * self._product(q, k.transpose(0, 1, 3, 2)))
            weights = plain(self.softmax(scores if mask is None else scores + mask))
            out = self._product(weights, v)
        return self._out(out.transpose(0, 2, 1, 3).reshape(n, queries, -1))

    def timestep_embedding(
        self,
        t: np.ndarray,
        dim: int,
        *,
        flip_sin_to_cos: bool = True,
        freq_shift: float = 0.0,
        max_period: float = 10_000.0,
        dtype: DTypeLike = np.float32,
    ) -> np.ndarray:
        """`ops.timestep_embedding` in float32 throughout, frequencies and angles too, as ports compute it."""
        half, f = dim // 2, np.float32
        omega = np.exp(f(-math.log(max_period)) * np.arange(half, dtype=f) / f(half - freq_shift))
        angles = np.asarray(t, f)[:, None] * omega
        parts = [np.cos(angles), np.sin(angles)] if flip_sin_to_cos else [np.sin(angles), np.cos(angles)]
        return self._out(np.concatenate([*parts, np.zeros((len(angles), dim % 2), f)], axis=1))


class RoundedSource(ChangedSource):
    """A view of a source whose floating tensors are rounded to a type when they are read."""

    def __init__(self, source: TensorSource, round_: Round) -> None:
        super().__init__(source)
        self._round = round_

    def shown(self, name: str, value: np.ndarray) -> np.ndarray:
        """A tensor, rounded."""
        return as_rounded(self._round(value), self._round) if value.dtype.kind == "f" else value


def rounded_network(network: Network[Any], arithmetic: str, evaluation: int = 0) -> Network[Any]:
    """A twin of a text encoder, UNet or autoencoder that evaluates in `arithmetic`; to be run under a trace."""
    round_ = rounding(arithmetic)
    operators = RoundedOps(round_, evaluation)
    runtime = Runtime("reference", np.dtype(np.float32), low_memory=network.runtime.low_memory, operators=operators)
    source = cast(TensorSource, network.weights.source)
    return rebuilt(network, runtime, RoundedSource(source, round_))


def rounded_model(model: LatentDiffusion, arithmetic: str, evaluation: int = 0) -> LatentDiffusion:
    """A twin of a `LatentDiffusion` whose models evaluate in `arithmetic`; the sampler computes in float32."""
    parts: dict[str, Any] = {
        name: rounded_network(network, arithmetic, evaluation) for name, network in model.networks.items()
    }
    twins = {id(network): parts[name] for name, network in model.networks.items()}
    controls = tuple(replace(c, network=twins.get(id(c.network), c.network)) for c in model.parts.controls)
    prompts = tuple(
        replace(p, adapter=twins[id(p.adapter)], encoder=twins[id(p.encoder)]) for p in model.parts.image_prompts
    )
    return model.replaced(**parts, runtime=parts["unet"].runtime, controls=controls, image_prompts=prompts)
