"""UNet2DModel: the UNet of the models that take no context, unconditional or conditioned by what z is joined with.

It is the UNet of `unet.py` with attention over pixels in place of transformers (Ho et al. 2020, arXiv:2006.11239,
appendix B; Rombach et al. 2022, arXiv:2112.10752, sections 4.1 and 4.4). Some change the size by residual blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyldm.checkpoints.base import TensorSource
from tinyldm.errors import InputError
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
from tinyldm.models.time_embedding import two_layers
from tinyldm.models.unet_config import two_layer_parameters
from tinyldm.nn import conv2d, embedding, group_norm, linear, norm_silu_conv2d, silu
from tinyldm.ops import avg_pool2d, timestep_embedding, upsample_nearest
from tinyldm.runtime import Runtime
from tinyldm.tracing import begin, channels_first, channels_last, module, note
from tinyldm.tree import Weights, bind_weights

INERT = ["dropout", "num_train_timesteps"]  # training only
FIXED: dict[str, list[Any]] = {
    "act_fn": ["silu", "swish"],
    "time_embedding_type": ["positional"],
    "mid_block_type": ["UNetMidBlock2D"],
    "mid_block_scale_factor": [1, 1.0],
    "class_embed_type": [None],
    "add_attention": [True],
    "downsample_type": ["conv", "resnet"],
    "upsample_type": ["conv", "resnet"],
    "resnet_time_scale_shift": ["default", "scale_shift"],
    "downsample_padding": [0, 1],
}


@dataclass(frozen=True)
class UNet2DConfig:
    """The fields of a published UNet2DModel's `config.json`; defaults are those of the original class.

    `attention_head_dim` is the width of a head. `num_attention_heads` is not a field of the original class: it states
    the same number of heads for every width, as some of the first latent-diffusion models have it.
    """

    sample_size: int | tuple[int, int] | None = None
    in_channels: int = 3
    out_channels: int = 3
    center_input_sample: bool = False
    time_embedding_type: str = "positional"
    time_embedding_dim: int | None = None
    freq_shift: int = 0
    flip_sin_to_cos: bool = True
    down_block_types: tuple[str, ...] = ("DownBlock2D", *["AttnDownBlock2D"] * 3)
    mid_block_type: str | None = "UNetMidBlock2D"
    up_block_types: tuple[str, ...] = (*["AttnUpBlock2D"] * 3, "UpBlock2D")
    block_out_channels: tuple[int, ...] = (224, 448, 672, 896)
    layers_per_block: int = 2
    mid_block_scale_factor: float = 1
    downsample_padding: int = 1
    downsample_type: str = "conv"
    upsample_type: str = "conv"
    act_fn: str = "silu"
    attention_head_dim: int | None = 8
    num_attention_heads: int | None = None
    norm_num_groups: int = 32
    attn_norm_num_groups: int | None = None
    norm_eps: float = 1e-5
    resnet_time_scale_shift: str = "default"
    add_attention: bool = True
    class_embed_type: str | None = None
    num_class_embeds: int | None = None

    def __post_init__(self) -> None:
        for name, supported in FIXED.items():
            require("UNet", name, getattr(self, name), supported)
        for name, way in (("down_block_types", "Down"), ("up_block_types", "Up")):
            for value in getattr(self, name):
                require("UNet", name, value, [f"{way}Block2D", f"Attn{way}Block2D", f"Resnet{way}sampleBlock2D"])
            require("UNet", f"the number of {name}", len(getattr(self, name)), [len(self.block_out_channels)])
        for channels in self.block_out_channels:
            require("UNet", f"{channels} block_out_channels % norm_num_groups", channels % self.norm_num_groups, [0])
        # With scale and shift the original leaves the norm out of the middle's attention unless its groups are stated.
        groups = [self.norm_num_groups] if self.scale_shift else [None, self.norm_num_groups]
        require("UNet", "attn_norm_num_groups", self.attn_norm_num_groups, groups)

    @property
    def temb_dim(self) -> int:
        """The width of the time embedding."""
        return self.time_embedding_dim or 4 * self.block_out_channels[0]

    @property
    def scale_shift(self) -> bool:
        """Whether the time embedding scales and shifts the second norm, rather than being added before it."""
        return self.resnet_time_scale_shift == "scale_shift"

    def resizing(self, block_type: str) -> str:
        """How a block changes the size, by a `conv` or a `resnet`; only those with attention have a choice."""
        chosen = self.downsample_type if "Down" in block_type else self.upsample_type
        return chosen if block_type.startswith("Attn") else "resnet" if block_type.startswith("Resnet") else "conv"

    def heads(self, width: int) -> int:
        """The number of heads of an attention over `width` channels."""
        return self.num_attention_heads or width // (self.attention_head_dim or width)


def settings(c: UNet2DConfig) -> list[tuple[str, dict[str, Any]]]:
    """What the config binds to the nodes."""
    everywhere = {
        "groups": c.norm_num_groups,
        "eps": c.norm_eps,
        "padding": c.downsample_padding,
        "scale_shift": c.scale_shift,
    }
    rules: list[tuple[str, dict[str, Any]]] = [("*", everywhere)]
    last = len(c.block_out_channels) - 1
    for i, width in enumerate(c.block_out_channels):
        bound = {"heads": c.heads(width)}
        rules += [(f"down_blocks.{i}.*", bound), (f"up_blocks.{last - i}.*", bound)]
    return [*rules, ("mid_block.*", {"heads": c.heads(c.block_out_channels[-1])})]


def parameters(c: UNet2DConfig) -> Parameters:
    """Name and shape of every weight."""
    widths = c.block_out_channels
    yield from affine("conv_in", widths[0], c.in_channels, 3, 3)
    yield from two_layer_parameters("time_embedding", widths[0], c.temb_dim)
    if c.num_class_embeds is not None:
        yield "class_embedding.weight", (c.num_class_embeds, c.temb_dim)
    x = widths[0]
    for i, width in enumerate(widths):
        inputs = [x] + [width] * (c.layers_per_block - 1)
        last = i == len(widths) - 1
        yield from level_parameters(c, f"down_blocks.{i}", c.down_block_types[i], inputs, width, last)
        x = width
    yield from resnet(c, "mid_block.resnets.0", x, x)
    yield from pixel_attention_parameters("mid_block.attentions.0", x)
    yield from resnet(c, "mid_block.resnets.1", x, x)
    for i, width in enumerate(widths[::-1]):
        before = widths[max(len(widths) - 2 - i, 0)]  # the width of the level's own input, its last skip
        skips = [width] * c.layers_per_block + [before]
        inputs = [a + b for a, b in zip([x] + [width] * c.layers_per_block, skips, strict=True)]
        last = i == len(widths) - 1
        yield from level_parameters(c, f"up_blocks.{i}", c.up_block_types[i], inputs, width, last)
        x = width
    yield from affine("conv_norm_out", widths[0])
    yield from affine("conv_out", c.out_channels, widths[0], 3, 3)


def level_parameters(
    c: UNet2DConfig, block: str, block_type: str, inputs: list[int], width: int, last: bool
) -> Parameters:
    """The weights of one level: residual blocks with the given input widths, attentions, the change of size."""
    attended, resizer = block_type.startswith("Attn"), "downsamplers" if "Down" in block_type else "upsamplers"
    for j, c_in in enumerate(inputs):
        yield from resnet(c, f"{block}.resnets.{j}", c_in, width)
        if attended:
            yield from pixel_attention_parameters(f"{block}.attentions.{j}", width)
    if last:
        return
    if c.resizing(block_type) == "conv":
        yield from affine(f"{block}.{resizer}.0.conv", width, width, 3, 3)
    else:
        yield from resnet(c, f"{block}.{resizer}.0", width, width)


def resnet(c: UNet2DConfig, name: str, c_in: int, c_out: int) -> Parameters:
    """The weights of a residual block with the model's time embedding."""
    yield from resnet_parameters(name, c_in, c_out, c.temb_dim, c.scale_shift)


class UNet2D:
    """The UNet without a context: `unet(z, t) -> epsilon`."""

    def __init__(self, config: Mapping[str, Any], source: TensorSource, runtime: Runtime | None = None) -> None:
        self.runtime = runtime or Runtime()
        self.config = read_config(UNet2DConfig, config, component="UNet", inert=INERT)
        self.parameters = dict(parameters(self.config))
        self.weights = bind_weights(
            source, self.parameters, self.runtime, component="UNet", settings=settings(self.config)
        )

    def __call__(self, z: np.ndarray, t: np.ndarray | float, class_labels: np.ndarray | None = None) -> np.ndarray:
        """The prediction for noisy latents: `(N, C, h, w), t -> (N, C', h, w)`.

        `t` is the timestep, one number or one per sample. Image-conditioned models take z and behind it, along the
        channels, their condition. `class_labels` `(N,)` are ids, of the models that have classes.

        Raises `InputError` where a shape does not fit the model, or class labels are missing or not the model's.
        """
        z = np.asarray(z, self.runtime.dtype)
        c, t = self.config, np.asarray(t)
        if z.ndim != 4 or z.shape[1] != c.in_channels or 0 in z.shape:
            raise InputError(f"UNet: z must have the shape (N, {c.in_channels}, height, width), not {z.shape}")
        smallest = 2 ** (len(c.block_out_channels) - 1)
        pooled = any(c.resizing(kind) == "resnet" for kind in c.down_block_types)
        if pooled and (z.shape[2] % smallest or z.shape[3] % smallest):
            raise InputError(f"UNet: height and width of z must be multiples of {smallest}, not {z.shape[2:]}")
        if t.dtype.kind not in "iuf" or t.shape not in ((), (1,), (len(z),)):
            raise InputError(f"UNet: t must be a number or one number per sample ({len(z)}), not of shape {t.shape}")
        if (class_labels is None) != (c.num_class_embeds is None):
            raise InputError("UNet: class labels are " + ("missing" if class_labels is None else "not this model's"))
        t = np.broadcast_to(t, (len(z),))
        labels = None if class_labels is None else np.asarray(class_labels)
        begin("unet", z=z, t=t, **({} if labels is None else {"class_labels": labels}))
        epsilon = channels_first(unet2d(channels_last(z), t, labels, c, self.weights))
        note(epsilon=epsilon)
        return epsilon


def unet2d(
    z: np.ndarray, t: np.ndarray, labels: np.ndarray | None, config: UNet2DConfig, w: Weights
) -> np.ndarray:  # (N,h,w,C), (N,) -> (N,h,w,C')
    """The whole model: time embedding, way down, middle, way up."""
    temb = time_embedding(t, config, w.time_embedding)
    if labels is not None:
        temb = temb + embedding(labels, w.class_embedding)
    x = conv2d(2 * z - 1 if config.center_input_sample else z, w.conv_in)
    skips = [x]
    for block in w.down_blocks:
        x, block_skips = down_block(x, temb, block)
        skips += block_skips
    x = mid_block(x, temb, w.mid_block)
    for block in w.up_blocks:
        x = up_block(x, skips, temb, block)
    return norm_silu_conv2d(x, w.conv_norm_out, w.conv_out)


@module
def time_embedding(t: np.ndarray, config: UNet2DConfig, w: Weights) -> np.ndarray:  # (N,) -> (N,T)
    """Sines and cosines of the timestep through two linear layers."""
    arrangement = {"flip_sin_to_cos": config.flip_sin_to_cos, "freq_shift": config.freq_shift}
    return two_layers(timestep_embedding(t, config.block_out_channels[0], dtype=w.runtime.dtype, **arrangement), w)


@module
def down_block(
    x: np.ndarray, temb: np.ndarray, w: Weights
) -> tuple[np.ndarray, list[np.ndarray]]:  # (N,H,W,Cin) -> (N,⌈H/2⌉,⌈W/2⌉,Cout), skips
    """Residual blocks, each with attention where the level has it, then half the size; every output is kept."""
    skips = []
    for i, resnet in enumerate(w.resnets):
        x = resnet_block(x, temb, resnet)
        if "attentions" in w:
            x = pixel_attention(x, w.attentions[i])
        skips.append(x)
    if "downsamplers" in w:
        smaller = w.downsamplers[0]
        x = downsample(x, smaller) if "conv" in smaller else resizing_block(x, temb, avg_pool2d, smaller)
        skips.append(x)
    return x, skips


@module
def mid_block(x: np.ndarray, temb: np.ndarray, w: Weights) -> np.ndarray:
    """At the smallest size: residual block, attention, residual block."""
    x = resnet_block(x, temb, w.resnets[0])
    x = pixel_attention(x, w.attentions[0])
    return resnet_block(x, temb, w.resnets[1])


@module
def up_block(x: np.ndarray, skips: list[np.ndarray], temb: np.ndarray, w: Weights) -> np.ndarray:
    """Residual blocks over x beside the latest skip, which is used up; then the size of the skip that comes next."""
    for i, resnet in enumerate(w.resnets):
        x = resnet_block(np.concatenate([x, skips.pop()], axis=-1), temb, resnet)
        if "attentions" in w:
            x = pixel_attention(x, w.attentions[i])
    if "upsamplers" in w:
        larger = w.upsamplers[0]
        x = (
            upsample(x, skips[-1].shape[1:3], larger)
            if "conv" in larger
            else resizing_block(x, temb, upsample_nearest, larger)
        )
    return x


@module
def resizing_block(
    x: np.ndarray, temb: np.ndarray, resize: Callable[[np.ndarray], np.ndarray], w: Weights
) -> np.ndarray:  # (N,H,W,C) -> half or twice the size
    """A residual block that changes the size, of its input and of the way around it, behind the first norm.

    Source: Song et al. 2020, arXiv:2011.13456, appendix H; Dhariwal and Nichol 2021, arXiv:2105.05233, section 3.
    """
    h = conv2d(resize(silu(group_norm(x, w.norm1), w, "nonlinearity#1")), w.conv1)
    shift = linear(silu(temb, w, "nonlinearity#2"), w.time_emb_proj)[:, None, None, :]
    if w.setting("scale_shift"):
        scale, shift = np.split(shift, 2, axis=-1)
        h = group_norm(h, w.norm2) * (1 + scale) + shift
    else:
        h = group_norm(h + shift, w.norm2)
    return conv2d(silu(h, w, "nonlinearity#3"), w.conv2) + resize(x)
