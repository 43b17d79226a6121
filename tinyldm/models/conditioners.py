"""What makes the condition of the models that are not conditioned by text: a table of classes, a map of segments."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinyldm.errors import InputError
from tinyldm.models.blocks import Parameters
from tinyldm.models.network import Network
from tinyldm.nn import embedding, linear
from tinyldm.ops import avg_pool2d
from tinyldm.tracing import channels_first, channels_last
from tinyldm.typing import Array, Integers


@dataclass(frozen=True)
class ClassEmbedderConfig:
    """How many classes there are (one more than real ones, where the last stands for none), and the context's width."""

    num_classes: int
    embed_dim: int


def class_embedder_parameters(c: ClassEmbedderConfig) -> Parameters:
    """Name and shape of its only weight."""
    yield "embedding.weight", (c.num_classes, c.embed_dim)


class ClassEmbedder(Network[ClassEmbedderConfig]):
    """A context of one token for each class: `embedder(labels) -> context`.

    Source: Rombach et al. 2022, arXiv:2112.10752, section 4.3.1 (class-conditional ImageNet).
    """

    component, name = "class embedder", "class_embedder"
    config_class, parameters_of = ClassEmbedderConfig, staticmethod(class_embedder_parameters)

    def __call__(self, labels: Integers) -> Array:
        """The context of class labels: `(N,) integers -> (N, 1, D)`. Raises `InputError` for no such class."""
        labels, count = np.asarray(labels), self.config.num_classes
        whole = labels.ndim == 1 and labels.dtype.kind in "iu"
        if not whole or (labels.size and not 0 <= labels.min() <= labels.max() < count):
            raise InputError(f"class labels must be integers from 0 to {count - 1} of shape (N,), not {labels!r}")
        return embedding(labels, self.weights.embedding)[:, None]


@dataclass(frozen=True)
class SpatialRescalerConfig:
    """The channels of the map and of the condition, and how often the size is halved."""

    in_channels: int
    out_channels: int
    n_stages: int = 2


def spatial_rescaler_parameters(c: SpatialRescalerConfig) -> Parameters:
    """Name and shape of its only weight."""
    yield "channel_mapper.weight", (c.out_channels, c.in_channels, 1, 1)


class SpatialRescaler(Network[SpatialRescalerConfig]):
    """A map as large as the picture brought to the size of the latents: `rescaler(map) -> condition`.

    Source: Rombach et al. 2022, arXiv:2112.10752, section 4.4 (semantic synthesis).
    """

    component, name = "spatial rescaler", "spatial_rescaler"
    config_class, parameters_of = SpatialRescalerConfig, staticmethod(spatial_rescaler_parameters)

    def __call__(self, segments: Array) -> Array:
        """`(N, C, H, W) -> (N, C', H/2^n, W/2^n)`: halved by bilinear interpolation, which is the mean of 2×2 pixels.

        Raises `InputError` for another number of channels, or a size that is not a multiple of 2^n.
        """
        x, c = np.asarray(segments, self.runtime.dtype), self.config
        multiple = 2**c.n_stages
        if x.ndim != 4 or x.shape[1] != c.in_channels or x.shape[2] % multiple or x.shape[3] % multiple:
            wanted = f"(N, {c.in_channels}, H, W), H and W multiples of {multiple}"
            raise InputError(f"the map must have the shape {wanted}, not {x.shape}")
        h = channels_last(x)
        for _ in range(c.n_stages):
            h = avg_pool2d(h)
        return channels_first(linear(h, self.weights.channel_mapper))
