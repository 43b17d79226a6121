"""AutoencoderTiny (TAESD, TAESDXL): a distilled first stage of plain convolutions, some forty times quicker.

It is trained to give the same latents and pictures as the full autoencoder of Stable Diffusion, with no scale of its
own: its latents are those that the diffusion works on. Source: O. Boer Bohan 2023, github.com/madebyollin/taesd.
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
from tinyldm.nn import conv2d
from tinyldm.ops import upsample_nearest
from tinyldm.runtime import Runtime
from tinyldm.tracing import begin, channels_first, channels_last, module, note
from tinyldm.tree import Weights, bind_weights

INERT = ["force_upcast", "latent_magnitude", "latent_shift", "block_out_channels"]  # storage as 8-bit pictures
LIMIT = 3.0  # latents are squeezed into ±3 before they are decoded


@dataclass(frozen=True)
class TinyConfig:
    """The fields of a published AutoencoderTiny's `config.json`; defaults are those of the original class."""

    in_channels: int = 3
    out_channels: int = 3
    encoder_block_out_channels: tuple[int, ...] = (64, 64, 64, 64)
    decoder_block_out_channels: tuple[int, ...] = (64, 64, 64, 64)
    act_fn: str = "relu"
    upsample_fn: str = "nearest"
    latent_channels: int = 4
    upsampling_scaling_factor: int = 2
    num_encoder_blocks: tuple[int, ...] = (1, 3, 3, 3)
    num_decoder_blocks: tuple[int, ...] = (3, 3, 3, 1)
    scaling_factor: float = 1.0
    shift_factor: float = 0.0
    sample_size: int = 512

    def __post_init__(self) -> None:
        require("VAE", "act_fn", self.act_fn, ["relu"])
        require("VAE", "upsample_fn", self.upsample_fn, ["nearest"])
        require("VAE", "upsampling_scaling_factor", self.upsampling_scaling_factor, [2])
        for half in ("encoder", "decoder"):
            widths = getattr(self, f"{half}_block_out_channels")
            blocks = len(getattr(self, f"num_{half}_blocks"))
            require("VAE", f"the number of num_{half}_blocks", blocks, [len(widths)])
            require("VAE", f"the number of different {half}_block_out_channels", len(set(widths)), [1])
        require("VAE", "the number of num_encoder_blocks", len(self.num_encoder_blocks), [len(self.num_decoder_blocks)])

    @property
    def factor(self) -> int:
        """How many pixels a latent is wide."""
        return 2 ** (len(self.num_decoder_blocks) - 1)


def parameters(c: TinyConfig) -> Parameters:
    """Name and shape of every weight; the numbers count all layers, those without weights too."""
    width, i = c.encoder_block_out_channels[0], 0
    for level, blocks in enumerate(c.num_encoder_blocks):
        yield from affine(f"encoder.layers.{i}", width, width if level else c.in_channels, 3, 3, bias=not level)
        for j in range(blocks):
            yield from block_parameters(f"encoder.layers.{i + 1 + j}", width)
        i += 1 + blocks
    yield from affine(f"encoder.layers.{i}", c.latent_channels, width, 3, 3)

    width, i = c.decoder_block_out_channels[0], 2  # behind the first convolution is an activation
    yield from affine("decoder.layers.0", width, c.latent_channels, 3, 3)
    for level, blocks in enumerate(c.num_decoder_blocks):
        for j in range(blocks):
            yield from block_parameters(f"decoder.layers.{i + j}", width)
        last = level == len(c.num_decoder_blocks) - 1
        i += blocks if last else blocks + 1  # behind the blocks the size is doubled
        yield from affine(f"decoder.layers.{i}", c.out_channels if last else width, width, 3, 3, bias=last)
        i += 1


def block_parameters(name: str, width: int) -> Parameters:
    """The weights of `block`."""
    for layer in (0, 2, 4):
        yield from affine(f"{name}.conv.{layer}", width, width, 3, 3)


class AutoencoderTiny:
    """The tiny autoencoder of a checkpoint: `encode(pixels) -> z, logvar` and `decode(z) -> pixels`."""

    def __init__(self, config: Mapping[str, Any], source: TensorSource, runtime: Runtime | None = None) -> None:
        self.runtime = runtime or Runtime()
        self.config = read_config(TinyConfig, config, component="VAE", inert=INERT)
        self.parameters = dict(parameters(self.config))
        self.weights = bind_weights(source, self.parameters, self.runtime, component="VAE")

    def encode(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pictures to latents: `(N, 3, H, W)` in [-1, 1] `-> z, logvar`, each `(N, C, h, w)`.

        There is no randomness in them: `logvar` is -∞, so that a draw from it, as from a KL autoencoder's, is z itself.

        Raises `InputError` for another shape, or a size that is not a multiple of the factor.
        """
        pixels = checked_pixels(pixels, self)
        begin("vae.encode", pixels=pixels)
        z = channels_first(encoder(channels_last(pixels), self.weights.encoder))
        note(mean=z)
        return z, np.full_like(z, -np.inf)

    def decode(self, z: np.ndarray) -> np.ndarray:
        """Latents to pictures: `(N, C, h, w) -> (N, 3, H, W)`, about [-1, 1], not clipped.

        Raises `InputError` for another shape.
        """
        z = checked(z, self.config.latent_channels, "z", self)
        begin("vae.decode", z=z)
        pixels = channels_first(decoder(channels_last(z), self.config, self.weights.decoder))
        note(pixels=pixels)
        return pixels

    def scale(self, z: np.ndarray) -> np.ndarray:
        """From the decoder's latents to those of the diffusion: `(z - shift) · scaling_factor`."""
        return ((z - self.config.shift_factor) * self.config.scaling_factor).astype(z.dtype, copy=False)

    def unscale(self, z: np.ndarray) -> np.ndarray:
        """From the latents of the diffusion to the decoder's: `z / scaling_factor + shift`."""
        return (z / self.config.scaling_factor + self.config.shift_factor).astype(z.dtype, copy=False)


@module
def encoder(x: np.ndarray, w: Weights) -> np.ndarray:  # (N,H,W,3) -> (N,h,w,C)
    """Convolutions, of which those without a bias halve the size, with blocks between; pixels are taken as [0, 1]."""
    x = (x + 1) / 2
    for layer in w.layers:
        x = block(x, layer) if "conv" in layer else conv2d(x, layer, stride=1 if "bias" in layer else 2)
    return x


@module
def decoder(z: np.ndarray, config: TinyConfig, w: Weights) -> np.ndarray:  # (N,h,w,C) -> (N,H,W,3)
    """Blocks, then the doubled size and a convolution, level by level."""
    x = np.maximum(conv2d(np.tanh(z / LIMIT) * LIMIT, w.layers[0]), 0)
    layers = list(w.layers)[1:]
    for blocks in config.num_decoder_blocks:
        for layer in layers[:blocks]:
            x = block(x, layer)
        convolution = layers[blocks]
        x = conv2d(x if "bias" in convolution else upsample_nearest(x), convolution)
        layers = layers[blocks + 1 :]
    return 2 * x - 1


@module
def block(x: np.ndarray, w: Weights) -> np.ndarray:
    """Three convolutions with ReLU between them, around a residual, and a ReLU: `(N, H, W, C) -> (N, H, W, C)`."""
    h = np.maximum(conv2d(x, w.conv[0]), 0)
    h = np.maximum(conv2d(h, w.conv[2]), 0)
    return np.maximum(conv2d(h, w.conv[4]) + x, 0)
