"""Linear layers and what follows them, on the matrix product of `matmul.py`.

Bias, activation, gate and residual are applied to a block of sums while it lies in cache: each composite is one pass
over its input and one over its output.

Error: that of the matrix product, carried through the activation (whose slope is at most 1.13) and its own few units.
"""

from __future__ import annotations

import numpy as np

from tinyldm.errors import InputError
from tinyldm.kernels.arrays import activations, parameters
from tinyldm.kernels.matmul import PackedWeight, matmul, pack_weight, pad_bias
from tinyldm.kernels.rows import ACTIVATIONS, GEGLU, NONE

LinearWeight = np.ndarray | PackedWeight


def prepare_linear(weight: np.ndarray, gated: bool = False) -> PackedWeight:
    """Pack a `(C_out, C_in)` weight of any float dtype for `linear` and its composites, once.

    A 1×1 convolution's `(C_out, C_in, 1, 1)` weight is taken as the matrix that it is. `gated=True` is for
    `linear_geglu`, and for that only.
    """
    return pack_weight(weight.reshape(weight.shape[:2]), gated)


def _linear(
    operator: str,
    x: np.ndarray,
    weight: LinearWeight,
    bias: np.ndarray | None,
    ending: int = NONE,
    residual: np.ndarray | None = None,
) -> np.ndarray:
    gated = ending == GEGLU
    packed = weight if isinstance(weight, PackedWeight) else prepare_linear(weight, gated)
    c_out, c_in = packed.shape[:2]
    if x.shape[-1] != c_in:
        raise InputError(
            f"{operator}: x has {x.shape[-1]} channels, the weight of shape {packed.shape[:2]} takes {c_in}"
        )
    if packed.gated != gated:
        raise InputError(
            f"{operator}: the weight was prepared with gated={packed.gated}, which is for linear_geglu only"
        )
    tokens = activations(x, operator).reshape(1, 1, -1, c_in)
    if residual is not None:
        residual = activations(residual, operator)
        if residual.shape != (*x.shape[:-1], c_out):
            raise InputError(f"{operator}: the residual has shape {residual.shape}, not {(*x.shape[:-1], c_out)}")
    padded = pad_bias(None if bias is None else parameters(bias), c_out, gated)
    y = matmul(tokens, packed, padded, tokens.shape[1:3], ending=ending, residual=residual)
    return y.reshape(*x.shape[:-1], y.shape[-1])


def linear(x: np.ndarray, weight: LinearWeight, bias: np.ndarray | None = None) -> np.ndarray:
    """`x W^T + b`: `(…, C_in) -> (…, C_out)`."""
    return _linear("linear", x, weight, bias)


def linear_activation(x: np.ndarray, weight: LinearWeight, bias: np.ndarray | None, activation: str) -> np.ndarray:
    """`activation(linear(x))`, with one of `silu`, `gelu`, `quick_gelu`."""
    if activation not in ACTIVATIONS:
        raise InputError(f"linear_activation: unknown activation {activation!r}; known are {', '.join(ACTIVATIONS)}")
    return _linear("linear_activation", x, weight, bias, ACTIVATIONS[activation])


def linear_geglu(x: np.ndarray, weight: LinearWeight, bias: np.ndarray | None = None) -> np.ndarray:
    """`geglu(linear(x))`: the weight is `(2·C_out, C_in)`, values first and gates second."""
    return _linear("linear_geglu", x, weight, bias, GEGLU)


def linear_residual(x: np.ndarray, weight: LinearWeight, bias: np.ndarray | None, residual: np.ndarray) -> np.ndarray:
    """`linear(x) + residual`."""
    return _linear("linear_residual", x, weight, bias, residual=residual)
