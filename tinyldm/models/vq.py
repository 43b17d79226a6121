"""VQModel: the first stage whose latents are replaced by the nearest entries of a codebook before they are decoded.

Source: van den Oord et al. 2017 (VQ-VAE), arXiv:1711.00937; Esser et al. 2020 (VQGAN), arXiv:2012.09841; Rombach et al.
2022, arXiv:2112.10752, section 3.1: diffusion works on the latents before the codebook, which is part of the decoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyldm.checkpoints.base import TensorSource
from tinyldm.models.blocks import Parameters, affine
from tinyldm.models.config import read_config, require
from tinyldm.models.first_stage import checked, checked_pixels
from tinyldm.models.vae import check_blocks, decoder, decoder_parameters, encoder, encoder_parameters
from tinyldm.nn import embedding, linear
from tinyldm.ops.quantize import nearest_code
from tinyldm.runtime import Runtime
from tinyldm.tracing import begin, channels_first, channels_last, note
from tinyldm.tree import bind_weights

INERT = ["force_upcast"]


@dataclass(frozen=True)
class VQConfig:
    """The fields of a published VQModel's `config.json`; defaults are those of the original class."""

    in_channels: int = 3
    out_channels: int = 3
    down_block_types: tuple[str, ...] = ("DownEncoderBlock2D",)
    up_block_types: tuple[str, ...] = ("UpDecoderBlock2D",)
    block_out_channels: tuple[int, ...] = (64,)
    layers_per_block: int = 1
    act_fn: str = "silu"
    latent_channels: int = 3
    sample_size: int = 32
    num_vq_embeddings: int = 256
    norm_num_groups: int = 32
    vq_embed_dim: int | None = None
    scaling_factor: float = 0.18215
    norm_type: str = "group"
    mid_block_add_attention: bool = True
    lookup_from_codebook: bool = False

    def __post_init__(self) -> None:
        require("VQ model", "act_fn", self.act_fn, ["silu", "swish"])
        require("VQ model", "norm_type", self.norm_type, ["group"])
        require("VQ model", "lookup_from_codebook", self.lookup_from_codebook, [False])
        check_blocks(self)

    @property
    def factor(self) -> int:
        """How many pixels a latent is wide: every block but the last halves the size."""
        return 2 ** (len(self.block_out_channels) - 1)

    @property
    def code_dim(self) -> int:
        """The width of the codebook's entries."""
        return self.vq_embed_dim or self.latent_channels


def parameters(c: VQConfig) -> Parameters:
    """Name and shape of every weight."""
    yield from encoder_parameters(c, c.latent_channels)
    yield from affine("quant_conv", c.code_dim, c.latent_channels, 1, 1)
    yield "quantize.embedding.weight", (c.num_vq_embeddings, c.code_dim)
    yield from affine("post_quant_conv", c.latent_channels, c.code_dim, 1, 1)
    yield from decoder_parameters(c)


class VQModel:
    """The VQ first stage of a checkpoint: `encode(pixels) -> z, logvar` and `decode(z) -> pixels`."""

    def __init__(self, config: Mapping[str, Any], source: TensorSource, runtime: Runtime | None = None) -> None:
        self.runtime = runtime or Runtime()
        self.config = read_config(VQConfig, config, component="VQ model", inert=INERT)
        self.parameters = dict(parameters(self.config))
        self.weights = bind_weights(
            source,
            self.parameters,
            self.runtime,
            component="VQ model",
            settings=[("*", {"groups": self.config.norm_num_groups, "eps": 1e-6, "heads": 1, "padding": 0})],
        )

    def encode(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pictures to latents: `(N, 3, H, W)` in [-1, 1] `-> z, logvar`, each `(N, C, h, w)`.

        The latents are not yet replaced by those of the codebook. There is no randomness in them: `logvar` is -∞, so
        that a draw from it, as from a KL autoencoder's, is z itself.

        Raises `InputError` for another shape, or a size that is not a multiple of the factor.
        """
        pixels = checked_pixels(pixels, self, "VQ model")
        begin("vae.encode", pixels=pixels)
        z = channels_first(linear(encoder(channels_last(pixels), self.weights.encoder), self.weights.quant_conv))
        note(mean=z)
        return z, np.full_like(z, -np.inf)

    def decode(self, z: np.ndarray, quantize: bool = True) -> np.ndarray:
        """Latents to pictures: `(N, C, h, w) -> (N, 3, H, W)`; `quantize` replaces each by its nearest entry first.

        Raises `InputError` for another shape.
        """
        z = checked(z, self.config.code_dim, "z", self, "VQ model")
        begin("vae.decode", z=z)
        h = channels_last(z)
        if quantize:
            h = embedding(nearest_code(h, self.weights.quantize.embedding.weight), self.weights.quantize.embedding)
        pixels = channels_first(decoder(linear(h, self.weights.post_quant_conv), self.weights.decoder))
        note(pixels=pixels)
        return pixels

    def codes(self, z: np.ndarray) -> np.ndarray:
        """The number of the codebook's entry nearest to each latent: `(N, C, h, w) -> (N, h, w)` integers."""
        h = channels_last(checked(z, self.config.code_dim, "z", self, "VQ model"))
        return nearest_code(h, self.weights.quantize.embedding.weight)

    def scale(self, z: np.ndarray) -> np.ndarray:
        """From the decoder's latents to those of the diffusion: `z · scaling_factor`."""
        return (z * self.config.scaling_factor).astype(z.dtype, copy=False)

    def unscale(self, z: np.ndarray) -> np.ndarray:
        """From the latents of the diffusion to the decoder's: `z / scaling_factor`."""
        return (z / self.config.scaling_factor).astype(z.dtype, copy=False)
