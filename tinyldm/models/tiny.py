"""AutoencoderTiny (TAESD, TAESDXL): a distilled first stage of plain convolutions, some forty times quicker.

It is trained to give the same latents and pictures as the full autoencoder of Stable Diffusion, with no scale of its
own: its latents are those that the diffusion works on. Source: O. Boer Bohan 2023, github.com/madebyollin/taesd.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tinyldm.models.blocks import Parameters, layer_parameters
from tinyldm.models.first_stage import FirstStage
from tinyldm.models.network import Supported, require
from tinyldm.nn import conv2d, conv2d_relu, upsample_conv2d
from tinyldm.tracing import module
from tinyldm.tree import Weights
from tinyldm.typing import Array

INERT = ["force_upcast", "latent_magnitude", "latent_shift", "block_out_channels"]  # storage as 8-bit pictures
LIMIT = 3.0  # latents are squeezed into ±3 before they are decoded


@dataclass(frozen=True)
class TinyConfig:
    """The fields of a published AutoencoderTiny's `config.json`; defaults are those of the original class."""

    in_channels: int = 3
    out_channels: int = 3
    encoder_block_out_channels: tuple[int, ...] = (64, 64, 64, 64)
    decoder_block_out_channels: tuple[int, ...] = (64, 64, 64, 64)
    latent_channels: int = 4
    num_encoder_blocks: tuple[int, ...] = (1, 3, 3, 3)
    num_decoder_blocks: tuple[int, ...] = (3, 3, 3, 1)
    scaling_factor: float = 1.0
    shift_factor: float = 0.0
    sample_size: int = 512

    supported: ClassVar[Supported] = {
        "act_fn": ["relu"],
        "upsample_fn": ["nearest"],
        "upsampling_scaling_factor": [2],
    }

    def __post_init__(self) -> None:
        for half in ("encoder", "decoder"):
            widths = getattr(self, f"{half}_block_out_channels")
            blocks = len(getattr(self, f"num_{half}_blocks"))
            require("VAE", f"the number of num_{half}_blocks", blocks, [len(widths)])
            require("VAE", f"the number of different {half}_block_out_channels", len(set(widths)), [1])
        require("VAE", "the number of num_encoder_blocks", len(self.num_encoder_blocks), [len(self.num_decoder_blocks)])

    @property
    def factor(self) -> int:
        """How many pixels a latent is wide."""
        return 1 << (len(self.num_decoder_blocks) - 1)

    @property
    def decoder_widths(self) -> tuple[int, ...]:
        """The channels of the decoder's levels, those of the largest pictures first."""
        return self.decoder_block_out_channels


def parameters(c: TinyConfig) -> Parameters:
    """Name and shape of every weight; the numbers count all layers, those without weights too."""
    width, i = c.encoder_block_out_channels[0], 0
    for level, blocks in enumerate(c.num_encoder_blocks):
        yield from layer_parameters(
            f"encoder.layers.{i}", width, width if level else c.in_channels, 3, 3, bias=not level
        )
        for j in range(blocks):
            yield from block_parameters(f"encoder.layers.{i + 1 + j}", width)
        i += 1 + blocks
    yield from layer_parameters(f"encoder.layers.{i}", c.latent_channels, width, 3, 3)

    width, i = c.decoder_block_out_channels[0], 2  # behind the first convolution is an activation
    yield from layer_parameters("decoder.layers.0", width, c.latent_channels, 3, 3)
    for level, blocks in enumerate(c.num_decoder_blocks):
        for j in range(blocks):
            yield from block_parameters(f"decoder.layers.{i + j}", width)
        last = level == len(c.num_decoder_blocks) - 1
        i += blocks if last else blocks + 1  # behind the blocks the size is doubled
        yield from layer_parameters(f"decoder.layers.{i}", c.out_channels if last else width, width, 3, 3, bias=last)
        i += 1


def block_parameters(name: str, width: int) -> Parameters:
    """The weights of `block`."""
    for layer in (0, 2, 4):
        yield from layer_parameters(f"{name}.conv.{layer}", width, width, 3, 3)


class AutoencoderTiny(FirstStage[TinyConfig]):
    """The tiny autoencoder of a checkpoint: `encode(pixels) -> z, logvar` and `decode(z) -> pixels`."""

    config_class, inert = TinyConfig, INERT
    parameters_of = staticmethod(parameters)

    def posterior(self, x: Array) -> tuple[Array, Array | None]:  # (N,H,W,3) -> (N,h,w,C), None
        """The latents; there is no randomness in them."""
        return (self.walk_down or encoder)(x, self.weights.encoder), None

    def picture(self, z: Array) -> Array:  # (N,h,w,C) -> (N,H,W,3)
        """The decoder."""
        return (self.walk_up or decoder)(z, self.config, self.weights.decoder)


@module
def encoder(x: Array, w: Weights) -> Array:  # (N,H,W,3) -> (N,h,w,C)
    """Convolutions, of which those without a bias halve the size, with blocks between; pixels are taken as [0, 1]."""
    x = (x + 1) / 2
    for layer in w.layers:
        x = block(x, layer) if "conv" in layer else conv2d(x, layer, stride=1 if "bias" in layer else 2)
    return x


@module
def decoder(z: Array, config: TinyConfig, w: Weights) -> Array:  # (N,h,w,C) -> (N,H,W,3)
    """Blocks, then the doubled size and a convolution, level by level."""
    x = conv2d_relu(np.tanh(z / LIMIT) * LIMIT, w.layers[0])
    layers = list(w.layers)[1:]
    for blocks in config.num_decoder_blocks:
        for layer in layers[:blocks]:
            x = block(x, layer)
        convolution = layers[blocks]
        x = conv2d(x, convolution) if "bias" in convolution else upsample_conv2d(x, convolution)
        layers = layers[blocks + 1 :]
    return 2 * x - 1


@module
def block(x: Array, w: Weights) -> Array:
    """Three convolutions with ReLU between them, around a residual, and a ReLU: `(N, H, W, C) -> (N, H, W, C)`."""
    h = conv2d_relu(conv2d_relu(x, w.conv[0]), w.conv[2])
    return conv2d_relu(h, w.conv[4], residual=x)
