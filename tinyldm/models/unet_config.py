"""The UNets' configurations: which fields there are, what they may say, and which weights follow from them.

`UNetConfig` is that of the UNet with a context, `unet2d.UNet2DConfig` that of the one without; what both have is in
`BlocksConfig`, and the walk over the blocks that names the weights is one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from tinyldm.errors import ConfigError, quoted
from tinyldm.models.blocks import Parameters, layer_parameters, resnet_parameters, transformer_parameters
from tinyldm.models.network import Supported, require
from tinyldm.tree import Settings

# Training only, or how the original arranges half precision; none changes what is computed here.
INERT = ["dropout", "upcast_attention", "addition_embed_type_num_heads", "mid_block_only_cross_attention"]

# Fields of which the original knows more values than are supported, with those that are: most of them one, that of all
# published checkpoints.
FIXED_BLOCKS: Supported = {
    "act_fn": ["silu", "swish"],
    "mid_block_scale_factor": [1, 1.0],
    "resnet_time_scale_shift": ["default", "scale_shift"],
    "time_embedding_type": ["positional"],
    "downsample_padding": [0, 1],
}
FIXED: Supported = {
    **FIXED_BLOCKS,
    "num_attention_heads": [None],
    "dual_cross_attention": [False],
    "attention_type": ["default"],
    "cross_attention_norm": [None],
    "mid_block_type": ["UNetMidBlock2DCrossAttn", "UNetMidBlock2D", None],
    "resnet_skip_time_act": [False],
    "resnet_out_scale_factor": [1, 1.0],
    "time_embedding_act_fn": [None],
    "timestep_post_act": [None],
    "encoder_hid_dim_type": [None, "text_proj"],
    "class_embed_type": [None, "timestep", "identity", "projection", "simple_projection"],
    "addition_embed_type": [None, "text_time"],
}


@dataclass(frozen=True)
class BlocksConfig(ABC):
    """The fields that both kinds of UNet have, and what follows from them for their blocks."""

    sample_size: int | tuple[int, int] | None = None
    in_channels: int = 4
    out_channels: int = 4
    center_input_sample: bool = False
    flip_sin_to_cos: bool = True
    freq_shift: int = 0
    down_block_types: tuple[str, ...] = ()
    mid_block_type: str | None = None
    up_block_types: tuple[str, ...] = ()
    block_out_channels: tuple[int, ...] = ()
    layers_per_block: int | tuple[int, ...] = 2
    downsample_padding: int = 1
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    class_embed_type: str | None = None
    num_class_embeds: int | None = None
    resnet_time_scale_shift: str = "default"
    time_embedding_dim: int | None = None

    supported: ClassVar[Supported]
    down_types: ClassVar[list[str]]
    up_types: ClassVar[list[str]]

    def __post_init__(self) -> None:
        for name, types in (("down_block_types", self.down_types), ("up_block_types", self.up_types)):
            for value in getattr(self, name):
                require("UNet", name, value, types)
            require("UNet", f"the number of {name}", len(getattr(self, name)), [self.blocks])
        require("UNet", "norm_num_groups", type(self.norm_num_groups), [int])
        for channels in self.block_out_channels:
            require("UNet", f"{channels} block_out_channels % norm_num_groups", channels % self.norm_num_groups, [0])

    @property
    def blocks(self) -> int:
        """The number of levels."""
        return len(self.block_out_channels)

    def per_block(self, name: str) -> tuple[Any, ...]:
        """The field `name`, which is one value or a list of them, as one value for each level on the way down."""
        value = getattr(self, name)
        if not isinstance(value, tuple):
            return (value,) * self.blocks
        if len(value) != self.blocks:
            found = f"{list(value)} has {len(value)} entries for {self.blocks} blocks"
            raise ConfigError(f"UNet config: {name} = {found}")
        return value

    @property
    def temb_dim(self) -> int:
        """The width of the time embedding."""
        return self.time_embedding_dim or 4 * self.block_out_channels[0]

    @property
    def scale_shift(self) -> bool:
        """Whether the time embedding scales and shifts the second norm, rather than being added before it."""
        return self.resnet_time_scale_shift == "scale_shift"

    @property
    def has_class_embedding(self) -> bool:
        """Whether the model takes class labels."""
        return self.class_embed_type is not None or self.num_class_embeds is not None

    @property
    def class_labels_are_ids(self) -> bool:
        """Whether class labels are rows of a table, rather than numbers to compute with."""
        return self.class_embed_type is None and self.num_class_embeds is not None

    @property
    def class_embeddings_concat(self) -> bool:
        """Whether the class embedding is appended to the time embedding, rather than added."""
        return False

    @property
    def conditions(self) -> tuple[str, ...]:
        """What the model takes besides z, t and the context, by name: `unet.Conditions`."""
        return ("class_labels",) if self.has_class_embedding else ()

    @abstractmethod
    def heads(self, level: int) -> int:
        """The number of heads of the attentions of a level on the way down."""

    @abstractmethod
    def attention_parameters(self, way: str, block: int, index: int) -> Parameters:
        """The weights of the attention behind a residual block of the way `down`, `mid` or `up`, if it has one."""

    def resize_parameters(self, name: str, block_type: str, width: int) -> Parameters:
        """The weights of what halves or doubles the size behind a block."""
        return layer_parameters(f"{name}.conv", width, width, 3, 3)


@dataclass(frozen=True)
class UNetConfig(BlocksConfig):
    """The fields of a published UNet2DConditionModel's `config.json`; defaults are those of the original class.

    `attention_head_dim` is, in spite of its name, the number of heads: so are the published files to be read.
    """

    down_block_types: tuple[str, ...] = (*["CrossAttnDownBlock2D"] * 3, "DownBlock2D")
    mid_block_type: str | None = "UNetMidBlock2DCrossAttn"
    up_block_types: tuple[str, ...] = ("UpBlock2D", *["CrossAttnUpBlock2D"] * 3)
    only_cross_attention: bool | tuple[bool, ...] = False
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    cross_attention_dim: int | tuple[int, ...] = 1280
    transformer_layers_per_block: int | tuple[int | tuple[int, ...], ...] = 1
    reverse_transformer_layers_per_block: tuple[int | tuple[int, ...], ...] | None = None
    encoder_hid_dim: int | None = None
    attention_head_dim: int | tuple[int, ...] = 8
    use_linear_projection: bool = False
    addition_embed_type: str | None = None
    addition_time_embed_dim: int | None = None
    time_cond_proj_dim: int | None = None
    conv_in_kernel: int = 3
    conv_out_kernel: int = 3
    projection_class_embeddings_input_dim: int | None = None
    class_embeddings_concat: bool = False

    supported = FIXED
    down_types: ClassVar[list[str]] = ["CrossAttnDownBlock2D", "DownBlock2D"]
    up_types: ClassVar[list[str]] = ["CrossAttnUpBlock2D", "UpBlock2D"]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.class_embed_type in ("projection", "simple_projection") or self.addition_embed_type:
            width = self.projection_class_embeddings_input_dim
            require("UNet", "projection_class_embeddings_input_dim is set", width is not None, [True])
        if self.class_embeddings_concat:  # the original fails with other kinds at its first step: the widths differ
            require("UNet", "class_embeddings_concat with classes", self.has_class_embedding, [True])
            require("UNet", "class_embeddings_concat with addition_embed_type", self.addition_embed_type, [None])

    @property
    def context_dim(self) -> int:
        """The width of the context that the model takes."""
        return self.encoder_hid_dim or self.per_block("cross_attention_dim")[0]

    @property
    def conditions(self) -> tuple[str, ...]:
        """What the model takes besides z, t and the context, by name: `unet.Conditions`."""
        guidance = () if self.time_cond_proj_dim is None else ("guidance",)
        return (*super().conditions, *guidance, *(("text_embeds", "time_ids") if self.addition_embed_type else ()))

    def heads(self, level: int) -> int:
        """The number of heads of the attentions of a level on the way down."""
        heads: int = self.per_block("attention_head_dim")[level]
        return heads

    def transformer_layers(self, way: str, block: int, index: int) -> int:
        """How many transformer blocks an attention of the way `down`, `mid` or `up` has."""
        name, reverse = "transformer_layers_per_block", self.reverse_transformer_layers_per_block
        of_blocks, level = self.per_block(name), self.blocks - 1 - block if way == "up" else block
        if way == "up" and reverse is not None:
            name, of_blocks, level = f"reverse_{name}", reverse, block
        layers: int | tuple[int, ...] = of_blocks[level] if level < len(of_blocks) else ()
        if isinstance(layers, int):
            return layers
        if index >= len(layers):
            where = f"attention {index + 1} of {block_name(way, block)}"
            raise ConfigError(f"UNet config: {name} = {quoted(of_blocks)} has no number for {where}")
        return layers[index]

    def attention_parameters(self, way: str, block: int, index: int) -> Parameters:
        """The weights of the transformer behind a residual block of the way `down`, `mid` or `up`, if it has one."""
        level = self.blocks - 1 - block if way == "up" else block
        types = {"down": self.down_block_types, "mid": ("CrossAttn",) * self.blocks, "up": self.up_block_types}
        if types[way][block].startswith("CrossAttn"):
            yield from transformer_parameters(
                f"{block_name(way, block)}.attentions.{index}",
                self.block_out_channels[level],
                self.per_block("cross_attention_dim")[level],
                self.transformer_layers(way, block, index),
                self.use_linear_projection,
                # the original's middle never is cross-attention only
                way != "mid" and self.per_block("only_cross_attention")[level],
            )


def settings(c: BlocksConfig) -> Settings:
    """What the config binds to the nodes: norms' groups and epsilon, attentions' heads, downsampling's padding."""
    everywhere = {
        "groups": c.norm_num_groups,
        "eps": c.norm_eps,
        "padding": c.downsample_padding,
        "scale_shift": c.scale_shift,
        "only_cross_attention": False,
    }
    rules: list[tuple[str, dict[str, Any]]] = [("*", everywhere)]
    last = c.blocks - 1
    for i in range(c.blocks):
        bound = {"heads": c.heads(i)}
        if isinstance(c, UNetConfig):
            bound["only_cross_attention"] = c.per_block("only_cross_attention")[i]
        rules += [(f"down_blocks.{i}.*", bound), (f"up_blocks.{last - i}.*", bound)]
    rules.append(("mid_block.*", {"heads": c.heads(last)}))
    # The transformer's norms have epsilons of their own in the original, whatever norm_eps says.
    rules += [("*.attentions.*.norm", {"eps": 1e-6}), ("*.transformer_blocks.*.norm[123]", {"eps": 1e-5})]
    return rules


def parameters(c: BlocksConfig) -> Parameters:
    """Name and shape of every weight."""
    first, last = (c.conv_in_kernel, c.conv_out_kernel) if isinstance(c, UNetConfig) else (3, 3)
    widths = c.block_out_channels
    yield from layer_parameters("conv_in", widths[0], c.in_channels, first, first)
    yield from embedding_parameters(c)
    yield from down_parameters(c)
    if c.mid_block_type is not None:
        yield from mid_parameters(c)
    yield from up_parameters(c)
    yield from layer_parameters("conv_norm_out", widths[0])
    yield from layer_parameters("conv_out", c.out_channels, widths[0], last, last)


def two_layer_parameters(name: str, c_in: int, c_out: int) -> Parameters:
    """The weights of `unet.two_layers`."""
    yield from layer_parameters(f"{name}.linear_1", c_out, c_in)
    yield from layer_parameters(f"{name}.linear_2", c_out, c_out)


def embedding_parameters(c: BlocksConfig) -> Parameters:
    """The weights of the time embedding and of what is added to it."""
    first = c.block_out_channels[0]
    yield from two_layer_parameters("time_embedding", first, c.temb_dim)
    if c.class_labels_are_ids:
        yield "class_embedding.weight", (c.num_class_embeds or 0, c.temb_dim)
    if not isinstance(c, UNetConfig):
        return
    if c.time_cond_proj_dim is not None:
        yield from layer_parameters("time_embedding.cond_proj", first, c.time_cond_proj_dim, bias=False)
    if c.encoder_hid_dim is not None:
        yield from layer_parameters("encoder_hid_proj", c.per_block("cross_attention_dim")[0], c.encoder_hid_dim)
    projected = c.projection_class_embeddings_input_dim or 0
    if c.class_embed_type == "timestep":
        yield from two_layer_parameters("class_embedding", first, c.temb_dim)
    elif c.class_embed_type == "projection":
        yield from two_layer_parameters("class_embedding", projected, c.temb_dim)
    elif c.class_embed_type == "simple_projection":
        yield from layer_parameters("class_embedding", c.temb_dim, projected)
    if c.addition_embed_type == "text_time":
        yield from two_layer_parameters("add_embedding", projected, c.temb_dim)


def block_name(way: str, block: int) -> str:
    """The path of a block of the way `down`, `mid` or `up`."""
    return "mid_block" if way == "mid" else f"{way}_blocks.{block}"


def resnet(c: BlocksConfig, name: str, c_in: int, c_out: int) -> Parameters:
    """The weights of a residual block with the model's time embedding."""
    temb = c.temb_dim * (2 if c.class_embeddings_concat else 1)
    return resnet_parameters(name, c_in, c_out, temb, c.scale_shift)


def down_parameters(c: BlocksConfig) -> Parameters:
    """The weights of the way down."""
    c_in, layers = c.block_out_channels[0], c.per_block("layers_per_block")
    for i, c_out in enumerate(c.block_out_channels):
        for j in range(layers[i]):
            yield from resnet(c, f"down_blocks.{i}.resnets.{j}", c_out if j else c_in, c_out)
            yield from c.attention_parameters("down", i, j)
        if i < c.blocks - 1:
            yield from c.resize_parameters(f"down_blocks.{i}.downsamplers.0", c.down_block_types[i], c_out)
        c_in = c_out


def mid_parameters(c: BlocksConfig) -> Parameters:
    """The weights of the middle; of a UNet with a context, `UNetMidBlock2D` is one residual block and no attention."""
    width = c.block_out_channels[-1]
    yield from resnet(c, "mid_block.resnets.0", width, width)
    if isinstance(c, UNetConfig) and c.mid_block_type == "UNetMidBlock2D":
        return
    yield from c.attention_parameters("mid", c.blocks - 1, 0)
    yield from resnet(c, "mid_block.resnets.1", width, width)


def up_parameters(c: BlocksConfig) -> Parameters:
    """The weights of the way up: every residual block takes x and the skip that it is joined with."""
    widths, layers = c.block_out_channels[::-1], c.per_block("layers_per_block")[::-1]
    x = widths[0]
    for i, c_out in enumerate(widths):
        for j in range(layers[i] + 1):
            last = j == layers[i]
            skip = widths[min(i + 1, c.blocks - 1)] if last else c_out  # the level's own input is its last skip
            yield from resnet(c, f"up_blocks.{i}.resnets.{j}", x + skip, c_out)
            yield from c.attention_parameters("up", i, j)
            x = c_out
        if i < c.blocks - 1:
            yield from c.resize_parameters(f"up_blocks.{i}.upsamplers.0", c.up_block_types[i], c_out)
