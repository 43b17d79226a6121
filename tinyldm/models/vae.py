"""AutoencoderKL: the first stage of latent diffusion, between pictures and latents.

A convolutional encoder to the mean and log-variance of a Gaussian over latents, and a decoder back to pixels (Rombach
et al. 2022, arXiv:2112.10752, section 3.1 and appendix G; Kingma and Welling 2013, arXiv:1312.6114). Read `encoder` and
`decoder`: the walk down, the middle, the walk up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from tinyldm.checkpoints.base import TensorSource
from tinyldm.models.blocks import (
    Parameters,
    affine,
    downsample,
    pixel_attention,
    pixel_attention_parameters,
    resnet_block,
    resnet_parameters,
    upsample,
)
from tinyldm.models.config import read_config, require
from tinyldm.models.first_stage import checked, checked_pixels
from tinyldm.nn import conv2d, linear, norm_silu_conv2d
from tinyldm.runtime import Runtime
from tinyldm.tracing import begin, channels_first, channels_last, module, note
from tinyldm.tree import Weights, bind_weights

LOGVAR_RANGE = (-30.0, 20.0)  # the log-variance is clamped to it, so that exp(logvar) neither vanishes nor overflows
INERT = ["force_upcast", "dropout"]  # how the original guards half precision; there is none here


@dataclass(frozen=True)
class AutoencoderConfig:
    """The fields of a published AutoencoderKL's `config.json`; defaults are those of the original class."""

    in_channels: int = 3
    out_channels: int = 3
    down_block_types: tuple[str, ...] = ("DownEncoderBlock2D",)
    up_block_types: tuple[str, ...] = ("UpDecoderBlock2D",)
    block_out_channels: tuple[int, ...] = (64,)
    layers_per_block: int = 1
    act_fn: str = "silu"
    latent_channels: int = 4
    norm_num_groups: int = 32
    sample_size: int = 32
    scaling_factor: float = 0.18215
    shift_factor: float | None = None
    latents_mean: tuple[float, ...] | None = None
    latents_std: tuple[float, ...] | None = None
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True

    def __post_init__(self) -> None:
        require("VAE", "act_fn", self.act_fn, ["silu", "swish"])
        require("VAE", "latents_mean", self.latents_mean, [None])
        require("VAE", "latents_std", self.latents_std, [None])
        check_blocks(self)

    @property
    def factor(self) -> int:
        """How many pixels a latent is wide: every block but the last halves the size."""
        return 2 ** (len(self.block_out_channels) - 1)


class Blocks(Protocol):
    """What the configs of the autoencoders with this encoder and decoder have in common."""

    in_channels: int
    out_channels: int
    down_block_types: tuple[str, ...]
    up_block_types: tuple[str, ...]
    block_out_channels: tuple[int, ...]
    layers_per_block: int
    latent_channels: int
    norm_num_groups: int
    mid_block_add_attention: bool


def check_blocks(config: Blocks) -> None:
    """Raise `ConfigError` for blocks that are of an unknown type, too few or too many, or do not divide into groups."""
    for name, kind in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
        for value in getattr(config, name):
            require("VAE", name, value, [kind, f"Attn{kind}"])
        require("VAE", f"the number of {name}", len(getattr(config, name)), [len(config.block_out_channels)])
    for channels in config.block_out_channels:
        require("VAE", f"{channels} block_out_channels % norm_num_groups", channels % config.norm_num_groups, [0])


def parameters(config: AutoencoderConfig) -> Parameters:
    """Name and shape of every weight."""
    yield from encoder_parameters(config, 2 * config.latent_channels)
    if config.use_quant_conv:
        yield from affine("quant_conv", 2 * config.latent_channels, 2 * config.latent_channels, 1, 1)
    if config.use_post_quant_conv:
        yield from affine("post_quant_conv", config.latent_channels, config.latent_channels, 1, 1)
    yield from decoder_parameters(config)


def encoder_parameters(config: Blocks, out_channels: int) -> Parameters:
    """The weights of `encoder`."""
    widths = config.block_out_channels
    yield from affine("encoder.conv_in", widths[0], config.in_channels, 3, 3)
    c_in = widths[0]
    for i, c_out in enumerate(widths):
        block = f"encoder.down_blocks.{i}"
        for j in range(config.layers_per_block):
            yield from resnet_parameters(f"{block}.resnets.{j}", c_out if j else c_in, c_out)
            if config.down_block_types[i].startswith("Attn"):
                yield from pixel_attention_parameters(f"{block}.attentions.{j}", c_out)
        if i < len(widths) - 1:
            yield from affine(f"{block}.downsamplers.0.conv", c_out, c_out, 3, 3)
        c_in = c_out
    yield from middle_parameters("encoder.mid_block", c_in, config.mid_block_add_attention)
    yield from affine("encoder.conv_norm_out", c_in)
    yield from affine("encoder.conv_out", out_channels, c_in, 3, 3)


def decoder_parameters(config: Blocks) -> Parameters:
    """The weights of `decoder`."""
    widths = config.block_out_channels[::-1]
    c_in = widths[0]
    yield from affine("decoder.conv_in", c_in, config.latent_channels, 3, 3)
    yield from middle_parameters("decoder.mid_block", c_in, config.mid_block_add_attention)
    for i, c_out in enumerate(widths):
        block = f"decoder.up_blocks.{i}"
        for j in range(config.layers_per_block + 1):
            yield from resnet_parameters(f"{block}.resnets.{j}", c_out if j else c_in, c_out)
            if config.up_block_types[i].startswith("Attn"):
                yield from pixel_attention_parameters(f"{block}.attentions.{j}", c_out)
        if i < len(widths) - 1:
            yield from affine(f"{block}.upsamplers.0.conv", c_out, c_out, 3, 3)
        c_in = c_out
    yield from affine("decoder.conv_norm_out", c_in)
    yield from affine("decoder.conv_out", config.out_channels, c_in, 3, 3)


def middle_parameters(name: str, channels: int, attention: bool) -> Parameters:
    """The weights of `middle`."""
    yield from resnet_parameters(f"{name}.resnets.0", channels, channels)
    if attention:
        yield from pixel_attention_parameters(f"{name}.attentions.0", channels)
    yield from resnet_parameters(f"{name}.resnets.1", channels, channels)


class AutoencoderKL:
    """The autoencoder of a checkpoint: `vae.encode(pixels) -> mean, logvar` and `vae.decode(z) -> pixels`."""

    def __init__(self, config: Mapping[str, Any], source: TensorSource, runtime: Runtime | None = None) -> None:
        self.runtime = runtime or Runtime()
        self.config = read_config(AutoencoderConfig, config, component="VAE", inert=INERT)
        self.parameters = dict(parameters(self.config))
        self.weights = bind_weights(
            source,
            self.parameters,
            self.runtime,
            component="VAE",
            settings=[("*", {"groups": self.config.norm_num_groups, "eps": 1e-6, "heads": 1, "padding": 0})],
        )

    def encode(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pictures to Gaussians over latents: `(N, 3, H, W)` in [-1, 1] `-> mean, logvar`, each `(N, C, h, w)`.

        `h = H / factor`; the log-variance is clamped to [-30, 20] as in the original. The latents that the diffusion
        works on are `(z - shift_factor) · scaling_factor` (see `scale`).

        Raises `InputError` for another shape, or a size that is not a multiple of the factor.
        """
        pixels = checked_pixels(pixels, self)
        begin("vae.encode", pixels=pixels)
        h = encoder(channels_last(pixels), self.weights.encoder)
        h = linear(h, self.weights.quant_conv) if self.config.use_quant_conv else h
        mean, logvar = np.split(channels_first(h), 2, axis=1)
        logvar = np.clip(logvar, *LOGVAR_RANGE)
        note(mean=mean, logvar=logvar)
        return mean, logvar

    def decode(self, z: np.ndarray) -> np.ndarray:
        """Latents to pictures: `(N, C, h, w) -> (N, 3, H, W)`, about [-1, 1], not clipped; scaling is already undone.

        Raises `InputError` for another shape.
        """
        z = checked(z, self.config.latent_channels, "z", self)
        begin("vae.decode", z=z)
        h = channels_last(z)
        h = linear(h, self.weights.post_quant_conv) if self.config.use_post_quant_conv else h
        pixels = channels_first(decoder(h, self.weights.decoder))
        note(pixels=pixels)
        return pixels

    def scale(self, z: np.ndarray) -> np.ndarray:
        """From the decoder's latents to those of the diffusion: `(z - shift) · scaling_factor`."""
        return ((z - (self.config.shift_factor or 0.0)) * self.config.scaling_factor).astype(z.dtype, copy=False)

    def unscale(self, z: np.ndarray) -> np.ndarray:
        """From the latents of the diffusion to the decoder's: `z / scaling_factor + shift`."""
        return (z / self.config.scaling_factor + (self.config.shift_factor or 0.0)).astype(z.dtype, copy=False)


@module
def encoder(x: np.ndarray, w: Weights) -> np.ndarray:  # (N,H,W,3) -> (N,h,w,2·C)
    """Residual blocks, halving the size between them; then the middle and a last norm, SiLU and convolution."""
    x = conv2d(x, w.conv_in)
    for block in w.down_blocks:
        x = down_block(x, block)
    x = middle(x, w.mid_block)
    return norm_silu_conv2d(x, w.conv_norm_out, w.conv_out)


@module
def decoder(z: np.ndarray, w: Weights) -> np.ndarray:  # (N,h,w,C) -> (N,H,W,3)
    """The encoder's mirror image: the middle first, then residual blocks with doubling of the size between them."""
    x = conv2d(z, w.conv_in)
    x = middle(x, w.mid_block)
    for block in w.up_blocks:
        x = up_block(x, block)
    return norm_silu_conv2d(x, w.conv_norm_out, w.conv_out)


@module
def down_block(x: np.ndarray, w: Weights) -> np.ndarray:
    """Residual blocks, with attention where the level has it; then half the size (except in the last block)."""
    x = level(x, w)
    return downsample(x, w.downsamplers[0]) if "downsamplers" in w else x


@module
def up_block(x: np.ndarray, w: Weights) -> np.ndarray:
    """Residual blocks, with attention where the level has it; then twice the size (except in the last block)."""
    x = level(x, w)
    return upsample(x, None, w.upsamplers[0]) if "upsamplers" in w else x


def level(x: np.ndarray, w: Weights) -> np.ndarray:
    """The residual blocks of a level, each with attention over all pixels behind it where the level has that."""
    for i, resnet in enumerate(w.resnets):
        x = resnet_block(x, None, resnet)
        if "attentions" in w:
            x = pixel_attention(x, w.attentions[i])
    return x


@module
def middle(x: np.ndarray, w: Weights) -> np.ndarray:
    """At the smallest size: a residual block, attention over all pixels, a residual block."""
    x = resnet_block(x, None, w.resnets[0])
    if "attentions" in w:
        x = pixel_attention(x, w.attentions[0])
    return resnet_block(x, None, w.resnets[1])
