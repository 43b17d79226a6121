"""UNet2DModel: the UNet of the models that take no context, unconditional or conditioned by what z is joined with.

It is the UNet of `unet.py` with attention over pixels in place of transformers (Ho et al. 2020, arXiv:2006.11239,
appendix B; Rombach et al. 2022, arXiv:2112.10752, sections 4.1 and 4.4). Some change the size by residual blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tinyldm.errors import InputError
from tinyldm.models.blocks import Parameters, layer_parameters, pixel_attention_parameters
from tinyldm.models.network import Network, Supported, require
from tinyldm.models.unet import Conditions, checked_latents, unet
from tinyldm.models.unet_config import FIXED_BLOCKS, BlocksConfig, block_name, parameters, resnet, settings
from tinyldm.tracing import begin, channels_first, channels_last, note
from tinyldm.typing import Array, Integers

INERT = ["dropout", "num_train_timesteps"]  # training only


@dataclass(frozen=True)
class UNet2DConfig(BlocksConfig):
    """The fields of a published UNet2DModel's `config.json`; defaults are those of the original class.

    `attention_head_dim` is the width of a head. `num_attention_heads` is not a field of the original class: it states
    the same number of heads for every width, as some of the first latent-diffusion models have it.
    """

    in_channels: int = 3
    out_channels: int = 3
    down_block_types: tuple[str, ...] = ("DownBlock2D", *["AttnDownBlock2D"] * 3)
    mid_block_type: str | None = "UNetMidBlock2D"
    up_block_types: tuple[str, ...] = (*["AttnUpBlock2D"] * 3, "UpBlock2D")
    block_out_channels: tuple[int, ...] = (224, 448, 672, 896)
    layers_per_block: int = 2
    downsample_type: str = "conv"
    upsample_type: str = "conv"
    attention_head_dim: int | None = 8
    num_attention_heads: int | None = None
    attn_norm_num_groups: int | None = None

    supported: ClassVar[Supported] = {
        **FIXED_BLOCKS,
        "mid_block_type": ["UNetMidBlock2D"],
        "class_embed_type": [None],
        "add_attention": [True],
        "downsample_type": ["conv", "resnet"],
        "upsample_type": ["conv", "resnet"],
    }
    down_types: ClassVar[list[str]] = ["DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"]
    up_types: ClassVar[list[str]] = ["UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"]

    def __post_init__(self) -> None:
        super().__post_init__()
        # With scale and shift the original leaves the norm out of the middle's attention unless its groups are stated.
        groups = [self.norm_num_groups] if self.scale_shift else [None, self.norm_num_groups]
        require("UNet", "attn_norm_num_groups", self.attn_norm_num_groups, groups)

    def resizing(self, block_type: str) -> str:
        """How a block changes the size, by a `conv` or a `resnet`; only those with attention have a choice."""
        chosen = self.downsample_type if "Down" in block_type else self.upsample_type
        return chosen if block_type.startswith("Attn") else "resnet" if block_type.startswith("Resnet") else "conv"

    def heads(self, level: int) -> int:
        """The number of heads of the attentions of a level on the way down."""
        width = self.block_out_channels[level]
        return self.num_attention_heads or width // (self.attention_head_dim or width)

    def attention_parameters(self, way: str, block: int, index: int) -> Parameters:
        """The weights of the attention behind a residual block of the way `down`, `mid` or `up`, if it has one."""
        level = self.blocks - 1 - block if way == "up" else block
        types = {"down": self.down_block_types, "mid": ("Attn",) * self.blocks, "up": self.up_block_types}
        if types[way][block].startswith("Attn"):
            name = f"{block_name(way, block)}.attentions.{index}"
            yield from pixel_attention_parameters(name, self.block_out_channels[level])

    def resize_parameters(self, name: str, block_type: str, width: int) -> Parameters:
        """The weights of what halves or doubles the size behind a block: a convolution or a residual block."""
        if self.resizing(block_type) == "conv":
            return layer_parameters(f"{name}.conv", width, width, 3, 3)
        return resnet(self, name, width, width)


class UNet2D(Network[UNet2DConfig]):
    """The UNet without a context: `unet(z, t) -> epsilon`."""

    component, name = "UNet", "unet"
    config_class, inert = UNet2DConfig, INERT
    parameters_of, settings_of = staticmethod(parameters), staticmethod(settings)

    def __call__(self, z: Array, t: Array | float, class_labels: Integers | None = None) -> Array:
        """The prediction for noisy latents: `(N, C, h, w), t -> (N, C', h, w)`.

        `t` is the timestep, one number or one per sample. Image-conditioned models take z and behind it, along the
        channels, their condition. `class_labels` `(N,)` are ids, of the models that have classes.

        Raises `InputError` where a shape does not fit the model, or class labels are missing or not the model's.
        """
        c = self.config
        z, t = checked_latents(self.component, z, t, c.in_channels, self.runtime.dtype)
        multiple = 1 << (c.blocks - 1)
        pooled = any(c.resizing(kind) == "resnet" for kind in c.down_block_types)
        if pooled and (z.shape[2] % multiple or z.shape[3] % multiple):
            raise InputError(f"UNet: height and width of z must be multiples of {multiple}, not {z.shape[2:]}")
        if (class_labels is None) != (c.num_class_embeds is None):
            raise InputError("UNet: class labels are " + ("missing" if class_labels is None else "not this model's"))
        labels = {} if class_labels is None else {"class_labels": np.asarray(class_labels)}
        given = Conditions.check(labels, c.conditions, len(z), z.dtype, ids=True)
        begin(self.name, z=z, t=t, **given.arrays())
        epsilon = channels_first(unet(channels_last(z), t, None, given, None, c, self.weights))
        note(epsilon=epsilon)
        return epsilon
