"""The operators of `tinyldm.ops` again, in float32 for the processor at hand: same names, arguments and results.

    from tinyldm import kernels
    y = kernels.conv2d(x, weight, bias, padding=1)               # packs the weight on every call
    w = kernels.prepare_conv2d(weight)                           # packs it once …
    y = kernels.conv2d(x, w, bias, padding=1)                    # … for many calls

**Operators**: `linear`, `conv2d`, `layer_norm`, `group_norm`, `silu`, `gelu`, `quick_gelu`, `geglu`, `softmax`,
`attention`, `moments`, `upsample_nearest`, `avg_pool2d`, `embedding`, `timestep_embedding`. **Composites**, each one
pass: `linears`, `linear_activation`, `linear_geglu`, `linear_residual`, `norm_silu`, `norm_silu_conv2d`,
`affine_silu_conv2d`, `conv2d_residual`, `upsample_conv2d`. And `brownian_halves`, for a sampler's noise, whose
reference is in `tinyldm.diffusion`.

**Weights.** Where an operator takes the matrix of a linear layer or the filters of a convolution, it takes the array
in its published layout (float16, float32, float64, or `BFLOAT16` of `ops.bfloat16`) or what was prepared from it:

    prepare_linear(weight, precision="fast")                for linear, linear_activation, linear_residual
    prepare_linear(weight, gated=True, …)                   for linear_geglu
    prepare_linears(weights, precision="fast")              for linears
    prepare_conv2d(weight, stride=1, precision="fast")      for conv2d, conv2d_residual, norm_silu_conv2d,
                                                            affine_silu_conv2d
    prepare_upsample_conv2d(weight, precision="fast")       for upsample_conv2d

A prepared weight holds its own copy (`.nbytes`, `.shape` as published); the array it came from may be dropped.
Biases, gains and shifts are plain arrays of any float dtype, read-only ones too. Activations must be float32
(`InputError` otherwise).

**Precision** is a property of prepared weights: "strict" always takes the direct algorithm, whose sums run in one
fixed order; "fast" takes what `choose_conv2d(shape, stride, precision)` finds fastest, and so do filters given as a
plain array; "bf16" rounds weights and the inputs of their products to bfloat16 (`rounding.py`), and `attention(…,
precision="bf16")` those of its own. Everything else is the same in all. `unit()` says what multiplies bfloat16 values.

**Threads**: `set_threads(n)`, `using_threads(n)` (a context), `threads()`; the environment variable TINYLDM_THREADS;
by default all processors of the process. The bytes that come out are the same for any number of threads, and from run
to run.

**Memory** of results is kept for the next ones (`buffers.py`); within `frugal()` (a context) little of it.

**Processor**: `target()` says which vectors are used (`.name`, `.width`); TINYLDM_SIMD overrides it (`avx512bf16` and
`amx` are `avx512` with a unit for bfloat16, and `avx512` is that without one).

**Compilation**: a kernel compiles when first called, and is then kept on disk (`compile.py`; TINYLDM_CACHE names
another folder).
"""

from tinyldm.kernels.activation import geglu, gelu, quick_gelu, silu, softmax
from tinyldm.kernels.attention import attention
from tinyldm.kernels.brownian import brownian_halves
from tinyldm.kernels.buffers import frugal
from tinyldm.kernels.conv import (
    PreparedConv,
    affine_silu_conv2d,
    choose_conv2d,
    conv2d,
    conv2d_residual,
    norm_silu,
    norm_silu_conv2d,
    prepare_conv2d,
    prepare_upsample_conv2d,
    upsample_conv2d,
)
from tinyldm.kernels.embedding import embedding, timestep_embedding
from tinyldm.kernels.linear import (
    PackedWeights,
    linear,
    linear_activation,
    linear_geglu,
    linear_residual,
    linears,
    prepare_linear,
    prepare_linears,
)
from tinyldm.kernels.norm import group_norm, layer_norm, moments
from tinyldm.kernels.packing import PackedWeight
from tinyldm.kernels.pool import set_threads, threads, using_threads
from tinyldm.kernels.resample import avg_pool2d, upsample_nearest
from tinyldm.kernels.simd import target, unit, unit_in_words

__all__ = [
    "PackedWeight",
    "PackedWeights",
    "PreparedConv",
    "affine_silu_conv2d",
    "attention",
    "avg_pool2d",
    "brownian_halves",
    "choose_conv2d",
    "conv2d",
    "conv2d_residual",
    "embedding",
    "frugal",
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
    "prepare_conv2d",
    "prepare_linear",
    "prepare_linears",
    "prepare_upsample_conv2d",
    "quick_gelu",
    "set_threads",
    "silu",
    "softmax",
    "target",
    "threads",
    "timestep_embedding",
    "unit",
    "unit_in_words",
    "upsample_conv2d",
    "upsample_nearest",
    "using_threads",
]
