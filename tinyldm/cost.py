"""What a model costs before it runs: the shape of every intermediate, multiply-adds, parameters and bytes.

Nothing is computed: the models run on arrays that have a shape and no memory (`Empty`; `SHAPES` stands in for the
operators), and a trace notes the shape under every module's path. So the numbers come from the code that computes the
pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tinyldm import ops, tracing
from tinyldm.models.bert import BertEncoder
from tinyldm.models.build import rebuilt
from tinyldm.models.first_stage import FirstStage
from tinyldm.models.network import Network
from tinyldm.models.text_encoder import TextEncoder
from tinyldm.models.unet import UNet
from tinyldm.models.unet2d import UNet2D
from tinyldm.models.unet_config import UNetConfig
from tinyldm.models.vq import VQModel
from tinyldm.runtime import Runtime
from tinyldm.tree import TensorSource, Weights
from tinyldm.typing import Array

Shape = tuple[int, ...]
N = TypeVar("N", bound=Network[Any])

PROMPT_TOKENS = 77  # CLIP's


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
        shape = np.broadcast_shapes(*(np.shape(x) for x in inputs))
        if method == "reduce":  # a mean
            axes = np.lib.array_utils.normalize_axis_tuple(options["axis"], len(shape))
            shape = tuple(n for i, n in enumerate(shape) if i not in axes)
        return empty(*shape)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if function is np.full_like:
            return empty(*args[0].shape)
        if function is np.concatenate:
            arrays, axis = args[0], kwargs.get("axis", 0)
            shape = list(arrays[0].shape)
            shape[axis] = sum(a.shape[axis] for a in arrays)
            return empty(*shape)
        return super().__array_function__(function, types, args, kwargs)


def empty(*shape: int) -> Array:
    """An `Empty` of the shape: `-> (*shape)`."""
    return np.broadcast_to(np.float32(0), shape).view(Empty)


def _conv2d(x: Array, weight: Array, bias: Any = None, *, stride: int = 1, padding: Any = 0) -> Array:
    top, bottom, left, right = (padding,) * 4 if isinstance(padding, int) else padding
    n, height, width, _ = x.shape
    rows = (height + top + bottom - weight.shape[2]) // stride + 1
    columns = (width + left + right - weight.shape[3]) // stride + 1
    return empty(n, rows, columns, weight.shape[0])


def _upsample_nearest(x: Array, size: tuple[int, int] | None = None) -> Array:
    rows, columns = (2 * x.shape[1], 2 * x.shape[2]) if size is None else size
    return empty(len(x), rows, columns, x.shape[3])


def _same(x: Array, *_: Any) -> Array:
    return x


# The operators, of which only the shapes are left. Composites are not here: a trace runs them unfused.
SHAPES = SimpleNamespace(
    linear=lambda x, weight, bias=None: empty(*x.shape[:-1], weight.shape[0]),
    conv2d=_conv2d,
    upsample_nearest=_upsample_nearest,
    attention=lambda q, k, v, heads, mask=None: empty(*q.shape[:2], v.shape[2]),
    geglu=lambda x: empty(*x.shape[:-1], x.shape[-1] // 2),
    **dict.fromkeys(("group_norm", "layer_norm", "silu", "gelu", "quick_gelu"), _same),
    embedding=ops.embedding,
    timestep_embedding=ops.timestep_embedding,
)


class CostTrace(tracing.Trace):
    """A trace that keeps, of every module, its cost."""

    def __init__(self) -> None:
        super().__init__()
        self.costs: dict[str, Cost] = {}

    def record(self, path: str, output: NDArray[Any], inputs: tuple[NDArray[Any], ...], w: Weights | None) -> None:
        """Note the shape, channels first, and count the products of the module's own weight."""
        if w is None:
            return
        own = [w.shapes[name] for name in ("weight", "bias") if name in w]
        # Every number of the output is a sum over one filter, or one row of the matrix.
        matrix = own[0][1:] if own and len(own[0]) > 1 and "embedding" not in w.path.rpartition(".")[2] else None
        products = output.size * math.prod(matrix) if matrix else 0
        self.costs[path] = Cost(path, output.shape, sum(map(math.prod, own)), products)


class WithoutValues(TensorSource):
    """Weights of which only the shapes exist."""

    path = "shapes"

    def __init__(self, shapes: Mapping[str, Shape]) -> None:
        self._shapes = dict(shapes)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the weights."""
        return tuple(self._shapes)

    def shape(self, name: str) -> Shape:
        """The shape of a weight."""
        return self._shapes[name]

    def read(self, name: str, dtype: DTypeLike | None = np.float32) -> Array:
        """An array of zeros that takes no memory."""
        return np.broadcast_to(np.float32(0), self._shapes[name])


def costs_of(network: N, run: Callable[[N], Any]) -> list[Cost]:
    """The cost of every module, in the order of execution, of a run of a twin that computes nothing."""
    twin = rebuilt(network, Runtime("reference", operators=SHAPES), WithoutValues(network.parameters))
    trace = CostTrace()
    with tracing.trace(into=trace), np.errstate(all="ignore"):  # its numbers say nothing
        run(twin)
    return with_attention(trace.costs)


def condition_shapes(config: UNetConfig, batch: int) -> dict[str, Shape]:
    """The shapes of what a UNet takes besides latent, time and context, by name."""
    shapes: dict[str, Shape] = {}
    if config.has_class_embedding:
        vectors = config.class_embed_type in ("projection", "simple_projection", "identity")
        width = config.projection_class_embeddings_input_dim or config.temb_dim
        shapes["class_labels"] = (batch, width) if vectors else (batch,)
    if config.time_cond_proj_dim is not None:
        shapes["guidance"] = (batch, config.time_cond_proj_dim)
    if config.addition_embed_type == "text_time":
        added, one = config.projection_class_embeddings_input_dim or 0, config.addition_time_embed_dim or 1
        shapes |= {"text_embeds": (batch, added - 6 * one), "time_ids": (batch, 6)}  # a refiner's 5: as wide in all
    return shapes


def unet_costs(unet: UNet | UNet2D, height: int, width: int, tokens: int = 77, batch: int = 1) -> list[Cost]:
    """Every module of a UNet in the order of execution, for latents of `height` × `width`."""
    z = empty(batch, unet.config.in_channels, height, width)
    if isinstance(unet, UNet2D):
        labels = None if unet.config.num_class_embeds is None else np.zeros(batch, np.int64)
        return costs_of(unet, lambda twin: twin(z, 0, labels))
    conditions: dict[str, Any] = {
        name: np.zeros(shape, np.int64) for name, shape in condition_shapes(unet.config, batch).items()
    }
    context = empty(batch, tokens, unet.config.context_dim)
    return costs_of(unet, lambda twin: twin(z, 0, context, **conditions))


def vae_costs(vae: FirstStage[Any], height: int, width: int) -> tuple[list[Cost], list[Cost]]:
    """Every module of an autoencoder's encoder for a picture of `height` × `width` pixels, and of its decoder.

    A VQ model's search for the nearest entry of its codebook is listed as `quantize`: a product of every latent with
    every entry.
    """
    config = vae.config
    h, w = height // config.factor, width // config.factor
    pixels, z = empty(1, config.in_channels, height, width), empty(1, vae.latent_channels, h, w)
    encoding = costs_of(vae, lambda twin: twin.encode(pixels))
    if not isinstance(vae, VQModel):
        return encoding, costs_of(vae, lambda twin: twin.decode(z))
    entries = math.prod(vae.parameters["quantize.embedding.weight"])
    search = Cost("quantize", z.shape, entries, h * w * entries)
    return encoding, [search, *costs_of(vae, lambda twin: twin.decode(z, quantize=False))]


def text_encoder_costs(encoder: TextEncoder | BertEncoder) -> list[Cost]:
    """Every module of a text encoder for prompts of its full length, and of its pooled text where it projects that."""
    length = encoder.config.max_position_embeddings
    found = costs_of(encoder, lambda twin: twin(np.zeros((1, length), np.int64)))
    listed, context = {cost.path for cost in found}, found[-1].shape
    # Positions are added where they are looked up, which is no module; the projection takes one row a prompt.
    for name, shape in encoder.parameters.items():
        path = name.rpartition(".")[0]
        if path not in listed and path.endswith("text_projection"):
            found.append(Cost(path, (1, shape[0]), math.prod(shape), math.prod(shape)))
        elif path not in listed:
            found.insert(0, Cost(path, context, math.prod(shape), 0))
    return found


def context_tokens(model: Any) -> int:
    """How many tokens the context of a model has: as a prompt, also where it comes from outside; one of a class."""
    for name in ("text_encoder", "text_encoder_2"):
        if getattr(model, name) is not None:
            return int(getattr(model, name).config.max_position_embeddings)
    return PROMPT_TOKENS if model.class_embedder is None else 1


def picture_costs(model: Any, height: int, width: int, steps: int) -> dict[str, tuple[int, list[Cost]]]:
    """What runs for one picture of a model, by name: how many times, and its modules; guided where it has a condition.

    Source of the guidance: Ho and Salimans 2022, arXiv:2207.12598.
    """
    factor, tokens = model.vae.config.factor, context_tokens(model)
    conditions = {}
    for name in ("text_encoder", "text_encoder_2"):
        if getattr(model, name) is not None:
            conditions[name] = (2, text_encoder_costs(getattr(model, name)))
    if model.class_embedder is not None:
        classes, width_of_one = model.class_embedder.parameters["embedding.weight"]
        table = Cost("embedding", (1, 1, width_of_one), classes * width_of_one, 0)  # a row is taken, no product made
        conditions["class_embedder"] = (2, [table])
    guided = bool(conditions)
    if (rescaler := getattr(model, "spatial_rescaler", None)) is not None:
        segments = empty(1, rescaler.config.in_channels, height, width)
        conditions["spatial_rescaler"] = (1, costs_of(rescaler, lambda twin: twin(segments)))
    _, decoder = vae_costs(model.vae, height, width)
    return {
        **conditions,
        "unet": (2 * steps if guided else steps, unet_costs(model.unet, height // factor, width // factor, tokens)),
        "vae decode": (1, decoder),
    }


def with_attention(costs: Mapping[str, Cost]) -> list[Cost]:
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


def by_block(costs: list[Cost]) -> list[Cost]:
    """The costs summed over the modules of a block (`down_blocks.0`), with the last shape of each."""
    blocks: dict[str, Cost] = {}
    for c in costs:
        names = c.path.split(" ")[0].split(".")
        key = ".".join(names[: 2 if len(names) > 1 and names[1].isdigit() else 1])
        before = blocks.get(key, Cost(key, c.shape, 0, 0))
        blocks[key] = Cost(key, c.shape, before.parameters + c.parameters, before.multiply_adds + c.multiply_adds)
    return list(blocks.values())


def total(costs: list[Cost]) -> int:
    """All multiply-adds."""
    return sum(c.multiply_adds for c in costs)


def attention_products(costs: list[Cost]) -> int:
    """The multiply-adds of attention's two products: those that grow with the square of the pixels."""
    return sum(c.multiply_adds for c in costs if c.path.endswith("(softmax)"))
