"""IP-Adapter: a picture as a prompt, by attentions of its own beside those to the text.

Source: Ye et al. 2023, arXiv:2308.06721, section 3.2. There are three ways from the image encoder to the tokens
that are attended to: a projection of the embedding; a perceptron over all its tokens ("full face"); and a resampler
("plus"), which asks them a fixed number of questions (Jaegle et al. 2021, arXiv:2103.03206; Alayrac et al. 2022,
arXiv:2204.14198, section 2.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tinyldm.errors import InputError
from tinyldm.models import unet_config
from tinyldm.models.blocks import Parameters, layer_parameters
from tinyldm.models.network import Network, Supported
from tinyldm.models.unet_config import UNetConfig
from tinyldm.nn import attention, layer_norm, linear, linear_activation, linear_residual
from tinyldm.tracing import begin, module, note
from tinyldm.tree import Settings, Weights
from tinyldm.typing import Array

KINDS = ("projection", "full", "plus")
Pair = tuple[Array, Array]  # keys and values of an attention, (N, T, C) each


@dataclass(frozen=True)
class IPAdapterConfig:
    """What the shapes of a published file tell; there is no `config.json`.

    `kind` is how the tokens are made, `embed_dim` the width of what the image encoder gives, `context_dim` that of the
    UNet's context, `tokens` how many there are (of a full one as many as the encoder has), `widths` the channels of the
    UNet's attentions in the order of their numbers. Of a resampler: `hidden_dim`, `depth`, `heads`, `head_dim` and the
    width `inner_dim` of its perceptrons.
    """

    kind: str
    embed_dim: int
    context_dim: int
    tokens: int
    widths: tuple[int, ...]
    hidden_dim: int = 0
    depth: int = 0
    heads: int = 1
    head_dim: int = 64
    inner_dim: int = 0

    supported: ClassVar[Supported] = {"kind": list(KINDS)}

    @property
    def reads_tokens(self) -> bool:
        """Whether it reads the image encoder's tokens, of its last layer but one, or else its embedding."""
        return self.kind != "projection"


def parameters(c: IPAdapterConfig) -> Parameters:
    """Name and shape of every weight, as in the published files."""
    p = "image_proj"
    if c.kind == "projection":
        yield from layer_parameters(f"{p}.proj", c.tokens * c.context_dim, c.embed_dim)
        yield from layer_parameters(f"{p}.norm", c.context_dim)
    elif c.kind == "full":
        yield from layer_parameters(f"{p}.proj.0", c.embed_dim, c.embed_dim)
        yield from layer_parameters(f"{p}.proj.2", c.context_dim, c.embed_dim)
        yield from layer_parameters(f"{p}.proj.3", c.context_dim)
    else:
        yield from resampler_parameters(p, c)
    for i, width in enumerate(c.widths):
        for name in ("to_k_ip", "to_v_ip"):
            yield from layer_parameters(f"ip_adapter.{2 * i + 1}.{name}", width, c.context_dim, bias=False)


def resampler_parameters(name: str, c: IPAdapterConfig) -> Parameters:
    """The weights of `resampler`."""
    width, inner = c.hidden_dim, c.heads * c.head_dim
    yield f"{name}.latents", (1, c.tokens, width)
    yield from layer_parameters(f"{name}.proj_in", width, c.embed_dim)
    yield from layer_parameters(f"{name}.proj_out", c.context_dim, width)
    yield from layer_parameters(f"{name}.norm_out", c.context_dim)
    for i in range(c.depth):
        layer = f"{name}.layers.{i}"
        yield from layer_parameters(f"{layer}.0.norm1", width)
        yield from layer_parameters(f"{layer}.0.norm2", width)
        yield from layer_parameters(f"{layer}.0.to_q", inner, width, bias=False)
        yield from layer_parameters(f"{layer}.0.to_kv", 2 * inner, width, bias=False)
        yield from layer_parameters(f"{layer}.0.to_out", width, inner, bias=False)
        yield from layer_parameters(f"{layer}.1.0", width)
        yield from layer_parameters(f"{layer}.1.1", c.inner_dim, width, bias=False)
        yield from layer_parameters(f"{layer}.1.3", width, c.inner_dim, bias=False)


def settings(c: IPAdapterConfig) -> Settings:
    """Norms' epsilon, attentions' heads."""
    return [("*", {"eps": 1e-5, "heads": c.heads})]


def cross_attentions(c: UNetConfig) -> list[tuple[str, int]]:
    """Path and channels of a UNet's attentions to the context, in the order in which the published files number them.

    Down, up, and last the middle, as the original's UNet makes its blocks.
    """
    query = ".attn2.to_q.weight"
    found = {name: shape for name, shape in unet_config.parameters(c) if name.endswith(query)}
    middle_last = sorted(found, key=lambda name: name.startswith("mid_block."))  # and else in the order of the blocks
    return [(name.removesuffix(".to_q.weight"), found[name][0]) for name in middle_last]


class IPAdapter(Network[IPAdapterConfig]):
    """The IP-Adapter of a file: `adapter(embedding) -> tokens`, and their keys and values for the UNet's attentions."""

    component, name = "IP-Adapter", "ip_adapter"
    config_class = IPAdapterConfig
    parameters_of, settings_of = staticmethod(parameters), staticmethod(settings)

    def __call__(self, embeds: Array) -> Array:
        """The tokens of pictures: `(N, D)`, or of a kind that reads tokens `(N, L, D)`, `-> (N, T, C)`.

        Raises `InputError` for another shape.
        """
        c, w = self.config, self.weights.image_proj
        embeds = np.asarray(embeds, self.runtime.dtype)
        if embeds.ndim != (3 if c.reads_tokens else 2) or embeds.shape[-1] != c.embed_dim or 0 in embeds.shape:
            wanted = f"(N, L, {c.embed_dim})" if c.reads_tokens else f"(N, {c.embed_dim})"
            raise InputError(f"IP-Adapter: the embedding must have the shape {wanted}, not {embeds.shape}")
        begin(self.name, embeds=embeds)
        if c.kind == "projection":
            tokens = layer_norm(linear(embeds, w.proj).reshape(len(embeds), c.tokens, -1), w.norm)
        elif c.kind == "full":
            tokens = layer_norm(linear(linear_activation(embeds, w.proj[0], "gelu"), w.proj[2]), w.proj[3])
        else:
            tokens = resampler(embeds, w)
        note(tokens=tokens)
        return tokens

    def keys_values(self, tokens: Array) -> list[Pair]:
        """Keys and values of tokens `(N, T, D)` for each of the UNet's `cross_attentions`, in their order."""
        return [(linear(tokens, w.to_k_ip), linear(tokens, w.to_v_ip)) for w in self.weights.ip_adapter]


@module
def resampler(x: Array, w: Weights) -> Array:  # (N,L,D) -> (N,T,C)
    """Learned questions, asked of the tokens layer by layer: attention to both, then a perceptron."""
    x = linear(x, w.proj_in)
    h = np.repeat(w.latents, len(x), axis=0)
    for ask, perceptron in w.layers:
        h = perceiver_attention(x, h, ask)
        inner = linear_activation(layer_norm(h, perceptron[0]), perceptron[1], "gelu")
        h = linear_residual(inner, perceptron[3], h)
    return layer_norm(linear(h, w.proj_out), w.norm_out)


@module
def perceiver_attention(x: Array, h: Array, w: Weights) -> Array:  # (N,L,D), (N,T,D) -> (N,T,D)
    """Attention of the questions h to the tokens x and to themselves, around a residual."""
    asked = layer_norm(h, w.norm2)
    keys_values = linear(np.concatenate([layer_norm(x, w.norm1), asked], axis=1), w.to_kv)
    k, v = np.split(keys_values, 2, axis=-1)
    k, v = np.ascontiguousarray(k), np.ascontiguousarray(v)
    return linear_residual(attention(linear(asked, w.to_q), k, v, w), w.to_out, h)
