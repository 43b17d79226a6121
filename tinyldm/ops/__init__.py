"""The operators of latent diffusion, as plain functions on NumPy arrays.

Layout is channels-last: images `(N, H, W, C)`, sequences `(N, tokens, C)`. Weights keep their published layout:
`(C_out, C_in, k_h, k_w)` for a convolution, `(C_out, C_in)` for a linear layer. Every function keeps the dtype of its
input (float64 in, float64 out), changes none of its arguments, and takes batches and sequences of size zero.

One file an operator family; start with `vectors`, end with `attention` and `composite`.
"""

from tinyldm.ops.attention import attention, causal_mask
from tinyldm.ops.composite import (
    affine_silu_conv2d,
    conv2d_residual,
    linear_activation,
    linear_geglu,
    linear_residual,
    linears,
    norm_silu,
    norm_silu_conv2d,
    upsample_conv2d,
)
from tinyldm.ops.conv import avg_pool2d, conv2d, upsample_nearest
from tinyldm.ops.norm import gain_and_shift, group_norm, layer_norm, moments
from tinyldm.ops.vectors import embedding, geglu, gelu, linear, quick_gelu, silu, softmax, timestep_embedding

__all__ = [
    "affine_silu_conv2d",
    "attention",
    "avg_pool2d",
    "causal_mask",
    "conv2d",
    "conv2d_residual",
    "embedding",
    "gain_and_shift",
    "geglu",
    "gelu",
    "group_norm",
    "layer_norm",
    "linear",
    "linear_activation",
    "linear_geglu",
    "linear_residual",
    "linears",
    "moments",
    "norm_silu",
    "norm_silu_conv2d",
    "quick_gelu",
    "silu",
    "softmax",
    "timestep_embedding",
    "upsample_conv2d",
    "upsample_nearest",
]
