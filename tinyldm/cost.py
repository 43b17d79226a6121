"""What a model costs before it runs: the shape of every intermediate, multiply-adds, parameters and bytes.

Nothing is computed: the models run on arrays that have a shape and no memory (`Empty`; `SHAPES` stands in for the
operators), and a trace notes the shape under every module's path. So the numbers come from the code that computes the
pictures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from tinyldm import nn, ops
from tinyldm.checkpoints.base import TensorSource
from tinyldm.checkpoints.tree import Weights
from tinyldm.models.text_encoder import TextEncoder
from tinyldm.models.unet import UNet
from tinyldm.models.vae import AutoencoderKL

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Cost:
    """One module of a run: the shape of its output, its own weights, and the multiply-adds it takes.

    Multiply-adds are those of convolutions, linear layers and attention products; norms, activations and additions
    are not counted.
    """

    path: str
    shape: Shape
    parameters: int
    multiply_adds: int


class Empty(np.ndarray):
    """An array of four bytes that has any shape; what is computed of it is another one."""

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        return empty(*np.broadcast_shapes(*(np.shape(x) for x in inputs)))

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if function is np.concatenate:
            arrays, axis = args[0], kwargs.get("axis", 0)
            shape = list(arrays[0].shape)
            shape[axis] = sum(a.shape[axis] for a in arrays)
            return empty(*shape)
        return super().__array_function__(function, types, args, kwargs)


def empty(*shape: int) -> np.ndarray:
    """An `Empty` of the shape."""
    return np.broadcast_to(np.float32(0), shape).view(Empty)


def _conv2d(x: np.ndarray, weight: np.ndarray, bias: Any = None, *, stride: int = 1, padding: Any = 0) -> np.ndarray:
    top, bottom, left, right = (padding,) * 4 if isinstance(padding, int) else padding
    n, height, width, _ = x.shape
    rows = (height + top + bottom - weight.shape[2]) // stride + 1
    columns = (width + left + right - weight.shape[3]) // stride + 1
    return empty(n, rows, columns, weight.shape[0])


def _upsample_conv2d(x: np.ndarray, weight: np.ndarray, bias: Any = None, size: Any = None) -> np.ndarray:
    rows, columns = (2 * x.shape[1], 2 * x.shape[2]) if size is None else size
    return empty(len(x), rows, columns, weight.shape[0])


def _same(x: np.ndarray, *_: Any) -> np.ndarray:
    return x


# The operators, of which only the shapes are left. Composites are not here: a trace runs them unfused.
SHAPES = SimpleNamespace(
    linear=lambda x, weight, bias=None: empty(*x.shape[:-1], weight.shape[0]),
    conv2d=_conv2d,
    upsample_conv2d=_upsample_conv2d,
    attention=lambda q, k, v, heads, mask=None: empty(*q.shape[:2], v.shape[2]),
    geglu=lambda x: empty(*x.shape[:-1], x.shape[-1] // 2),
    group_norm=_same,
    layer_norm=_same,
    silu=_same,
    gelu=_same,
    quick_gelu=_same,
    timestep_embedding=ops.timestep_embedding,
)


class ShapeTrace(nn.Trace):
    """A trace that keeps, of every module, its cost."""

    def record(self, path: str, output: np.ndarray, inputs: tuple[np.ndarray, ...], w: Weights | None) -> None:
        """Note the shape, channels first, and count the products of the module's own weight."""
        if w is None:
            return
        own = [tuple(w.shape(name)) for name in ("weight", "bias") if name in w]
        # Every number of the output is a sum over one filter, or one row of the matrix.
        matrix = own[0][1:] if own and len(own[0]) > 1 and "embedding" not in w.path.rpartition(".")[2] else None
        products = output.size * math.prod(matrix) if matrix else 0
        self[path] = Cost(path, output.shape, sum(map(math.prod, own)), products)


class _Shapes(TensorSource):
    """Weights of which only the shapes exist."""

    path = "shapes"
    metadata: Mapping[str, str] = {}

    def __init__(self, shapes: Mapping[str, Shape]) -> None:
        self._shapes = dict(shapes)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._shapes)

    def shape(self, name: str) -> Shape:
        return self._shapes[name]

    def dtype(self, name: str) -> str:
        return "F32"

    def read(self, name: str, dtype: Any = np.float32) -> np.ndarray:
        return np.broadcast_to(np.float32(0), self._shapes[name])


def without_weights(model: Any) -> Any:
    """A twin of a text encoder, UNet or autoencoder that has its shapes and computes nothing."""
    runtime = nn.Runtime("reference")
    runtime.__dict__["ops"] = SHAPES
    twin = object.__new__(type(model))
    twin.__dict__.update(model.__dict__)
    twin.runtime = runtime
    twin.weights = Weights(_Shapes(model.parameters), runtime=runtime, settings=model.weights.rules)
    return twin


def unet_costs(unet: UNet, height: int, width: int, tokens: int = 77, batch: int = 1) -> list[Cost]:
    """Every module of a UNet in the order of execution, for latents of `height` × `width`."""
    twin, config = without_weights(unet), unet.config
    conditions: dict[str, np.ndarray] = {}
    if config.has_class_embedding:
        width_of_labels = config.projection_class_embeddings_input_dim or config.temb_dim
        vectors = config.class_embed_type in ("projection", "simple_projection", "identity")
        conditions["class_labels"] = np.zeros((batch, width_of_labels) if vectors else batch, np.int64)
    if config.addition_embed_type == "text_time":
        numbers = 6
        pooled = (config.projection_class_embeddings_input_dim or 0) - numbers * (config.addition_time_embed_dim or 0)
        conditions |= {"text_embeds": empty(batch, pooled), "time_ids": empty(batch, numbers)}
    context = empty(batch, tokens, config.context_dim)
    with nn.trace(into=ShapeTrace()) as costs:
        twin(empty(batch, config.in_channels, height, width), 0, context, **conditions)
    return with_attention(costs)


def vae_costs(vae: AutoencoderKL, height: int, width: int) -> tuple[list[Cost], list[Cost]]:
    """Every module of the encoder for a picture of `height` × `width` pixels, and of the decoder for its latent."""
    twin, factor = without_weights(vae), vae.config.factor
    with nn.trace(into=ShapeTrace()) as encoding:
        twin.encode(empty(1, vae.config.in_channels, height, width))
    with nn.trace(into=ShapeTrace()) as decoding:
        twin.decode(empty(1, vae.config.latent_channels, height // factor, width // factor))
    return with_attention(encoding), with_attention(decoding)


def text_encoder_costs(encoder: TextEncoder, batch: int = 1) -> list[Cost]:
    """Every module of a text encoder for prompts of its full length."""
    twin = without_weights(encoder)
    with nn.trace(into=ShapeTrace()) as costs:
        twin(np.zeros((batch, encoder.config.max_position_embeddings), np.int64))
    return with_attention(costs)


def with_attention(costs: nn.Trace) -> list[Cost]:
    """The modules with the products of attention added: to those of queries, keys and values belong two more.

    QKᵀ and its product with V each take `N · L_q · L_k · C` multiply-adds; they are listed under the attention's path.
    """
    out = []
    for path, cost in costs.items():
        out.append(cost)
        name, _, last = path.rpartition(".")
        if last in ("to_v", "v_proj"):
            q = costs[f"{name}.{last.replace('v', 'q', 1)}"].shape
            products = 2 * q[0] * q[1] * cost.shape[1] * q[2]
            out.append(Cost(f"{name} (softmax)", q, 0, products))
    return out


def by_block(costs: list[Cost], depth: int = 2) -> list[Cost]:
    """The costs summed over modules whose paths begin with the same `depth` names, with the last shape of each."""
    blocks: dict[str, Cost] = {}
    for c in costs:
        names = c.path.split(" ")[0].split(".")
        key = ".".join(names[: depth if len(names) > 1 and names[1].isdigit() else 1])
        before = blocks.get(key, Cost(key, c.shape, 0, 0))
        blocks[key] = Cost(key, c.shape, before.parameters + c.parameters, before.multiply_adds + c.multiply_adds)
    return list(blocks.values())


def total(costs: list[Cost]) -> int:
    """All multiply-adds."""
    return sum(c.multiply_adds for c in costs)
