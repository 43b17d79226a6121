"""The UNet of the original layout, `input_blocks`, `middle_block`, `output_blocks`, and its canonical names.

The original counts its blocks through all levels; a level ends where a block carries the change of size. Both layouts
are walked by the number of residual blocks on each level of the way up, which either side's names tell.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from tinyldm.checkpoints.names.links import Below, Link, Side, consecutive, module_links, prefix_links

Heads = Callable[[int], int]  # the number of heads of an attention over so many channels
ShapeOf = Callable[[str], tuple[int, ...]]  # the shape of a tensor by its name

MAX_SKIPS = 40  # more than any published UNet has

RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
TOP = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "time_embed.cond_proj": "time_embedding.cond_proj",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
    "label_emb": "class_embedding",
}


@dataclass(frozen=True)
class Level:
    """One level of the way up: how many residual blocks, and whether attentions follow them."""

    resnets: int
    attended: bool


def unet_links(names: Collection[str], side: Side, heads: Heads, shape: ShapeOf) -> list[Link]:
    """All links of a UNet, given the names of one side; `heads` matters where one tensor holds q, k and v."""
    names = frozenset(names)
    links = list(module_links("", "", TOP, names, side))
    added = "class_embedding" if "class_embedding.linear_1.weight" in names else "add_embedding"
    links += module_links("label_emb.0", added, {"0": "linear_1", "2": "linear_2"}, names, side)
    up = original_levels(names) if side == "original" else canonical_levels(names)
    for original, canonical, below in block_modules(up):
        if below is None:
            links += attention_links(original, canonical, names, side, heads, shape)
        else:
            links += module_links(original, canonical, below, names, side)
    return links


def controlnet_links(names: Collection[str], side: Side, shape: ShapeOf) -> list[Link]:
    """All links of a ControlNet: the UNet's way down and middle, the hint's convolutions, the projections."""
    names = frozenset(names)
    links = unet_links(names, side, lambda width: 1, shape)
    links += module_links("middle_block_out", "controlnet_mid_block", {"0": ""}, names, side)
    hint = ["conv_in", *(f"blocks.{i}" for i in range(6)), "conv_out"]
    table = {str(2 * i): name for i, name in enumerate(hint)}  # an activation stands between any two
    links += module_links("input_hint_block", "controlnet_cond_embedding", table, names, side)
    for i in range(MAX_SKIPS):
        links += module_links(f"zero_convs.{i}", f"controlnet_down_blocks.{i}", {"0": ""}, names, side)
    return links


def original_levels(names: Collection[str]) -> list[Level]:
    """The levels of the way up, from the smallest size to the largest.

    A level's last block carries the doubling: a convolution, or a residual block of its own. A ControlNet has no way
    up. Its levels are those of the way down, where halving convolutions are blocks of their own, with the residual
    block more that a way up would have.
    """
    up = "output_blocks.0.0.in_layers.0.weight" in names
    way, i, more = ("output_blocks", 0, 0) if up else ("input_blocks", 1, 1)
    found, count, attended = [], more, False
    while any(f"{way}.{i}.0.{first}.weight" in names for first in ("in_layers.0", "op")):
        halves = f"{way}.{i}.0.op.weight" in names
        doubles = any(f"{way}.{i}.{j}.{leaf}.weight" in names for j in (1, 2) for leaf in ("conv", "in_layers.0"))
        count += not halves
        attended = attended or f"{way}.{i}.1.norm.weight" in names
        if halves or doubles:
            found.append(Level(count, attended))
            count, attended = more, False
        i += 1
    found.append(Level(count, attended))
    return found if up else found[::-1]


def canonical_levels(names: Collection[str]) -> list[Level]:
    """The same, counted from the modules' numbers, of the way up or, of a ControlNet, the way down."""
    way = "up" if "up_blocks.0.resnets.0.norm1.weight" in names else "down"
    found: list[Level] = []
    while f"{way}_blocks.{len(found)}.resnets.0.norm1.weight" in names:
        block = f"{way}_blocks.{len(found)}"
        count = consecutive(names, block + ".resnets.{}.norm1.weight")
        attended = any(f"{block}.attentions.0.{norm}.weight" in names for norm in ("norm", "group_norm"))
        found.append(Level(count + (way == "down"), attended))
    return found if way == "up" else found[::-1]


def block_modules(up: list[Level]) -> Iterator[tuple[str, str, Below | None]]:
    """The modules in the blocks: original, canonical, and what is below; None of an attention, of either kind."""
    down, block = up[::-1], 0
    for i, level in enumerate(down):
        for j in range(level.resnets - 1):
            block += 1
            yield f"input_blocks.{block}.0", f"down_blocks.{i}.resnets.{j}", RESNET
            if level.attended:
                yield f"input_blocks.{block}.1", f"down_blocks.{i}.attentions.{j}", None
        if i < len(down) - 1:
            block += 1
            yield f"input_blocks.{block}.0", f"down_blocks.{i}.downsamplers.0", RESNET | {"op": "conv"}
    yield "middle_block.0", "mid_block.resnets.0", RESNET
    yield "middle_block.1", "mid_block.attentions.0", None
    yield "middle_block.2", "mid_block.resnets.1", RESNET
    block = 0
    for i, level in enumerate(up):
        for j in range(level.resnets):
            yield f"output_blocks.{block}.0", f"up_blocks.{i}.resnets.{j}", RESNET
            if level.attended:
                yield f"output_blocks.{block}.1", f"up_blocks.{i}.attentions.{j}", None
            block += 1
        if i < len(up) - 1:
            place = 2 if level.attended else 1
            yield f"output_blocks.{block - 1}.{place}", f"up_blocks.{i}.upsamplers.0", RESNET | {"conv": "conv"}


def attention_links(
    original: str, canonical: str, names: Collection[str], side: Side, heads: Heads, shape: ShapeOf
) -> Iterator[Link]:
    """A transformer has the same names within; an attention over pixels keeps q, k, v in one tensor, head by head."""
    query = f"{original}.qkv" if side == "original" else f"{canonical}.to_q"
    if f"{query}.weight" not in names:
        yield from prefix_links(original, canonical, names, side)
        return
    channels = shape(f"{query}.weight")[-1 if side == "canonical" else 1]
    count = heads(channels)
    yield from module_links(original, canonical, {"norm": "group_norm"}, names, side)
    for kind, axes in (("weight", 1), ("bias", 0)):
        parts = tuple(f"{canonical}.{part}.{kind}" for part in ("to_q", "to_k", "to_v"))
        yield Link(f"{original}.qkv.{kind}", parts, heads=count, unit_axes=axes)
        yield Link(f"{original}.proj_out.{kind}", (f"{canonical}.to_out.0.{kind}",), unit_axes=axes)
