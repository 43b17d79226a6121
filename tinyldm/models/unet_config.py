"""The UNet's configuration: which fields there are, what they may say, and which weights follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tinyldm.models.blocks import Parameters, affine, resnet_parameters
from tinyldm.models.config import per_block, require
from tinyldm.models.transformer import transformer_parameters

# Training only, or how the original arranges half precision; none changes what is computed here.
INERT = ["dropout", "upcast_attention", "addition_embed_type_num_heads"]

# Fields for which the published checkpoints state one value, the only one supported.
FIXED: dict[str, list[Any]] = {
    "act_fn": ["silu", "swish"],
    "num_attention_heads": [None],
    "dual_cross_attention": [False],
    "attention_type": ["default"],
    "cross_attention_norm": [None],
    "mid_block_scale_factor": [1, 1.0],
    "mid_block_type": ["UNetMidBlock2DCrossAttn", None],
    "resnet_skip_time_act": [False],
    "resnet_out_scale_factor": [1, 1.0],
    "resnet_time_scale_shift": ["default", "scale_shift"],
    "time_embedding_type": ["positional"],
    "time_embedding_act_fn": [None],
    "timestep_post_act": [None],
    "encoder_hid_dim_type": [None, "text_proj"],
    "class_embed_type": [None, "timestep", "identity", "projection", "simple_projection"],
    "addition_embed_type": [None, "text_time"],
    "downsample_padding": [0, 1],
}


@dataclass(frozen=True)
class UNetConfig:
    """The fields of a published UNet2DConditionModel's `config.json`; defaults are those of the original class.

    `attention_head_dim` is, in spite of its name, the number of heads: so are the published files to be read.
    """

    sample_size: int | tuple[int, int] | None = None
    in_channels: int = 4
    out_channels: int = 4
    center_input_sample: bool = False
    flip_sin_to_cos: bool = True
    freq_shift: int = 0
    down_block_types: tuple[str, ...] = (*["CrossAttnDownBlock2D"] * 3, "DownBlock2D")
    mid_block_type: str | None = "UNetMidBlock2DCrossAttn"
    up_block_types: tuple[str, ...] = ("UpBlock2D", *["CrossAttnUpBlock2D"] * 3)
    only_cross_attention: bool | tuple[bool, ...] = False
    mid_block_only_cross_attention: bool | None = None
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int | tuple[int, ...] = 2
    downsample_padding: int = 1
    mid_block_scale_factor: float = 1
    act_fn: str = "silu"
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    cross_attention_dim: int | tuple[int, ...] = 1280
    transformer_layers_per_block: int | tuple[int | tuple[int, ...], ...] = 1
    reverse_transformer_layers_per_block: tuple[int | tuple[int, ...], ...] | None = None
    encoder_hid_dim: int | None = None
    encoder_hid_dim_type: str | None = None
    attention_head_dim: int | tuple[int, ...] = 8
    num_attention_heads: int | None = None
    dual_cross_attention: bool = False
    use_linear_projection: bool = False
    class_embed_type: str | None = None
    addition_embed_type: str | None = None
    addition_time_embed_dim: int | None = None
    num_class_embeds: int | None = None
    resnet_time_scale_shift: str = "default"
    resnet_skip_time_act: bool = False
    resnet_out_scale_factor: float = 1.0
    time_embedding_type: str = "positional"
    time_embedding_dim: int | None = None
    time_embedding_act_fn: str | None = None
    timestep_post_act: str | None = None
    time_cond_proj_dim: int | None = None
    conv_in_kernel: int = 3
    conv_out_kernel: int = 3
    projection_class_embeddings_input_dim: int | None = None
    attention_type: str = "default"
    class_embeddings_concat: bool = False
    cross_attention_norm: str | None = None

    def __post_init__(self) -> None:
        for name, supported in FIXED.items():
            require("UNet", name, getattr(self, name), supported)
        for down in self.down_block_types:
            require("UNet", "down_block_types", down, ["CrossAttnDownBlock2D", "DownBlock2D"])
        for up in self.up_block_types:
            require("UNet", "up_block_types", up, ["CrossAttnUpBlock2D", "UpBlock2D"])
        for name in ("down_block_types", "up_block_types"):
            require("UNet", f"the number of {name}", len(getattr(self, name)), [self.blocks])
        require("UNet", "norm_num_groups", type(self.norm_num_groups), [int])
        for channels in self.block_out_channels:
            require("UNet", f"{channels} block_out_channels % norm_num_groups", channels % self.norm_num_groups, [0])
        if self.class_embed_type in ("projection", "simple_projection") or self.addition_embed_type:
            require("UNet", "projection_class_embeddings_input_dim is set", self._projection_width is not None, [True])

    @property
    def _projection_width(self) -> int | None:
        return self.projection_class_embeddings_input_dim

    @property
    def blocks(self) -> int:
        """The number of levels."""
        return len(self.block_out_channels)

    def per_block(self, name: str) -> tuple[Any, ...]:
        """The field `name`, one value for each level on the way down."""
        return per_block("UNet", name, getattr(self, name), self.blocks)

    @property
    def temb_dim(self) -> int:
        """The width of the time embedding."""
        return self.time_embedding_dim or 4 * self.block_out_channels[0]

    @property
    def context_dim(self) -> int:
        """The width of the context that the model takes."""
        return self.encoder_hid_dim or self.per_block("cross_attention_dim")[0]

    @property
    def has_class_embedding(self) -> bool:
        """Whether the model takes class labels."""
        return self.class_embed_type is not None or self.num_class_embeds is not None

    @property
    def class_labels_are_ids(self) -> bool:
        """Whether class labels are rows of a table, rather than numbers to compute with."""
        return self.class_embed_type is None and self.num_class_embeds is not None

    @property
    def scale_shift(self) -> bool:
        """Whether the time embedding scales and shifts the second norm, rather than being added before it."""
        return self.resnet_time_scale_shift == "scale_shift"

    def transformer_layers(self, block: int, attention: int) -> int:
        """How many transformer blocks the given attention of a level on the way down has."""
        return _entry(self.per_block("transformer_layers_per_block")[block], attention)

    def transformer_layers_up(self, block: int, attention: int) -> int:
        """The same on the way up."""
        if self.reverse_transformer_layers_per_block is None:
            return self.transformer_layers(self.blocks - 1 - block, attention)
        return _entry(self.reverse_transformer_layers_per_block[block], attention)


def _entry(value: int | tuple[int, ...], i: int) -> int:
    return value[i] if isinstance(value, tuple) else value


def settings(c: UNetConfig) -> list[tuple[str, dict[str, Any]]]:
    """What the config binds to the nodes: norms' groups and epsilon, attentions' heads, downsampling's padding."""
    everywhere = {
        "groups": c.norm_num_groups,
        "eps": c.norm_eps,
        "padding": c.downsample_padding,
        "scale_shift": c.scale_shift,
        "only_cross_attention": False,
    }
    rules: list[tuple[str, dict[str, Any]]] = [("*", everywhere)]
    heads, only_cross = c.per_block("attention_head_dim"), c.per_block("only_cross_attention")
    for i in range(c.blocks):
        bound = {"heads": heads[i], "only_cross_attention": only_cross[i]}
        rules += [(f"down_blocks.{i}.*", bound), (f"up_blocks.{c.blocks - 1 - i}.*", bound)]
    rules.append(("mid_block.*", {"heads": heads[-1]}))  # the original's middle never is cross-attention only
    # The transformer's norms have epsilons of their own in the original, whatever norm_eps says.
    rules += [("*.attentions.*.norm", {"eps": 1e-6}), ("*.transformer_blocks.*.norm[123]", {"eps": 1e-5})]
    return rules


def parameters(c: UNetConfig) -> Parameters:
    """Name and shape of every weight."""
    widths = c.block_out_channels
    yield from affine("conv_in", widths[0], c.in_channels, c.conv_in_kernel, c.conv_in_kernel)
    yield from embedding_parameters(c)
    yield from down_parameters(c)
    if c.mid_block_type is not None:
        yield from mid_parameters(c)
    yield from up_parameters(c)
    yield from affine("conv_norm_out", widths[0])
    yield from affine("conv_out", c.out_channels, widths[0], c.conv_out_kernel, c.conv_out_kernel)


def two_layer_parameters(name: str, c_in: int, c_out: int) -> Parameters:
    """The weights of `time_embedding.two_layers`."""
    yield from affine(f"{name}.linear_1", c_out, c_in)
    yield from affine(f"{name}.linear_2", c_out, c_out)


def embedding_parameters(c: UNetConfig) -> Parameters:
    """The weights of the time embedding and of what is added to it."""
    yield from two_layer_parameters("time_embedding", c.block_out_channels[0], c.temb_dim)
    if c.time_cond_proj_dim is not None:
        yield from affine("time_embedding.cond_proj", c.block_out_channels[0], c.time_cond_proj_dim, bias=False)
    if c.encoder_hid_dim is not None:
        yield from affine("encoder_hid_proj", c.per_block("cross_attention_dim")[0], c.encoder_hid_dim)
    projected = c.projection_class_embeddings_input_dim or 0
    if c.class_labels_are_ids:
        yield "class_embedding.weight", (c.num_class_embeds or 0, c.temb_dim)
    elif c.class_embed_type == "timestep":
        yield from two_layer_parameters("class_embedding", c.block_out_channels[0], c.temb_dim)
    elif c.class_embed_type == "projection":
        yield from two_layer_parameters("class_embedding", projected, c.temb_dim)
    elif c.class_embed_type == "simple_projection":
        yield from affine("class_embedding", c.temb_dim, projected)
    if c.addition_embed_type == "text_time":
        yield from two_layer_parameters("add_embedding", projected, c.temb_dim)


def resnet(c: UNetConfig, name: str, c_in: int, c_out: int) -> Parameters:
    """The weights of a residual block with the model's time embedding."""
    temb = c.temb_dim * (2 if c.class_embeddings_concat else 1)
    return resnet_parameters(name, c_in, c_out, temb, c.scale_shift)


def down_parameters(c: UNetConfig) -> Parameters:
    """The weights of the way down."""
    c_in = c.block_out_channels[0]
    layers, contexts = c.per_block("layers_per_block"), c.per_block("cross_attention_dim")
    only_cross = c.per_block("only_cross_attention")
    for i, c_out in enumerate(c.block_out_channels):
        block = f"down_blocks.{i}"
        for j in range(layers[i]):
            yield from resnet(c, f"{block}.resnets.{j}", c_out if j else c_in, c_out)
            if c.down_block_types[i] == "CrossAttnDownBlock2D":
                depth = c.transformer_layers(i, j)
                name = f"{block}.attentions.{j}"
                yield from transformer_parameters(
                    name, c_out, contexts[i], depth, c.use_linear_projection, only_cross[i]
                )
        if i < c.blocks - 1:
            yield from affine(f"{block}.downsamplers.0.conv", c_out, c_out, 3, 3)
        c_in = c_out


def mid_parameters(c: UNetConfig) -> Parameters:
    """The weights of the middle."""
    width, depth = c.block_out_channels[-1], c.transformer_layers(c.blocks - 1, 0)
    context = c.per_block("cross_attention_dim")[-1]
    yield from resnet(c, "mid_block.resnets.0", width, width)
    yield from transformer_parameters("mid_block.attentions.0", width, context, depth, c.use_linear_projection)
    yield from resnet(c, "mid_block.resnets.1", width, width)


def up_parameters(c: UNetConfig) -> Parameters:
    """The weights of the way up: every residual block takes x and the skip that it is joined with."""
    widths = c.block_out_channels[::-1]
    layers, contexts = c.per_block("layers_per_block")[::-1], c.per_block("cross_attention_dim")[::-1]
    only_cross = c.per_block("only_cross_attention")[::-1]
    x = widths[0]
    for i, c_out in enumerate(widths):
        block = f"up_blocks.{i}"
        for j in range(layers[i] + 1):
            last = j == layers[i]
            skip = widths[min(i + 1, c.blocks - 1)] if last else c_out  # the level's own input is its last skip
            yield from resnet(c, f"{block}.resnets.{j}", x + skip, c_out)
            if c.up_block_types[i] == "CrossAttnUpBlock2D":
                depth = c.transformer_layers_up(i, j)
                name = f"{block}.attentions.{j}"
                yield from transformer_parameters(
                    name, c_out, contexts[i], depth, c.use_linear_projection, only_cross[i]
                )
            x = c_out
        if i < c.blocks - 1:
            yield from affine(f"{block}.upsamplers.0.conv", c_out, c_out, 3, 3)
