"""AsymmetricAutoencoderKL: the usual light encoder, and a heavy decoder that is shown what was not masked.

The decoder mixes, at every size, features of the known part of the picture into its own, so that inpainting keeps that
part as it was. Source: Zhu et al. 2023 (Asymmetric VQGAN), arXiv:2306.04632.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tinyldm.errors import InputError
from tinyldm.models.blocks import Parameters, layer_parameters
from tinyldm.models.first_stage import FirstStage
from tinyldm.models.network import Supported
from tinyldm.models.vae import (
    BlocksConfig,
    decoder_parameters,
    encoder,
    encoder_parameters,
    gaussian,
    level,
    middle,
    settings,
)
from tinyldm.nn import conv2d, linear, norm_silu_conv2d
from tinyldm.ops import upsample_nearest
from tinyldm.tracing import channels_last, module
from tinyldm.tree import Weights
from tinyldm.typing import Array

INERT = ["force_upcast", "block_out_channels"]
STRIDE = 16  # from the picture to the smallest features of the known part


@dataclass(frozen=True)
class AsymmetricConfig:
    """The fields of a published AsymmetricAutoencoderKL's `config.json`; defaults are those of the original class."""

    in_channels: int = 3
    out_channels: int = 3
    down_block_types: tuple[str, ...] = ("DownEncoderBlock2D",)
    down_block_out_channels: tuple[int, ...] = (64,)
    layers_per_down_block: int = 1
    up_block_types: tuple[str, ...] = ("UpDecoderBlock2D",)
    up_block_out_channels: tuple[int, ...] = (64,)
    layers_per_up_block: int = 1
    latent_channels: int = 4
    norm_num_groups: int = 32
    sample_size: int = 32
    scaling_factor: float = 0.18215

    supported: ClassVar[Supported] = BlocksConfig.supported

    def __post_init__(self) -> None:
        self.half("down")
        self.half("up")

    def half(self, way: str) -> BlocksConfig:
        """The config of a symmetric autoencoder with this one's encoder (`down`) or decoder (`up`)."""
        widths = getattr(self, f"{way}_block_out_channels")
        down, up = self.down_block_types, self.up_block_types
        return BlocksConfig(
            in_channels=self.in_channels,
            out_channels=self.out_channels,
            down_block_types=down if way == "down" else ("DownEncoderBlock2D",) * len(widths),
            up_block_types=up if way == "up" else ("UpDecoderBlock2D",) * len(widths),
            block_out_channels=widths,
            layers_per_block=getattr(self, f"layers_per_{way}_block"),
            latent_channels=self.latent_channels,
            norm_num_groups=self.norm_num_groups,
        )

    @property
    def factor(self) -> int:
        """How many pixels a latent is wide: every block but the last halves the size."""
        return 1 << (len(self.down_block_out_channels) - 1)

    @property
    def decoder_widths(self) -> tuple[int, ...]:
        """The channels of the decoder's levels, those of the largest pictures first."""
        return self.up_block_out_channels


def parameters(c: AsymmetricConfig) -> Parameters:
    """Name and shape of every weight."""
    yield from encoder_parameters(c.half("down"), 2 * c.latent_channels)
    yield from layer_parameters("quant_conv", 2 * c.latent_channels, 2 * c.latent_channels, 1, 1)
    yield from layer_parameters("post_quant_conv", c.latent_channels, c.latent_channels, 1, 1)
    yield from decoder_parameters(c.half("up"))
    c_in = c.out_channels
    for i, width in enumerate(condition_widths(c)):
        kernel = 3 if i < 2 else 4
        yield from layer_parameters(f"decoder.condition_encoder.layers.{i}", width, c_in, kernel, kernel)
        c_in = width


def condition_widths(c: AsymmetricConfig) -> list[int]:
    """The channels of the known part's features: they double with every layer, up to those of the smallest size."""
    width, most = c.up_block_out_channels[0], c.up_block_out_channels[-1]
    return [*(min(width << i, most) for i in range(STRIDE.bit_length() - 1)), most]


class AsymmetricAutoencoderKL(FirstStage[AsymmetricConfig]):
    """The asymmetric autoencoder of a checkpoint: `encode(pixels) -> mean, logvar`, `decode(z, image, mask)`."""

    config_class, inert = AsymmetricConfig, INERT
    parameters_of, settings_of = staticmethod(parameters), staticmethod(lambda config: settings(config.half("down")))

    def posterior(self, x: Array) -> tuple[Array, Array | None]:  # (N,H,W,3) -> (N,h,w,C), (N,h,w,C)
        """The Gaussian, as in `AutoencoderKL`."""
        return gaussian(linear((self.walk_down or encoder)(x, self.weights.encoder), self.weights.quant_conv))

    def decode(self, z: Array, image: Array | None = None, mask: Array | None = None) -> Array:
        """Latents to pictures: `(N, C, h, w) -> (N, 3, H, W)`, about [-1, 1], not clipped.

        `image` `(N, 3, H, W)` and `mask` `(N, 1, H, W)`, 1 where the picture is new and 0 where it is known, are given
        together or not at all. Raises `InputError` for another shape.
        """
        if (image is None) != (mask is None):
            raise InputError("VAE: image and mask are given together or not at all")
        if image is None or mask is None:
            return super().decode(z)
        z = self.checked(z, self.latent_channels, "z")
        image, mask = self.checked(image, self.config.out_channels, "image"), self.checked(mask, 1, "mask")
        size = tuple(self.factor * side for side in z.shape[2:])
        if image.shape[2:] != size or mask.shape[2:] != size:
            raise InputError(f"VAE: image and mask must be of {size} pixels, not {image.shape} and {mask.shape}")
        return super().decode(z, known=(channels_last(image), channels_last(mask)))

    def picture(self, z: Array, known: tuple[Array, Array] | None = None) -> Array:  # (N,h,w,C) -> (N,H,W,3)
        """The decoder; `known` are image and mask."""
        return (self.walk_up or decoder)(linear(z, self.weights.post_quant_conv), known, self.weights.decoder)


@module
def decoder(
    z: Array, known: tuple[Array, Array] | None, w: Weights
) -> Array:  # (N,h,w,C), ((N,H,W,3), (N,H,W,1)) -> (N,H,W,3)
    """The usual decoder; in front of every level, and at the end, the known part's features replace its own."""
    x = middle(conv2d(z, w.conv_in), w.mid_block)
    mask = None if known is None else known[1]
    features = {} if known is None else condition_features((1 - known[1]) * known[0], w.condition_encoder)
    for block in w.up_blocks:
        x = level(mixed(x, features, mask), block)
    return norm_silu_conv2d(mixed(x, features, mask), w.conv_norm_out, w.conv_out)


def mixed(x: Array, features: dict[tuple[int, ...], Array], mask: Array | None) -> Array:
    """x where the mask is 1 or there is none, the known part's features where it is 0: `(N, H, W, C)`, as x is."""
    if mask is None:
        return x
    mask = upsample_nearest(mask, x.shape[1:3])
    return x * mask + features[x.shape] * (1 - mask)


def condition_features(x: Array, w: Weights) -> dict[tuple[int, ...], Array]:
    """The known part `(N, H, W, 3)` as features by shape: two convolutions at full size, then three that halve it."""
    features = {}
    for i, layer in enumerate(w.layers):
        x = conv2d(x, layer, stride=1 if i < 2 else 2)
        features[x.shape] = x
        x = np.maximum(x, 0)
    return features
