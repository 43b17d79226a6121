"""The blocks that models are made of: residual block, down- and upsampling, attention over pixels, transformer.

Each is a function of its input and its node of the weight tree, in channels-last. `@module` lets a trace record its
output under the node's path. The spatial transformer is where the context enters the UNet, by cross-attention (Rombach
et al. 2022, arXiv:2112.10752, section 3.3, equation 3, and appendix E.2.1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tinyldm.nn import (
    attention,
    conv2d,
    group_norm,
    layer_norm,
    linear,
    linear_geglu,
    linear_residual,
    linears,
    norm_silu_conv2d,
    silu,
    upsample_conv2d,
)
from tinyldm.tracing import module
from tinyldm.tree import Weights
from tinyldm.typing import Array

Parameters = Iterator[tuple[str, tuple[int, ...]]]  # (name, shape) of every weight, in the order of the data


@module
def resnet_block(x: Array, temb: Array | None, w: Weights) -> Array:
    """Residual block: `(N, H, W, C_in), (N, T) -> (N, H, W, C_out)`; the autoencoder's has no time embedding.

    Source: He et al. 2015, arXiv:1512.03385; the time embedding enters as in Ho et al. 2020, arXiv:2006.11239, appendix
    B, or as a scale and shift of the second norm as in Dhariwal and Nichol 2021, arXiv:2105.05233, section 3.
    """
    shift = linear(silu(temb, w.time_emb_proj), w.time_emb_proj) if temb is not None else None
    shortcut = conv2d(x, w.conv_shortcut) if "conv_shortcut" in w else x
    if shift is not None and w.settings["scale_shift"]:
        return scaled_and_shifted(norm_silu_conv2d(x, w.norm1, w.conv1), shift, w) + shortcut
    h = norm_silu_conv2d(x, w.norm1, w.conv1, shift=shift)
    return norm_silu_conv2d(h, w.norm2, w.conv2, residual=shortcut)


def scaled_and_shifted(h: Array, scale_shift: Array, w: Weights) -> Array:  # (N,H,W,C), (N,2·C) -> (N,H,W,C)
    """The second half of a residual block whose time embedding scales and shifts the norm."""
    scale, shift = np.split(scale_shift[:, None, None, :], 2, axis=-1)
    h = group_norm(h, w.norm2) * (1 + scale) + shift
    return conv2d(silu(h, w.conv2), w.conv2)


@module
def resizing_block(x: Array, temb: Array, resize: Callable[[Array], Array], w: Weights) -> Array:
    """A residual block that changes the size, of its input and of the way around it, behind the first norm.

    `(N, H, W, C), (N, T) ->` half or twice the size. Source: Song et al. 2020, arXiv:2011.13456, appendix H; Dhariwal
    and Nichol 2021, arXiv:2105.05233, section 3.
    """
    h = conv2d(resize(silu(group_norm(x, w.norm1), w.conv1)), w.conv1)
    shift = linear(silu(temb, w.time_emb_proj), w.time_emb_proj)
    if w.settings["scale_shift"]:
        return scaled_and_shifted(h, shift, w) + resize(x)
    return norm_silu_conv2d(h + shift[:, None, None, :], w.norm2, w.conv2, residual=resize(x))


@module
def downsample(x: Array, w: Weights) -> Array:
    """Halve height and width by a 3×3 convolution of stride 2: `(N, H, W, C) -> (N, ⌈H/2⌉, ⌈W/2⌉, C)`.

    The setting `padding` is 1 in the UNet; in the autoencoder's encoder it is 0, and the image is padded by one pixel
    below and to the right (so an even size is halved, an odd one rounded down).
    """
    return conv2d(x, w.conv, stride=2, padding=w.settings["padding"] or (0, 1, 0, 1))


@module
def upsample(x: Array, size: tuple[int, int] | None, w: Weights) -> Array:
    """Repeat pixels to twice the size, or to `size`, then convolve by 3×3: `(N, H, W, C) -> (N, 2H, 2W, C)`."""
    return upsample_conv2d(x, w.conv, size)


@module
def pixel_attention(x: Array, w: Weights) -> Array:
    """Self-attention over the pixels of an image, with a residual: `(N, H, W, C) -> (N, H, W, C)`.

    Source: Ho et al. 2020, arXiv:2006.11239, appendix B (after Wang et al. 2017, arXiv:1711.07971).
    """
    n, height, width, channels = x.shape
    tokens = x.reshape(n, height * width, channels)
    h = group_norm(tokens, w.group_norm)
    q, k, v = linears(h, w, "to_q", "to_k", "to_v")
    return linear_residual(attention(q, k, v, w), w.to_out[0], tokens).reshape(x.shape)


# The spatial transformer ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PreparedContext:
    """A context for many steps, `(N, L, D)`: what a cross-attention makes of it is the same in each, and made once.

    `keys_values` has keys and values, `(N, L, C)`, by the path of the attention, from its first call on.
    """

    text: Array
    keys_values: dict[str, tuple[Array, Array]] = field(default_factory=dict)


TextContext = Array | PreparedContext


@dataclass(frozen=True)
class PicturedContext:
    """A context beside pictures (`ip_adapter`): keys and values of each picture, by the path of the attention."""

    text: TextContext
    images: Mapping[str, Sequence[tuple[Array, Array]]]


Context = TextContext | PicturedContext


def transformer(x: Array, context: Context | None, w: Weights) -> Array:  # (N,H,W,C), (N,L,D) -> (N,H,W,C)
    """A transformer over the pixels, or where the node is plain attention over them, without a context, that."""
    if context is None or "proj_in" not in w:
        return pixel_attention(x, w)
    return spatial_transformer(x, context, w)


@module
def spatial_transformer(x: Array, context: Context, w: Weights) -> Array:  # (N,H,W,C), (N,L,D) -> (N,H,W,C)
    """Pixels become tokens, pass through transformer blocks, and are added to what they were.

    Older checkpoints project in and out by 1×1 convolutions and newer ones by linear layers; in channels-last these are
    the same product.
    """
    n, height, width, _ = x.shape
    h = linear(group_norm(x, w.norm), w.proj_in).reshape(n, height * width, -1)
    for block in w.transformer_blocks:
        h = transformer_block(h, context, block)
    return linear_residual(h.reshape(n, height, width, -1), w.proj_out, x)


@module
def transformer_block(x: Array, context: Context, w: Weights) -> Array:  # (N,P,C), (N,L,D) -> (N,P,C)
    """Self-attention of the pixels, cross-attention to the context, a gated perceptron; each around a residual.

    With the setting `only_cross_attention`, the first attention looks at the context too.
    """
    h = layer_norm(x, w.norm1)
    x = attend(h, context if w.settings["only_cross_attention"] else None, x, w.attn1)
    x = attend(layer_norm(x, w.norm2), context, x, w.attn2)
    return linear_residual(linear_geglu(layer_norm(x, w.norm3), w.ff.net[0]), w.ff.net[2], x)


def attend(x: Array, context: Context | None, residual: Array, w: Weights) -> Array:
    """Attention of x `(N, P, C)` to a context `(N, L, D)`, or to itself, plus the residual: `-> (N, P, C)`.

    Pictures are attended to on their own, by the same question, and what is found there is added.
    """
    images: Sequence[tuple[Array, Array]] = ()
    if isinstance(context, PicturedContext):
        images = context.images.get(w.path, ())
        context = context.text
    if context is None:
        q, k, v = linears(x, w, "to_q", "to_k", "to_v")
    elif isinstance(context, PreparedContext):
        kept, text = context.keys_values, context.text
        if w.path not in kept:
            kept[w.path] = linear(text, w.to_k), linear(text, w.to_v)
        q, (k, v) = linear(x, w.to_q), kept[w.path]
    else:
        q, k, v = linear(x, w.to_q), linear(context, w.to_k), linear(context, w.to_v)
    h = attention(q, k, v, w)
    for key, value in images:
        h = h + attention(q, key, value, w)
    return linear_residual(h, w.to_out[0], residual)


# The weights of these blocks: name and shape of each --------------------------------------------------------------


def layer_parameters(name: str, *shape: int, bias: bool = True) -> Parameters:
    """A weight of `shape` and its bias: a linear layer `(out, in)`, a convolution `(out, in, k, k)`, a norm `(C,)`."""
    yield f"{name}.weight", shape
    if bias:
        yield f"{name}.bias", shape[:1]


def resnet_parameters(
    name: str, c_in: int, c_out: int, temb: int | None = None, scale_shift: bool = False
) -> Parameters:
    """The weights of `resnet_block`; `temb` is the width of the time embedding, None where there is none."""
    yield from layer_parameters(f"{name}.norm1", c_in)
    yield from layer_parameters(f"{name}.conv1", c_out, c_in, 3, 3)
    if temb is not None:
        yield from layer_parameters(f"{name}.time_emb_proj", (2 if scale_shift else 1) * c_out, temb)
    yield from layer_parameters(f"{name}.norm2", c_out)
    yield from layer_parameters(f"{name}.conv2", c_out, c_out, 3, 3)
    if c_in != c_out:
        yield from layer_parameters(f"{name}.conv_shortcut", c_out, c_in, 1, 1)


def pixel_attention_parameters(name: str, channels: int) -> Parameters:
    """The weights of `pixel_attention`."""
    yield from layer_parameters(f"{name}.group_norm", channels)
    for layer in ("to_q", "to_k", "to_v", "to_out.0"):
        yield from layer_parameters(f"{name}.{layer}", channels, channels)


def transformer_parameters(
    name: str, channels: int, context: int, layers: int, linear_projection: bool, only_cross_attention: bool = False
) -> Parameters:
    """The weights of `transformer` for a context of the width `context`."""
    kernel = () if linear_projection else (1, 1)
    yield from layer_parameters(f"{name}.norm", channels)
    yield from layer_parameters(f"{name}.proj_in", channels, channels, *kernel)
    for i in range(layers):
        block = f"{name}.transformer_blocks.{i}"
        yield from transformer_block_parameters(block, channels, context, context if only_cross_attention else channels)
    yield from layer_parameters(f"{name}.proj_out", channels, channels, *kernel)


def transformer_block_parameters(name: str, channels: int, context: int, first_context: int) -> Parameters:
    """The weights of `transformer_block`; `first_context` is the width of what the first attention looks at."""
    for i, (layer, width) in enumerate((("attn1", first_context), ("attn2", context)), start=1):
        yield from layer_parameters(f"{name}.norm{i}", channels)
        yield from layer_parameters(f"{name}.{layer}.to_q", channels, channels, bias=False)
        yield from layer_parameters(f"{name}.{layer}.to_k", channels, width, bias=False)
        yield from layer_parameters(f"{name}.{layer}.to_v", channels, width, bias=False)
        yield from layer_parameters(f"{name}.{layer}.to_out.0", channels, channels)
    yield from layer_parameters(f"{name}.norm3", channels)
    yield from layer_parameters(f"{name}.ff.net.0.proj", 8 * channels, channels)
    yield from layer_parameters(f"{name}.ff.net.2", channels, 4 * channels)
