"""The first stages of the original layout, KL and VQ, and their canonical names.

The original numbers the levels of its decoder from the largest size, as those of the encoder; the canonical layout in
the order in which they run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from tinyldm.checkpoints.names.links import Link, Side, consecutive, module_links

RESNET = {"norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2", "nin_shortcut": "conv_shortcut"}
ATTENTION = {"q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}  # 1×1 convolutions in the original
TOP = {name: name for name in ("quant_conv", "post_quant_conv", "quantize.embedding")}
ENDS = {"conv_in": "conv_in", "norm_out": "conv_norm_out", "conv_out": "conv_out"}


def autoencoder_links(names: Collection[str], side: Side) -> list[Link]:
    """All links of a first stage, given the names of one side."""
    names = frozenset(names)
    links = list(module_links("", "", TOP, names, side))
    for half in ("encoder", "decoder"):
        links += half_links(half, names, side)
    return links


def half_links(half: str, names: Collection[str], side: Side) -> Iterator[Link]:
    """The links of the encoder or the decoder."""
    yield from module_links(half, half, ENDS, names, side)
    way, change = ("down", "downsample") if half == "encoder" else ("up", "upsample")
    count = resnet_count(f"{half}.{way}.{{}}.block.0", f"{half}.{way}_blocks.{{}}.resnets.0", names, side)
    for i in range(count):
        original = f"{half}.{way}.{i if half == 'encoder' else count - 1 - i}"
        canonical = f"{half}.{way}_blocks.{i}"
        for j in range(resnet_count(original + ".block.{}", canonical + ".resnets.{}", names, side)):
            yield from module_links(f"{original}.block.{j}", f"{canonical}.resnets.{j}", RESNET, names, side)
            yield from attention_links(f"{original}.attn.{j}", f"{canonical}.attentions.{j}", names, side)
        yield from module_links(f"{original}.{change}", f"{canonical}.{change}rs.0", {"conv": "conv"}, names, side)
    for j in (0, 1):
        yield from module_links(f"{half}.mid.block_{j + 1}", f"{half}.mid_block.resnets.{j}", RESNET, names, side)
    yield from attention_links(f"{half}.mid.attn_1", f"{half}.mid_block.attentions.0", names, side)


def attention_links(original: str, canonical: str, names: Collection[str], side: Side) -> Iterator[Link]:
    """An attention over pixels: 1×1 convolutions in the original, matrices in the canonical layout."""
    yield from module_links(original, canonical, {"norm": "group_norm"}, names, side)
    for link in module_links(original, canonical, ATTENTION, names, side):
        yield Link(link.original, link.canonical, unit_axes=2)


def resnet_count(original: str, canonical: str, names: Collection[str], side: Side) -> int:
    """How many residual blocks of a numbered path there are, `encoder.down.0.block.{}` on the side of the original."""
    return consecutive(names, (original if side == "original" else canonical) + ".norm1.weight")
