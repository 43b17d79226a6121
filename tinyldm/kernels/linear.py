"""Linear layers and what follows them, on the matrix product of `matmul.py`.

Bias, activation, gate and residual are applied to a block of sums while it lies in cache: each composite is one pass
over its input and one over its output.

Error: that of the matrix product, carried through the activation (whose slope is at most 1.13) and its own few units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tinyldm.errors import InputError
from tinyldm.kernels.arrays import added, as_rows, float32_only, parameters
from tinyldm.kernels.matmul import matmul, pad_bias
from tinyldm.kernels.packing import PackedWeight, pack_joined, pack_weight, packed_form
from tinyldm.kernels.rows import ACTIVATIONS, GEGLU, NONE

LinearWeight = np.ndarray | PackedWeight


@dataclass(frozen=True)
class PackedWeights:
    """The weights of several linear layers of one input, as one; `ends`: where each one's outputs end, but the last."""

    packed: PackedWeight
    ends: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.packed.nbytes

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weights one above the other."""
        return self.packed.shape


def prepare_linear(weight: np.ndarray, gated: bool = False, precision: str = "fast") -> PackedWeight:
    """Pack a `(C_out, C_in)` weight of any float dtype, or `BFLOAT16`, for `linear` and its composites, once.

    A 1×1 convolution's `(C_out, C_in, 1, 1)` weight is taken as the matrix that it is. `gated=True` is for
    `linear_geglu`, and for that only.
    """
    return pack_weight(_matrix(weight), gated, packed_form(precision))


def prepare_linears(weights: Sequence[np.ndarray], precision: str = "fast") -> PackedWeights:
    """Pack the `(C_out, C_in)` weights of linear layers that have the same input for `linears`, once."""
    matrices = [_matrix(weight) for weight in weights]
    ends = np.cumsum([len(matrix) for matrix in matrices[:-1]])
    return PackedWeights(pack_joined(matrices, packed_form(precision)), tuple(map(int, ends)))


def _matrix(weight: np.ndarray) -> np.ndarray:
    if weight.ndim < 2 or weight.shape[2:] not in ((), (1, 1)):
        raise InputError(f"a linear layer's weight is (C_out, C_in), or that of a 1×1 convolution, not {weight.shape}")
    return weight.reshape(weight.shape[:2])


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
    if x.ndim == 0 or x.shape[-1] != c_in:
        channels = x.shape[-1] if x.ndim else "no"
        raise InputError(f"{operator}: x has {channels} channels, the weight of shape {packed.shape[:2]} takes {c_in}")
    if packed.gated != gated:
        raise InputError(
            f"{operator}: the weight was prepared with gated={packed.gated}, which is for linear_geglu only"
        )
    tokens = as_rows(float32_only(x, operator))[None, None]
    if tokens.strides[-1] != tokens.itemsize:
        tokens = np.ascontiguousarray(tokens)
    residual = added(operator, residual, (*x.shape[:-1], c_out))
    padded = pad_bias(operator, bias, c_out, gated=gated)
    y = matmul(tokens, packed, padded, tokens.shape[1:3], ending=ending, residual=residual, spread=ending != NONE)
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


def linears(
    x: np.ndarray, weights: Sequence[np.ndarray] | PackedWeights, biases: Sequence[np.ndarray | None]
) -> list[np.ndarray]:
    """Several linear layers of the same `x`: an attention's queries, keys and values as one product.

    The results are slices of one array. Raises `InputError` where some of them have a bias and others none.
    """
    packed = weights if isinstance(weights, PackedWeights) else prepare_linears(weights)
    given = [parameters(bias) for bias in biases if bias is not None]
    if len(biases) != len(packed.ends) + 1 or len(given) not in (0, len(biases)):
        raise InputError(f"linears: {len(packed.ends) + 1} weights and {len(given)} biases: give each one, or none")
    y = _linear("linears", x, packed.packed, np.concatenate(given) if given else None)
    return [y[..., start:end] for start, end in zip((0, *packed.ends), (*packed.ends, y.shape[-1]), strict=True)]
