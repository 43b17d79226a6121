"""The spatial transformer: where the context enters the UNet, by cross-attention.

Source: Rombach et al. 2022, arXiv:2112.10752, section 3.3, equation 3, and appendix E.2.1.
"""

from __future__ import annotations

from dataclasses import dataclass

from tinyldm.models.blocks import Parameters, layer_parameters, pixel_attention
from tinyldm.nn import attention, group_norm, layer_norm, linear, linear_geglu, linear_residual, linears
from tinyldm.tracing import module
from tinyldm.tree import Weights
from tinyldm.typing import Array


@dataclass(frozen=True)
class PreparedContext:
    """A context with what every cross-attention makes of it: it stays the same for all steps, so it is made once.

    `context` is `(N, L, D)`; `keys_values` has the keys and the values, `(N, L, C)`, under each attention's path.
    """

    context: Array
    keys_values: dict[str, tuple[Array, Array]]

    def __len__(self) -> int:
        return len(self.context)


Context = Array | PreparedContext


def prepare_context(context: Array, w: Weights) -> PreparedContext:
    """Make the keys and values of a context `(N, L, D)` for every cross-attention at the node `w` and below."""
    return PreparedContext(
        context,
        {
            node.path: (linear(context, node.to_k), linear(context, node.to_v))
            for node in w.modules()
            if node.path.endswith(".attn2") or (node.path.endswith(".attn1") and node.setting("only_cross_attention"))
        },
    )


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
    x = attend(h, context if w.setting("only_cross_attention") else None, x, w.attn1)
    x = attend(layer_norm(x, w.norm2), context, x, w.attn2)
    return feed_forward(layer_norm(x, w.norm3), x, w.ff)


def attend(x: Array, context: Context | None, residual: Array, w: Weights) -> Array:
    """Attention of x `(N, P, C)` to a context `(N, L, D)`, or to itself, plus the residual: `-> (N, P, C)`."""
    if context is None:
        q, k, v = linears(x, w, "to_q", "to_k", "to_v")
    elif isinstance(context, PreparedContext):
        q, (k, v) = linear(x, w.to_q), context.keys_values[w.path]
    else:
        q, k, v = linear(x, w.to_q), linear(context, w.to_k), linear(context, w.to_v)
    return linear_residual(attention(q, k, v, w), w.to_out[0], residual)


def feed_forward(x: Array, residual: Array, w: Weights) -> Array:
    """A linear layer to 8 times the channels, half of it gating the other half, and back: `(N, P, C) -> (N, P, C)`."""
    return linear_residual(gated(x, w.net[0]), w.net[2], residual)


@module
def gated(x: Array, w: Weights) -> Array:  # (N,P,C) -> (N,P,4·C)
    """A linear layer, one half of its channels gating the other."""
    return linear_geglu(x, w.proj)


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
