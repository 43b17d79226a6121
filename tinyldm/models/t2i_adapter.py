"""T2I-Adapter: a small network that reads a picture once, and says what to add to each block of the UNet's way down.

Source: Mou et al. 2023, arXiv:2302.08453, section 3.3 and figure 3. The kind for Stable Diffusion XL is that of the
published code (TencentARC/T2I-Adapter), the light one that of diffusers.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np

from tinyldm.errors import InputError
from tinyldm.models.blocks import Parameters, layer_parameters
from tinyldm.models.network import Network, Supported, require
from tinyldm.models.unet_config import UNetConfig
from tinyldm.nn import conv2d
from tinyldm.ops import avg_pool2d
from tinyldm.tracing import begin, channels_first, channels_last, module
from tinyldm.tree import Weights
from tinyldm.typing import Array

KINDS = ("full_adapter", "full_adapter_xl", "light_adapter")


@dataclass(frozen=True)
class T2IAdapterConfig:
    """The fields of a published T2IAdapter's `config.json`; defaults are those of the original class."""

    in_channels: int = 3
    channels: tuple[int, ...] = (320, 640, 1280, 1280)
    num_res_blocks: int = 2
    downscale_factor: int = 8
    adapter_type: str = "full_adapter"

    supported: ClassVar[Supported] = {"adapter_type": list(KINDS)}

    def __post_init__(self) -> None:
        for name in ("in_channels", "num_res_blocks", "downscale_factor"):
            require("T2I-Adapter", f"{name} of 1 or more", getattr(self, name) >= 1, [True])
        if self.adapter_type == "full_adapter_xl":
            require("T2I-Adapter", "the number of channels", len(self.channels), [4])
            # The original's fourth block takes as many channels as it gives.
            require("T2I-Adapter", "channels[3]", self.channels[3], [self.channels[2]])
            require("T2I-Adapter", "downscale_factor % 2", self.downscale_factor % 2, [0])

    @property
    def levels(self) -> tuple[tuple[int, bool], ...]:
        """The channels that each block gives, and whether it halves the size first."""
        if self.adapter_type == "full_adapter_xl":
            return tuple((width, i == 2) for i, width in enumerate(self.channels))
        widths = (*self.channels, self.channels[-1]) if self.adapter_type == "light_adapter" else self.channels
        return tuple((width, i > 0) for i, width in enumerate(widths))

    @property
    def factor(self) -> int:
        """How many pixels of the picture there are to a latent; the first block of an XL model is at half the size."""
        return self.downscale_factor // (2 if self.adapter_type == "full_adapter_xl" else 1)

    @property
    def scales(self) -> list[tuple[int, int]]:
        """The channels of each block's output, and how much smaller it is than the latent."""
        scale, found = self.downscale_factor // self.factor, []
        for width, halves in self.levels:
            scale *= 2 if halves else 1
            found.append((width, scale))
        return found

    @property
    def hint_channels(self) -> int:
        """The channels of the picture: 3, or 1 of a grey one."""
        return self.in_channels

    @property
    def multiple(self) -> int:
        """What the sides of the picture must be a multiple of."""
        return self.downscale_factor


def taken_at(unet: UNetConfig) -> list[tuple[int, int]]:
    """Where a UNet takes what an adapter adds: the channels there, and how much smaller than the latent it is.

    A block with transformers takes it before it halves the size, another one behind; last the middle may take some.
    """
    last = unet.blocks - 1
    attends = [kind == "CrossAttnDownBlock2D" for kind in unet.down_block_types]
    scales = [2 ** (i if attends[i] or i == last else i + 1) for i in range(unet.blocks)]
    widths = unet.block_out_channels
    return [*zip(widths, scales, strict=True), (widths[last], 2**last)]


def parameters(c: T2IAdapterConfig) -> Parameters:
    """Name and shape of every weight; a light adapter computes in a quarter of the channels."""
    light, unshuffled = c.adapter_type == "light_adapter", c.in_channels * c.downscale_factor**2
    widths = [unshuffled if light else c.channels[0], *(width for width, _ in c.levels)]
    if not light:
        yield from layer_parameters("adapter.conv_in", widths[0], unshuffled, 3, 3)
    for i, (c_in, c_out) in enumerate(pairwise(widths)):
        block, inner, kernel = f"adapter.body.{i}", c_out // 4 if light else c_out, 3 if light else 1
        if light or c_in != c_out:
            yield from layer_parameters(f"{block}.in_conv", inner, c_in, 1, 1)
        for j in range(c.num_res_blocks):
            yield from layer_parameters(f"{block}.resnets.{j}.block1", inner, inner, 3, 3)
            yield from layer_parameters(f"{block}.resnets.{j}.block2", inner, inner, kernel, kernel)
        if light:
            yield from layer_parameters(f"{block}.out_conv", c_out, inner, 1, 1)


class T2IAdapter(Network[T2IAdapterConfig]):
    """The T2I-Adapter of a checkpoint: `adapter(hint) -> features` for `unet(…, features=…)`."""

    component, name = "T2I-Adapter", "t2i_adapter"
    config_class = T2IAdapterConfig
    parameters_of = staticmethod(parameters)

    def __call__(self, hint: Array, scale: float = 1.0) -> list[Array]:
        """What to add to each block of the UNet's way down: a list of `(N, C, h, w)`, the same for all timesteps.

        `hint` `(N, C, H, W)` is the picture that guides, in [0, 1]; `scale` is how strongly it guides.

        Raises `InputError` where the shape does not fit.
        """
        hint, c = np.asarray(hint, self.runtime.dtype), self.config
        fits = hint.ndim == 4 and hint.shape[1] == c.in_channels and 0 not in hint.shape
        if not fits or any(side % c.multiple for side in hint.shape[2:]):
            wanted = f"(N, {c.in_channels}, H, W) with sides that are multiples of {c.multiple}"
            raise InputError(f"T2I-Adapter: hint must have the shape {wanted}, not {hint.shape}")
        begin(self.name, hint=hint)
        features = t2i_adapter(pixel_unshuffle(channels_last(hint), c.downscale_factor), c, self.weights.adapter)
        return [channels_first(feature) * self.runtime.dtype.type(scale) for feature in features]


def t2i_adapter(x: Array, config: T2IAdapterConfig, w: Weights) -> list[Array]:  # (N,h,w,C) -> [(N,h',w',C'), …]
    """A convolution and blocks, some of which halve the size first; every block's output."""
    x = conv2d(x, w.conv_in) if "conv_in" in w else x
    features = []
    for (_, halves), block in zip(config.levels, w.body, strict=True):
        x = adapter_block(halved(x) if halves else x, block)
        features.append(x)
    return features


@module
def adapter_block(x: Array, w: Weights) -> Array:  # (N,H,W,Cin) -> (N,H,W,Cout)
    """Residual blocks, between 1×1 convolutions where the channels change."""
    x = conv2d(x, w.in_conv) if "in_conv" in w else x
    for resnet in w.resnets:
        x = adapter_resnet(x, resnet)
    return conv2d(x, w.out_conv) if "out_conv" in w else x


@module
def adapter_resnet(x: Array, w: Weights) -> Array:  # (N,H,W,C) -> (N,H,W,C)
    """Two convolutions with ReLU between them, around a residual."""
    return conv2d(np.maximum(conv2d(x, w.block1), 0), w.block2) + x


def halved(x: Array) -> Array:
    """The mean over 2×2 pixels, of fewer at an odd border: `(N, H, W, C) -> (N, ⌈H/2⌉, ⌈W/2⌉, C)`."""
    odd = [(0, side % 2) for side in x.shape[1:3]]
    return avg_pool2d(np.pad(x, ((0, 0), *odd, (0, 0)), mode="edge"))


def pixel_unshuffle(x: Array, r: int) -> Array:
    """Squares of r × r pixels as channels, those of one channel side by side: `(N, H, W, C) -> (N, H/r, W/r, C·r²)`.

    Source: Shi et al. 2016, arXiv:1609.05158, section 3.2, the other way round.
    """
    n, height, width, channels = x.shape
    squares = x.reshape(n, height // r, r, width // r, r, channels).transpose(0, 1, 3, 5, 2, 4)
    return squares.reshape(n, height // r, width // r, channels * r * r)
