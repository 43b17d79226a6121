"""AutoencoderKL: the first stage of latent diffusion, between pictures and latents.

A convolutional encoder to the mean and log-variance of a Gaussian over latents, and a decoder back to pixels (Rombach
et al. 2022, arXiv:2112.10752, section 3.1 and appendix G; Kingma and Welling 2013, arXiv:1312.6114). Read `encoder` and
`decoder`: the walk down, the middle, the walk up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tinyldm.models.blocks import (
    Parameters,
    downsample,
    layer_parameters,
    pixel_attention,
    pixel_attention_parameters,
    resnet_block,
    resnet_parameters,
    upsample,
)
from tinyldm.models.first_stage import FirstStage
from tinyldm.models.network import require
from tinyldm.nn import conv2d, linear, norm_silu_conv2d
from tinyldm.tracing import module
from tinyldm.tree import Settings, Weights
from tinyldm.typing import Array

LOGVAR_RANGE = (-30.0, 20.0)  # the log-variance is clamped to it, so that exp(logvar) neither vanishes nor overflows
INERT = ["force_upcast", "dropout"]  # how the original guards half precision; there is none here


@dataclass(frozen=True)
class BlocksConfig:
    """What the configs of all autoencoders with this encoder and decoder say; defaults are the original's."""

    in_channels: int = 3
    out_channels: int = 3
    down_block_types: tuple[str, ...] = ("DownEncoderBlock2D",)
    up_block_types: tuple[str, ...] = ("UpDecoderBlock2D",)
    block_out_channels: tuple[int, ...] = (64,)
    layers_per_block: int = 1
    latent_channels: int = 4
    norm_num_groups: int = 32
    sample_size: int = 32
    scaling_factor: float = 0.18215
    mid_block_add_attention: bool = True

    supported: ClassVar[Mapping[str, list[Any]]] = {"act_fn": ["silu", "swish"]}

    def __post_init__(self) -> None:
        for name, kind in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
            for value in getattr(self, name):
                require("VAE", name, value, [kind, f"Attn{kind}"])
            require("VAE", f"the number of {name}", len(getattr(self, name)), [len(self.block_out_channels)])
        for channels in self.block_out_channels:
            require("VAE", f"{channels} block_out_channels % norm_num_groups", channels % self.norm_num_groups, [0])

    @property
    def factor(self) -> int:
        """How many pixels a latent is wide: every block but the last halves the size."""
        return 1 << (len(self.block_out_channels) - 1)

    @property
    def decoder_widths(self) -> tuple[int, ...]:
        """The channels of the decoder's levels, those of the largest pictures first."""
        return self.block_out_channels


@dataclass(frozen=True)
class AutoencoderConfig(BlocksConfig):
    """The fields of a published AutoencoderKL's `config.json`; defaults are those of the original class."""

    shift_factor: float | None = None
    latents_mean: tuple[float, ...] | None = None
    latents_std: tuple[float, ...] | None = None
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        mean, std = self.latents_mean, self.latents_std
        require("VAE", "latents_mean without latents_std, or the reverse", (mean is None) != (std is None), [False])
        if mean is not None and std is not None:
            require(
                "VAE",
                "the number of latents_mean and latents_std",
                (len(mean), len(std)),
                [(self.latent_channels,) * 2],
            )
            require("VAE", "latents_std above 0", min(std) > 0, [True])
            require("VAE", "shift_factor beside latents_mean", self.shift_factor, [None])


def parameters(config: AutoencoderConfig) -> Parameters:
    """Name and shape of every weight."""
    yield from encoder_parameters(config, 2 * config.latent_channels)
    if config.use_quant_conv:
        yield from layer_parameters("quant_conv", 2 * config.latent_channels, 2 * config.latent_channels, 1, 1)
    if config.use_post_quant_conv:
        yield from layer_parameters("post_quant_conv", config.latent_channels, config.latent_channels, 1, 1)
    yield from decoder_parameters(config)


def encoder_parameters(config: BlocksConfig, out_channels: int) -> Parameters:
    """The weights of `encoder`."""
    widths = config.block_out_channels
    yield from layer_parameters("encoder.conv_in", widths[0], config.in_channels, 3, 3)
    c_in = widths[0]
    for i, c_out in enumerate(widths):
        block, kind = f"encoder.down_blocks.{i}", config.down_block_types[i]
        yield from level_parameters(block, kind, config.layers_per_block, c_in, c_out, last=i == len(widths) - 1)
        c_in = c_out
    yield from middle_parameters("encoder.mid_block", c_in, config.mid_block_add_attention)
    yield from layer_parameters("encoder.conv_norm_out", c_in)
    yield from layer_parameters("encoder.conv_out", out_channels, c_in, 3, 3)


def decoder_parameters(config: BlocksConfig) -> Parameters:
    """The weights of `decoder`."""
    widths = config.block_out_channels[::-1]
    c_in = widths[0]
    yield from layer_parameters("decoder.conv_in", c_in, config.latent_channels, 3, 3)
    yield from middle_parameters("decoder.mid_block", c_in, config.mid_block_add_attention)
    for i, c_out in enumerate(widths):
        block, kind = f"decoder.up_blocks.{i}", config.up_block_types[i]
        yield from level_parameters(block, kind, config.layers_per_block + 1, c_in, c_out, last=i == len(widths) - 1)
        c_in = c_out
    yield from layer_parameters("decoder.conv_norm_out", c_in)
    yield from layer_parameters("decoder.conv_out", config.out_channels, c_in, 3, 3)


def level_parameters(block: str, block_type: str, layers: int, c_in: int, c_out: int, last: bool) -> Parameters:
    """The weights of `level`, and of the change of size behind it, which the last one has not."""
    for j in range(layers):
        yield from resnet_parameters(f"{block}.resnets.{j}", c_out if j else c_in, c_out)
        if block_type.startswith("Attn"):
            yield from pixel_attention_parameters(f"{block}.attentions.{j}", c_out)
    if not last:
        resizer = "downsamplers" if "Down" in block_type else "upsamplers"
        yield from layer_parameters(f"{block}.{resizer}.0.conv", c_out, c_out, 3, 3)


def middle_parameters(name: str, channels: int, attention: bool) -> Parameters:
    """The weights of `middle`."""
    yield from resnet_parameters(f"{name}.resnets.0", channels, channels)
    if attention:
        yield from pixel_attention_parameters(f"{name}.attentions.0", channels)
    yield from resnet_parameters(f"{name}.resnets.1", channels, channels)


def settings(config: BlocksConfig) -> Settings:
    """What the config binds to the nodes: norms' groups and epsilon, one head, downsampling's padding."""
    return [("*", {"groups": config.norm_num_groups, "eps": 1e-6, "heads": 1, "padding": 0})]


class AutoencoderKL(FirstStage[AutoencoderConfig]):
    """The autoencoder of a checkpoint: `vae.encode(pixels) -> mean, logvar` and `vae.decode(z) -> pixels`."""

    config_class, inert = AutoencoderConfig, INERT
    parameters_of, settings_of = staticmethod(parameters), staticmethod(settings)

    def posterior(self, x: Array) -> tuple[Array, Array | None]:  # (N,H,W,3) -> (N,h,w,C), (N,h,w,C)
        """The Gaussian."""
        h = (self.walk_down or encoder)(x, self.weights.encoder)
        h = linear(h, self.weights.quant_conv) if self.config.use_quant_conv else h
        return gaussian(h)

    def picture(self, z: Array) -> Array:  # (N,h,w,C) -> (N,H,W,3)
        """The decoder."""
        h = linear(z, self.weights.post_quant_conv) if self.config.use_post_quant_conv else z
        return (self.walk_up or decoder)(h, self.weights.decoder)


def gaussian(h: Array) -> tuple[Array, Array]:  # (N,h,w,2·C) -> (N,h,w,C), (N,h,w,C)
    """Mean and log-variance, which is clamped to [-30, 20] as in the original."""
    mean, logvar = np.split(h, 2, axis=-1)
    return mean, np.clip(logvar, *LOGVAR_RANGE)


@module
def encoder(x: Array, w: Weights) -> Array:  # (N,H,W,3) -> (N,h,w,2·C)
    """Residual blocks, halving the size between them; then the middle and a last norm, SiLU and convolution."""
    x = conv2d(x, w.conv_in)
    for block in w.down_blocks:
        x = level(x, block)
    x = middle(x, w.mid_block)
    return norm_silu_conv2d(x, w.conv_norm_out, w.conv_out)


@module
def decoder(z: Array, w: Weights) -> Array:  # (N,h,w,C) -> (N,H,W,3)
    """The encoder's mirror image: the middle first, then residual blocks with doubling of the size between them."""
    x = conv2d(z, w.conv_in)
    x = middle(x, w.mid_block)
    for block in w.up_blocks:
        x = level(x, block)
    return norm_silu_conv2d(x, w.conv_norm_out, w.conv_out)


@module
def level(x: Array, w: Weights) -> Array:  # (N,H,W,Cin) -> (N,H/2,W/2,Cout) or (N,2H,2W,Cout)
    """Residual blocks, with attention over all pixels where the level has that; then half or twice the size.

    The last level of the encoder and of the decoder keeps the size.
    """
    for i, resnet in enumerate(w.resnets):
        x = resnet_block(x, None, resnet)
        if "attentions" in w:
            x = pixel_attention(x, w.attentions[i])
    if "downsamplers" in w:
        return downsample(x, w.downsamplers[0])
    return upsample(x, None, w.upsamplers[0]) if "upsamplers" in w else x


@module
def middle(x: Array, w: Weights) -> Array:  # (N,H,W,C) -> (N,H,W,C)
    """At the smallest size: a residual block, attention over all pixels, a residual block."""
    x = resnet_block(x, None, w.resnets[0])
    if "attentions" in w:
        x = pixel_attention(x, w.attentions[0])
    return resnet_block(x, None, w.resnets[1])
