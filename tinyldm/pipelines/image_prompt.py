"""A picture as a prompt: read by a CLIP image encoder, made tokens by an IP-Adapter, attended to beside the text.

Source: Ye et al. 2023, arXiv:2308.06721, section 3.2, equation 5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image

from tinyldm.errors import CheckpointError, InputError
from tinyldm.models.image_encoder import ImageEncoder, ImageEncoderConfig
from tinyldm.models.ip_adapter import IPAdapter, IPAdapterConfig, Pair, cross_attentions
from tinyldm.pipelines.conditioners import Conditioning
from tinyldm.pipelines.pictures import as_rgb
from tinyldm.typing import Array

Images = Mapping[str, Sequence[Pair]]  # by the path of the attention, for each of the pictures
# Of the pictures that CLIP was trained on, red, green and blue: Radford et al. 2021's published code.
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ImagePrompt:
    """A picture that an IP-Adapter reads, and how strongly it counts beside the text, from 0, not at all.

    `pixels` are `(1, 3, S, S)`; `said` is what the files of pictures say of it.
    """

    adapter: IPAdapter
    encoder: ImageEncoder
    pixels: Array
    scale: float
    said: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        image: Image.Image,
        scale: float,
        adapter: IPAdapter,
        encoder: ImageEncoder,
        said: Mapping[str, Any] = MappingProxyType({}),
    ) -> ImagePrompt:
        """The prompt of a picture; `said` is what else is told of it. Raises `InputError` for a scale that is none."""
        if not np.isfinite(scale):
            raise InputError(f"scale must be a finite number, not {scale}")
        said = {**said, "scale": float(scale)}
        return cls(adapter, encoder, clip_pixels(image, encoder.config.image_size), float(scale), said)

    @cached_property
    def pairs(self) -> list[Pair]:
        """Keys and values for each of the UNet's attentions, `(2, T, C)`: of nothing, and of the picture.

        Nothing is an embedding of zeros, or where all tokens are read, what the encoder makes of a grey picture.
        """
        if self.adapter.config.reads_tokens:
            read = self.encoder(np.concatenate([np.zeros_like(self.pixels), self.pixels]), layer=-2)
        else:
            embedded = self.encoder.pooled(self.pixels)
            read = np.concatenate([np.zeros_like(embedded), embedded])
        # Attention is linear in the values, so that the scale is there once for all steps.
        return [(k, v * v.dtype.type(self.scale)) for k, v in self.adapter.keys_values(self.adapter(read))]


def with_images(prompts: Sequence[ImagePrompt], unet: Any, condition: Conditioning, count: int) -> Conditioning:
    """The condition of `count` pictures with what the UNet's attentions look at beside the text, by their paths."""
    paths = (path for path, _ in cross_attentions(unet.config))
    pairs = map(list, zip(*(prompt.pairs for prompt in prompts), strict=True))
    images = dict(zip(paths, pairs, strict=True))
    rows = [0] * count * condition.guided + [1] * count
    return replace(condition, images=images if condition.composed is not None else of_rows(images, rows))


def of_rows(images: Images, rows: Sequence[int]) -> Images:
    """The keys and values of a batch: for each of its rows that of nothing, 0, or of the picture, 1."""
    return {path: [(k[rows], v[rows]) for k, v in pairs] for path, pairs in images.items()}


def clip_pixels(image: Image.Image, size: int) -> Array:
    """A picture as CLIP takes it: the square in its middle, resized (bicubic), `(1, 3, size, size)` float32, normed.

    Source: Radford et al. 2021, arXiv:2103.00020, published code; rounded as transformers' CLIPImageProcessor does.
    """
    image, _ = as_rgb(image)
    short = min(image.size)
    width, height = (size if side == short else int(size * side / short) for side in image.size)
    levels = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    top, left = (height - size) // 2, (width - size) // 2
    square = levels[top : top + size, left : left + size]
    scaled: Array = (square.astype(np.float64) * (1 / 255)).astype(np.float32)
    normed = (scaled - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return np.ascontiguousarray(np.moveaxis(normed, -1, 0)[None])


def reads(adapter: IPAdapterConfig, encoder: ImageEncoderConfig) -> bool:
    """Whether an IP-Adapter takes what an image encoder gives."""
    return adapter.embed_dim == (encoder.hidden_size if adapter.reads_tokens else encoder.projection_dim)


def check_image_prompt(adapter: IPAdapter, encoder: ImageEncoder, unet: Any, path: object) -> None:
    """Raise `CheckpointError` unless an IP-Adapter belongs to the image encoder and to the kind of UNet."""
    own, given, its = adapter.config, encoder.config, unet.config
    if not reads(own, given):
        what, width = ("tokens", given.hidden_size) if own.reads_tokens else ("embeddings", given.projection_dim)
        raise CheckpointError(
            f"{path}: an IP-Adapter that reads {what} of {own.embed_dim} numbers; the image encoder's have {width}"
        )
    attends = hasattr(its, "context_dim")
    widths = tuple(width for _, width in cross_attentions(its)) if attends else ()
    contexts = its.per_block("cross_attention_dim") if attends else (0,)
    if own.widths != widths or {*contexts} != {own.context_dim}:
        raise CheckpointError(
            f"{path}: an IP-Adapter of a UNet with {len(own.widths)} attentions to a context of {own.context_dim} "
            f"channels; this checkpoint's has {len(widths)} to one of {contexts[0]}"
        )
