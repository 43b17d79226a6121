"""Convolutions: which algorithm for which layer, and the composites around them.

Two algorithms. **Direct** (`matmul.py`) sums all taps and channels in one fixed order and fits every filter.
**Winograd** (`winograd.py`) takes a quarter of the multiply-adds for 3×3 filters of stride 1, exactly the same in
theory and within twice the rounding error. `precision="strict"` allows only the first.

A direct convolution of an image enlarged to twice its size by repeating pixels never enlarges it. Of the three rows of
a filter two lie on the same row of the small image, and of the columns as well: the pixels of each of the four
**phases** (even or odd row and column of the result) are a 2×2 convolution of the small image, its filter the sum of
those that coincide. That is four products an output instead of nine.

Error: of each, see there; a residual and a shift add one rounding, a normalisation in front its own (`norm.py`), a sum
of filters, made in float64, one of 2^-24 a product.

Filters are packed once, at their own size in float32; those of the phases, 16/9 of that, are kept beside them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from tinyldm.kernels.arrays import activations, added, parameters
from tinyldm.kernels.buffers import empty
from tinyldm.kernels.matmul import ceil_div, is_gathered, matmul, pad_bias
from tinyldm.kernels.norm import affine, group_norm_affine
from tinyldm.kernels.packing import HALVES, PAIRS, PackedWeight, pack_filters, pack_weight, packed_form
from tinyldm.kernels.resample import upsample_nearest
from tinyldm.kernels.rows import NONE, RELU
from tinyldm.kernels.simd import TILES, unit
from tinyldm.kernels.tile import tile_rows_of
from tinyldm.kernels.winograd import OUTPUTS, PLACES, column_blocks, winograd
from tinyldm.ops.bfloat16 import BFLOAT16, widened
from tinyldm.ops.conv import Padding, conv2d_sizes, enlarged_size
from tinyldm.ops.norm import check_affine

FEWEST_CHANNELS = 16  # below, transforms cost more than they save
MOST_REPEATS = 2  # blocks of columns for which normalising again and again beats a pass of its own


@dataclass(frozen=True)
class PreparedConv:
    """A convolution's filters, laid out for the algorithm that was chosen for them."""

    algorithm: str
    packed: PackedWeight
    phases: tuple[PackedWeight, ...] = ()  # of an image enlarged by two: (row, column) = (0, 0), (0, 1), (1, 0), (1, 1)

    @property
    def shape(self) -> tuple[int, ...]:
        """The published shape, (C_out, C_in, k_h, k_w)."""
        return self.packed.shape

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.packed.nbytes + sum(phase.nbytes for phase in self.phases)


ConvWeight = np.ndarray | PreparedConv


def choose_conv2d(shape: tuple[int, ...], stride: int = 1, precision: str = "fast") -> str:
    """The algorithm for filters of a shape: "direct" or "winograd"."""
    c_out, c_in, *kernel = shape
    direct = precision == "strict" or (precision == "bf16" and unit() == TILES)  # faster there than Winograd's products
    if direct or kernel != [3, 3] or stride != 1 or min(c_out, c_in) < FEWEST_CHANNELS:
        return "direct"
    return "winograd"


def prepare_conv2d(weight: np.ndarray, stride: int = 1, precision: str = "fast") -> PreparedConv:
    """Lay out `(C_out, C_in, k_h, k_w)` filters of any float dtype, or `BFLOAT16`, once, as `choose_conv2d` says."""
    form, taps = packed_form(precision), math.prod(weight.shape[2:])
    algorithm = choose_conv2d(weight.shape, stride, precision)
    if form == PAIRS and (algorithm == "winograd" or is_gathered(taps, weight.shape[1])):
        form = HALVES  # computed in float32, from rounded values
    return PreparedConv(algorithm, pack_weight(weight, form=form))


def prepare_upsample_conv2d(weight: np.ndarray, precision: str = "fast") -> PreparedConv:
    """Lay out the 3×3 filters of `upsample_conv2d`, once."""
    prepared = prepare_conv2d(weight, 1, precision)
    if prepared.algorithm != "direct" or weight.shape[2:] != (3, 3):
        return prepared
    form = prepared.packed.form
    return replace(prepared, phases=tuple(_phase(weight, row, column, form) for row in (0, 1) for column in (0, 1)))


def _phase(weight: np.ndarray, row: int, column: int, form: int) -> PackedWeight:
    """The 2×2 filters of the pixels of one phase, made a block of them at a time in float64."""

    def filters(block: slice) -> np.ndarray:
        part = weight[block]
        wide = (widened(part) if part.dtype == BFLOAT16 else part).astype(np.float64)
        return _coinciding(_coinciding(wide, 2, row), 3, column)

    return pack_filters((*weight.shape[:2], 2, 2), filters, form=form)


def _coinciding(weight: np.ndarray, axis: int, phase: int) -> np.ndarray:
    """Of three taps along `axis` the two that lie on the same pixel of the small image, added: two taps."""
    first, second, third = np.moveaxis(weight, axis, 0)
    return np.stack([first + second, third] if phase else [first, second + third], axis)


def _doubled(x: np.ndarray, phases: tuple[PackedWeight, ...], bias: np.ndarray) -> np.ndarray:
    """The convolution, padded by 1, of `x` enlarged to twice its size: phase by phase, each a quarter of the pixels."""
    n, height, width, _ = x.shape
    y = empty((n, 2 * height, 2 * width, phases[0].shape[0]))
    for i, phase in enumerate(phases):
        row, column = divmod(i, 2)
        out = y[:, row::2, column::2]
        matmul(x, phase, bias, (height, width), top=1 - row, left=1 - column, out=out)
    return y


def _fewer_products(size: tuple[int, int]) -> bool:
    """Whether Winograd takes fewer products on an output of this size: not on the very smallest.

    Of one image, however many there are: each must come out as it does alone.
    """
    tiles = ceil_div(size[0], OUTPUTS) * ceil_div(size[1], OUTPUTS)
    return tile_rows_of(tiles) * PLACES < tile_rows_of(size[0] * size[1]) * 9


def _conv2d(
    operator: str,
    x: np.ndarray,
    weight: ConvWeight,
    bias: np.ndarray | None,
    stride: int,
    padding: Padding,
    shift: np.ndarray | None = None,
    residual: np.ndarray | None = None,
    gain_shift: tuple[np.ndarray, np.ndarray] | None = None,
    size: tuple[int, int] | None = None,
    inner: slice = slice(None),
    ending: int = NONE,
) -> np.ndarray:
    """Any convolution: of `x`, enlarged to `size`, or scaled, shifted and put through SiLU by `gain_shift`.

    `inner` are the rows of the result that are wanted.
    """
    prepared = weight if isinstance(weight, PreparedConv) else prepare_conv2d(weight, stride)
    (top, _, left, _), out = conv2d_sizes(operator, x, prepared.shape, stride, padding, size)
    n, c_out = len(x), prepared.shape[0]
    first, stop, _ = inner.indices(out[0])
    x = activations(x, operator)
    residual = added(operator, residual, (n, *out, c_out))
    padded = pad_bias(operator, bias, c_out, shift=shift, samples=n)
    if not n:
        return empty((n, *out, c_out))
    if prepared.algorithm == "winograd" and stride == 1 and _fewer_products(out):
        if gain_shift is not None and column_blocks(n, out, c_out) > MOST_REPEATS:
            x, gain_shift = affine(x, *gain_shift, silu=True), None
        return winograd(
            x,
            prepared.packed,
            padded,
            (stop - first, out[1]),
            virtual_size=size,
            top=top - first,
            left=left,
            gain_shift=gain_shift,
            residual=residual,
            ending=ending,
        )
    if gain_shift is not None:
        x = affine(x, *gain_shift, silu=True)
    if size == (2 * x.shape[1], 2 * x.shape[2]) and prepared.phases:
        return _doubled(x, prepared.phases, padded)[:, inner]
    if size is not None:
        x = upsample_nearest(x, size)
    return matmul(x, prepared.packed, padded, out, stride=stride, top=top, left=left, ending=ending, residual=residual)[
        :, inner
    ]


def conv2d(
    x: np.ndarray, weight: ConvWeight, bias: np.ndarray | None = None, *, stride: int = 1, padding: Padding = 0
) -> np.ndarray:
    """Convolve images with filters: `(N, H, W, C_in) -> (N, H', W', C_out)`."""
    return _conv2d("conv2d", x, weight, bias, stride, padding)


def conv2d_residual(
    x: np.ndarray,
    weight: ConvWeight,
    bias: np.ndarray | None,
    residual: np.ndarray | None,
    *,
    stride: int = 1,
    padding: Padding = 0,
    relu: bool = False,
) -> np.ndarray:
    """`conv2d(x) + residual`, with `relu` the larger of that and 0."""
    ending = RELU if relu else NONE
    return _conv2d("conv2d_residual", x, weight, bias, stride, padding, residual=residual, ending=ending)


def norm_silu(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, groups: int, eps: float) -> np.ndarray:
    """`silu(group_norm(x))`, the SiLU in the pass that applies the normalisation."""
    x = activations(x, "norm_silu")
    return affine(x, *group_norm_affine("norm_silu", x, weight, bias, groups, eps), silu=True)


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
    x = activations(x, "norm_silu_conv2d")
    gain_shift = group_norm_affine("norm_silu_conv2d", x, norm_weight, norm_bias, groups, eps)
    return _conv2d("norm_silu_conv2d", x, weight, bias, stride, padding, shift, residual, gain_shift)


def affine_silu_conv2d(
    x: np.ndarray,
    gain: np.ndarray,
    shift: np.ndarray,
    weight: ConvWeight,
    bias: np.ndarray | None = None,
    *,
    padding: Padding = 1,
    residual: np.ndarray | None = None,
) -> np.ndarray:
    """`conv2d(silu(x * gain + shift)) + residual`, `gain` and `shift` `(N, C_in)`."""
    prepared = weight if isinstance(weight, PreparedConv) else prepare_conv2d(weight)
    conv2d_sizes("affine_silu_conv2d", x, prepared.shape, 1, padding)
    check_affine("affine_silu_conv2d", x, gain, shift)
    gain_shift = parameters(gain), parameters(shift)
    return _conv2d("affine_silu_conv2d", x, prepared, bias, 1, padding, None, residual, gain_shift)


def upsample_conv2d(
    x: np.ndarray,
    weight: ConvWeight,
    bias: np.ndarray | None = None,
    size: tuple[int, int] | None = None,
    inner: slice = slice(None),
) -> np.ndarray:
    """`conv2d(upsample_nearest(x, size), padding=1)`: to twice the height and width, or to `size`; its rows `inner`."""
    size = enlarged_size("upsample_conv2d", x, size)
    return _conv2d("upsample_conv2d", x, weight, bias, 1, 1, size=size, inner=inner)
