"""The CLIP image encoder: from pixels to the embedding that IP-Adapters read a picture by.

A picture is cut into squares, each of which becomes a token; a transformer in which all see all follows, as in the text
encoder, of whose layers it is made (Dosovitskiy et al. 2020, arXiv:2010.11929, section 3.1; Radford et al. 2021,
arXiv:2103.00020, section 2.4). Read `ImageEncoder.__call__` first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tinyldm.errors import InputError
from tinyldm.models import text_encoder
from tinyldm.models.blocks import Parameters, layer_parameters
from tinyldm.models.network import Network, Supported, require
from tinyldm.models.text_encoder import INERT, encoder
from tinyldm.nn import conv2d, embedding, layer_norm, linear
from tinyldm.tracing import begin, channels_last, module, note
from tinyldm.tree import Settings, Weights
from tinyldm.typing import Array


@dataclass(frozen=True)
class ImageEncoderConfig:
    """The fields of a published CLIP image encoder's `config.json`; defaults are those of the original class."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    projection_dim: int = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_channels: int = 3
    image_size: int = 224
    patch_size: int = 32
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5

    supported: ClassVar[Supported] = {"hidden_act": ["quick_gelu", "gelu"]}

    def __post_init__(self) -> None:
        require("image encoder", "patch_size of 1 or more", self.patch_size >= 1, [True])
        require("image encoder", "image_size of a patch or more", self.image_size >= self.patch_size, [True])

    @property
    def tokens(self) -> int:
        """One for each square, and the first, which stands for the picture."""
        return 1 + (self.image_size // self.patch_size) ** 2


def parameters(c: ImageEncoderConfig) -> Parameters:
    """Name and shape of every weight, without the `vision_model.` prefix of the files."""
    width = c.hidden_size
    yield "embeddings.class_embedding", (width,)
    yield from layer_parameters(
        "embeddings.patch_embedding", width, c.num_channels, c.patch_size, c.patch_size, bias=False
    )
    yield "embeddings.position_embedding.weight", (c.tokens, width)
    yield from layer_parameters("pre_layrnorm", width)  # so it is spelt in the files
    alike = text_encoder.TextEncoderConfig(
        hidden_size=width, intermediate_size=c.intermediate_size, num_hidden_layers=c.num_hidden_layers
    )
    yield from (each for each in text_encoder.parameters(alike) if each[0].startswith("encoder."))
    yield from layer_parameters("post_layernorm", width)
    yield "visual_projection.weight", (c.projection_dim, width)


def settings(c: ImageEncoderConfig) -> Settings:
    """What the config binds to the nodes: norms' epsilon, attentions' heads."""
    return [("*", {"eps": c.layer_norm_eps, "heads": c.num_attention_heads})]


class ImageEncoder(Network[ImageEncoderConfig]):
    """The CLIP image encoder of a checkpoint: `encoder(pixels) -> tokens` and `encoder.pooled(pixels) -> embedding`."""

    component, name = "image encoder", "image_encoder"
    config_class, inert, extras = ImageEncoderConfig, INERT, ["*position_ids"]
    parameters_of, settings_of = staticmethod(parameters), staticmethod(settings)

    def __call__(self, pixels: Array, layer: int = -1) -> Array:
        """The tokens of pictures, which are the output of a layer: `(N, 3, S, S) -> (N, 1 + (S/patch)², D)`.

        `pixels` are those of `pipelines.image_prompt.clip_pixels`; `layer=-1` is the last layer's output, `-2` that of
        the layer before, as in the original's list of hidden states.

        Raises `InputError` for another shape, or for no such layer.
        """
        c, w, count = self.config, self.weights, self.config.num_hidden_layers
        pixels, side = np.asarray(pixels, self.runtime.dtype), c.image_size
        if pixels.ndim != 4 or pixels.shape[1:] != (c.num_channels, side, side) or not len(pixels):
            wanted = f"(N, {c.num_channels}, {side}, {side})"
            raise InputError(f"image encoder: pixels must have the shape {wanted}, not {pixels.shape}")
        if not -count - 1 <= layer <= count:
            raise InputError(f"image encoder: layer {layer} is not there; it has {-count - 1} … {count}")
        begin(self.name, pixels=pixels)
        h = layer_norm(patch_embeddings(channels_last(pixels), c.patch_size, w.embeddings), w.pre_layrnorm)
        h = encoder(h, None, layer % (count + 1), c.hidden_act, w.encoder)
        note(tokens=h)
        return h

    def pooled(self, pixels: Array) -> Array:
        """The embedding of pictures: the first token, normed and projected, `(N, 3, S, S) -> (N, D)`."""
        w = self.weights
        return linear(layer_norm(self(pixels)[:, 0], w.post_layernorm), w.visual_projection)


@module
def patch_embeddings(x: Array, patch: int, w: Weights) -> Array:  # (N,S,S,3) -> (N,1+(S/patch)²,D)
    """A token for the picture and one for each square, row by row, each with its place added."""
    squares = conv2d(x, w.patch_embedding, stride=patch, padding=0)
    n, _, _, width = squares.shape
    first = np.broadcast_to(w.class_embedding, (n, 1, width))
    tokens = np.concatenate([first, squares.reshape(n, -1, width)], axis=1)
    placed: Array = tokens + embedding(np.arange(tokens.shape[1])[None], w.position_embedding)
    return placed
