"""VQModel: the first stage whose latents are replaced by the nearest entries of a codebook before they are decoded.

Source: van den Oord et al. 2017 (VQ-VAE), arXiv:1711.00937; Esser et al. 2020 (VQGAN), arXiv:2012.09841; Rombach et al.
2022, arXiv:2112.10752, section 3.1: diffusion works on the latents before the codebook, which is part of the decoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tinyldm.models.blocks import Parameters, layer_parameters
from tinyldm.models.first_stage import FirstStage
from tinyldm.models.network import Supported
from tinyldm.models.vae import BlocksConfig, decoder, decoder_parameters, encoder, encoder_parameters, settings
from tinyldm.nn import embedding, linear
from tinyldm.ops.quantize import nearest_code
from tinyldm.runtime import Runtime
from tinyldm.tracing import channels_last
from tinyldm.tree import TensorSource
from tinyldm.typing import Array, Integers

INERT = ["force_upcast"]


@dataclass(frozen=True)
class VQConfig(BlocksConfig):
    """The fields of a published VQModel's `config.json`; defaults are those of the original class."""

    latent_channels: int = 3
    num_vq_embeddings: int = 256
    vq_embed_dim: int | None = None

    supported: ClassVar[Supported] = {
        **BlocksConfig.supported,
        "norm_type": ["group"],
        "lookup_from_codebook": [False],
    }

    @property
    def code_dim(self) -> int:
        """The width of the codebook's entries."""
        return self.vq_embed_dim or self.latent_channels


def parameters(c: VQConfig) -> Parameters:
    """Name and shape of every weight."""
    yield from encoder_parameters(c, c.latent_channels)
    yield from layer_parameters("quant_conv", c.code_dim, c.latent_channels, 1, 1)
    yield "quantize.embedding.weight", (c.num_vq_embeddings, c.code_dim)
    yield from layer_parameters("post_quant_conv", c.latent_channels, c.code_dim, 1, 1)
    yield from decoder_parameters(c)


class VQModel(FirstStage[VQConfig]):
    """The VQ first stage of a checkpoint: `encode(pixels) -> z, logvar` and `decode(z) -> pixels`."""

    component, config_class, inert = "VQ model", VQConfig, INERT
    parameters_of, settings_of = staticmethod(parameters), staticmethod(settings)

    def __init__(
        self, config: Mapping[str, Any] | VQConfig, source: TensorSource, runtime: Runtime | None = None
    ) -> None:
        super().__init__(config, source, runtime)
        self.latent_channels = self.config.code_dim

    def posterior(self, x: Array) -> tuple[Array, Array | None]:  # (N,H,W,3) -> (N,h,w,C), None
        """The latents, not yet replaced by those of the codebook; there is no randomness in them."""
        return linear((self.walk_down or encoder)(x, self.weights.encoder), self.weights.quant_conv), None

    def decode(self, z: Array, quantize: bool = True) -> Array:
        """Latents to pictures: `(N, C, h, w) -> (N, 3, H, W)`; `quantize` replaces each by its nearest entry first.

        Raises `InputError` for another shape.
        """
        return super().decode(z, quantize=quantize)

    def picture(self, z: Array, quantize: bool = True) -> Array:  # (N,h,w,C) -> (N,H,W,3)
        """The decoder, of the entries of the codebook that are nearest, or of the latents as they are."""
        entries = self.weights.quantize.embedding
        z = embedding(nearest_code(z, entries.weight), entries) if quantize else z
        return (self.walk_up or decoder)(linear(z, self.weights.post_quant_conv), self.weights.decoder)

    def codes(self, z: Array) -> Integers:
        """The number of the codebook's entry nearest to each latent: `(N, C, h, w) -> (N, h, w)` integers."""
        z = channels_last(self.checked(z, self.latent_channels, "z"))
        return nearest_code(z, self.weights.quantize.embedding.weight)
