"""ControlNet: a copy of the UNet's way down that reads a picture, and says what to add to the UNet's skips.

Source: Zhang et al. 2023, arXiv:2302.05543, section 3 and figure 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from tinyldm.errors import InputError
from tinyldm.models.blocks import Parameters, layer_parameters
from tinyldm.models.network import Network, require
from tinyldm.models.unet import Conditions, checked_context, checked_latents, mid_block, time_embedding, way_down
from tinyldm.models.unet_config import INERT as UNET_INERT
from tinyldm.models.unet_config import UNetConfig, down_parameters, embedding_parameters, mid_parameters, settings
from tinyldm.nn import conv2d, silu
from tinyldm.tracing import begin, channels_first, channels_last, module
from tinyldm.tree import Weights
from tinyldm.typing import Array

INERT = [*UNET_INERT, "global_pool_conditions"]  # a hint for image preprocessing in the original


@dataclass(frozen=True)
class ControlNetConfig(UNetConfig):
    """The fields of a published ControlNetModel's `config.json`: those of the UNet that it copies, and the hint's."""

    conditioning_channels: int = 3
    conditioning_embedding_out_channels: tuple[int, ...] = (16, 32, 96, 256)
    controlnet_conditioning_channel_order: str = "rgb"

    def __post_init__(self) -> None:
        super().__post_init__()
        require("ControlNet", "the channel order", self.controlnet_conditioning_channel_order, ["rgb", "bgr"])

    @property
    def factor(self) -> int:
        """How many pixels of the hint there are to a latent, and what its sides must be a multiple of."""
        return 1 << (len(self.conditioning_embedding_out_channels) - 1)

    multiple = factor

    @property
    def hint_channels(self) -> int:
        """The channels of the hint."""
        return self.conditioning_channels


def parameters(c: ControlNetConfig) -> Parameters:
    """Name and shape of every weight."""
    widths = c.block_out_channels
    yield from layer_parameters("conv_in", widths[0], c.in_channels, 3, 3)
    yield from embedding_parameters(c)
    yield from hint_parameters(c)
    yield from down_parameters(c)
    yield from mid_parameters(c)
    for i, width in enumerate(skip_widths(c)):
        yield from layer_parameters(f"controlnet_down_blocks.{i}", width, width, 1, 1)
    yield from layer_parameters("controlnet_mid_block", widths[-1], widths[-1], 1, 1)


def hint_parameters(c: ControlNetConfig) -> Parameters:
    """The weights of `hint_embedding`."""
    name, widths = "controlnet_cond_embedding", c.conditioning_embedding_out_channels
    yield from layer_parameters(f"{name}.conv_in", widths[0], c.conditioning_channels, 3, 3)
    for i, (c_in, c_out) in enumerate(pairwise(widths)):
        yield from layer_parameters(f"{name}.blocks.{2 * i}", c_in, c_in, 3, 3)
        yield from layer_parameters(f"{name}.blocks.{2 * i + 1}", c_out, c_in, 3, 3)
    yield from layer_parameters(f"{name}.conv_out", c.block_out_channels[0], widths[-1], 3, 3)


def skip_widths(u: UNetConfig) -> list[int]:
    """The channels of the UNet's skips: of the first convolution, of every residual block and of every halving."""
    last = (".conv2.weight", ".downsamplers.0.conv.weight")
    return [u.block_out_channels[0], *(shape[0] for name, shape in down_parameters(u) if name.endswith(last))]


class ControlNet(Network[ControlNetConfig]):
    """The ControlNet of a checkpoint: `controlnet(z, t, context, hint) -> residuals` for `unet(…, residuals=…)`."""

    component, name = "ControlNet", "controlnet"
    config_class, inert = ControlNetConfig, INERT
    parameters_of, settings_of = staticmethod(parameters), staticmethod(settings)

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> ControlNetConfig:
        """As of every network; the way up, which is not stated, is that of the UNet, so that its config is whole."""
        down = config.get("down_block_types", UNetConfig.down_block_types)
        return super().read({**config, "up_block_types": [kind.replace("Down", "Up") for kind in down[::-1]]})

    def __call__(
        self, z: Array, t: Array | float, context: Array, hint: Array, scale: float = 1.0, **conditions: Array
    ) -> list[Array]:
        """What to add to each skip of the UNet, and last to its middle: a list of `(N, C, h, w)`.

        `z`, `t`, `context` and `conditions` are those given to the UNet; `hint` `(N, 3, H, W)` is the picture that
        guides, in [0, 1] and of the size of the picture that is made; `scale` is how strongly it guides.

        Raises `InputError` where a shape does not fit.
        """
        c, dtype = self.config, self.runtime.dtype
        z, t = checked_latents(self.component, z, t, c.in_channels, dtype)
        context = checked_context(self.component, context, len(z), c.context_dim, dtype)
        hint, size = np.asarray(hint, dtype), (c.conditioning_channels, c.factor * z.shape[2], c.factor * z.shape[3])
        if hint.ndim != 4 or hint.shape[1:] != size or len(hint) not in (1, len(z)):
            raise InputError(f"ControlNet: hint must have the shape {(len(z), *size)}, not {hint.shape}")
        if c.controlnet_conditioning_channel_order == "bgr":
            hint = hint[:, ::-1]
        given = Conditions.check(conditions, c.conditions, len(z), dtype, c.class_labels_are_ids)
        begin(self.name, z=z, t=t, context=context, hint=hint, **given.arrays())
        residuals = controlnet(channels_last(z), t, context, channels_last(hint), given, c, self.weights)
        return [channels_first(r) * dtype.type(scale) for r in residuals]


def controlnet(
    z: Array, t: Array, context: Array, hint: Array, given: Conditions, config: ControlNetConfig, w: Weights
) -> list[Array]:  # (N,h,w,C), (N,), (N,L,D), (N,H,W,3) -> one array for each skip, and the middle
    """The UNet's way down and middle with the hint added behind the first convolution; each output projected."""
    temb = time_embedding(t, given, config, w)
    x = conv2d(z, w.conv_in) + hint_embedding(hint, w.controlnet_cond_embedding)
    x, skips = way_down(x, temb, context, w, iter(()))
    x = mid_block(x, temb, context, w.mid_block)
    residuals = [conv2d(skip, layer) for skip, layer in zip(skips, w.controlnet_down_blocks, strict=True)]
    return [*residuals, conv2d(x, w.controlnet_mid_block)]


@module
def hint_embedding(x: Array, w: Weights) -> Array:  # (N,H,W,3) -> (N,h,w,C)
    """Convolutions with SiLU between them, every second one halving the size."""
    x = silu(conv2d(x, w.conv_in), w)
    for i, layer in enumerate(w.blocks):
        x = silu(conv2d(x, layer, stride=1 + i % 2), w)
    return conv2d(x, w.conv_out)
