"""Convolutions: which algorithm for which layer, and the composites around them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinyldm.errors import InputError
from tinyldm.kernels.arrays import activations, parameters
from tinyldm.kernels.matmul import PackedWeight, matmul, pack_weight, pad_bias
from tinyldm.kernels.norm import affine, group_norm_affine
from tinyldm.kernels.resample import upsample_nearest

Padding = int | tuple[int, int, int, int]


@dataclass(frozen=True)
class PreparedConv:
    """A convolution's filters, laid out for the algorithm that was chosen for them."""

    algorithm: str
    packed: PackedWeight

    @property
    def shape(self) -> tuple[int, ...]:
        """The published shape, (C_out, C_in, k_h, k_w)."""
        return self.packed.shape

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.packed.nbytes


ConvWeight = np.ndarray | PreparedConv


def choose_conv2d(shape: tuple[int, ...], stride: int = 1, precision: str = "fast") -> str:
    """The algorithm for filters of a shape: "direct"."""
    return "direct"


def prepare_conv2d(
    weight: np.ndarray, stride: int = 1, precision: str = "fast", algorithm: str | None = None
) -> PreparedConv:
    """Lay out `(C_out, C_in, k_h, k_w)` filters of any float dtype, once.

    `algorithm=None` lets `choose_conv2d` decide.
    """
    algorithm = algorithm or choose_conv2d(weight.shape, stride, precision)
    return PreparedConv(algorithm, pack_weight(weight))


def prepare_upsample_conv2d(weight: np.ndarray, precision: str = "fast") -> PreparedConv:
    """Lay out the 3×3 filters of `upsample_conv2d`, once."""
    return prepare_conv2d(weight, 1, precision)


def _conv2d(
    operator: str,
    x: np.ndarray,
    weight: ConvWeight,
    bias: np.ndarray | None,
    stride: int,
    padding: Padding,
    shift: np.ndarray | None = None,
    residual: np.ndarray | None = None,
) -> np.ndarray:
    prepared = weight if isinstance(weight, PreparedConv) else prepare_conv2d(weight, stride)
    top, bottom, left, right = (padding,) * 4 if isinstance(padding, int) else padding
    c_out, c_in, k_h, k_w = prepared.shape
    n, height, width, channels = x.shape
    if channels != c_in:
        raise InputError(
            f"{operator}: x of shape {x.shape} has {channels} channels, weight {prepared.shape} takes {c_in}"
        )
    if stride < 1 or min(top, bottom, left, right) < 0:
        raise InputError(f"{operator}: stride {stride} must be positive and padding {padding} not negative")
    out_h = (height + top + bottom - k_h) // stride + 1
    out_w = (width + left + right - k_w) // stride + 1
    if out_h < 1 or out_w < 1:
        raise InputError(f"{operator}: the padded image of x {x.shape} is smaller than the filter of {prepared.shape}")
    if residual is not None and residual.shape != (n, out_h, out_w, c_out):
        raise InputError(f"{operator}: the residual has shape {residual.shape}, not {(n, out_h, out_w, c_out)}")
    x = activations(x, operator)
    residual = None if residual is None else activations(residual, operator)
    padded = pad_bias(None if bias is None else parameters(bias), c_out, shift=shift)
    return matmul(x, prepared.packed, padded, (out_h, out_w), stride=stride, top=top, left=left, residual=residual)


def conv2d(
    x: np.ndarray, weight: ConvWeight, bias: np.ndarray | None = None, *, stride: int = 1, padding: Padding = 0
) -> np.ndarray:
    """Convolve images with filters: `(N, H, W, C_in) -> (N, H', W', C_out)`."""
    return _conv2d("conv2d", x, weight, bias, stride, padding)


def conv2d_residual(
    x: np.ndarray,
    weight: ConvWeight,
    bias: np.ndarray | None,
    residual: np.ndarray,
    *,
    stride: int = 1,
    padding: Padding = 0,
) -> np.ndarray:
    """`conv2d(x) + residual`."""
    return _conv2d("conv2d_residual", x, weight, bias, stride, padding, residual=residual)


def norm_silu(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, groups: int, eps: float) -> np.ndarray:
    """`silu(group_norm(x))`, the SiLU in the pass that applies the normalisation."""
    x = activations(x, "norm_silu")
    if x.size == 0:
        return x.copy()
    return affine(x, *group_norm_affine(x, parameters(weight), parameters(bias), groups, eps), silu=True)


def norm_silu_conv2d(
    x: np.ndarray,
    norm_weight: np.ndarray,
    norm_bias: np.ndarray,
    groups: int,
    eps: float,
    weight: ConvWeight,
    bias: np.ndarray | None = None,
    *,
    stride: int = 1,
    padding: Padding = 1,
    shift: np.ndarray | None = None,
    residual: np.ndarray | None = None,
) -> np.ndarray:
    """`conv2d(silu(group_norm(x))) + shift + residual`, the half of a residual block."""
    h = norm_silu(x, norm_weight, norm_bias, groups, eps)
    return _conv2d("norm_silu_conv2d", h, weight, bias, stride, padding, shift, residual)


def upsample_conv2d(
    x: np.ndarray, weight: ConvWeight, bias: np.ndarray | None = None, size: tuple[int, int] | None = None
) -> np.ndarray:
    """`conv2d(upsample_nearest(x, size), padding=1)`: to twice the height and width, or to `size`."""
    return _conv2d("upsample_conv2d", upsample_nearest(x, size), weight, bias, 1, 1)
