"""Weights in the order that the register tile reads them, made once from the bytes of a file.

Packing is most of what there is to do before a first picture: every number is read, widened or rounded, and turned,
since a file has the inputs of an output side by side and a tile reads outputs side by side. A thread takes a panel of
`TILE_COLUMNS` outputs, a block of inputs at a time: their rows are widened to float32, turned (`transpose.py`), and
written as the form asks, while all of it lies in the level-1 and level-2 caches. So a weight of 16-bit numbers is never
there in float32, and what is packed takes about as long as to write its memory.

Error: none in float32; one rounding, to the nearest bfloat16, in the other forms (`rounding.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tinyldm.errors import InputError
from tinyldm.kernels.compile import Kernel, Numbers, Panels, Row
from tinyldm.kernels.pool import aligned, run
from tinyldm.kernels.rounding import narrow_row, pair_row, steps_of, widen_float16_row, widen_row
from tinyldm.kernels.rows import copy_row, zero_row
from tinyldm.kernels.simd import FLOAT_BYTES, WIDENED, address, next_unit, target, unit
from tinyldm.kernels.transpose import transpose
from tinyldm.ops.bfloat16 import BFLOAT16, widened

TILE_COLUMNS = target().tile_columns
ROW_BYTES = TILE_COLUMNS * FLOAT_BYTES  # of a row of a panel
VECTOR = target().width
BLOCK = 128  # inputs under all taps that are turned together, about
COST = 20  # of a number, in multiply-adds

PRECISIONS = ("fast", "strict", "bf16")
FLOAT32, HALVES, PAIRS = range(3)  # forms of packed weights: float32; bfloat16, to be widened; pairs of bfloat16
STORED = {np.dtype(np.float32): 0, np.dtype(np.float16): 1, BFLOAT16: 2}  # what the kernel reads


@dataclass(frozen=True)
class PackedWeight:
    """Weights in the order that the register tile reads them: `(panels, taps, C_in, TILE_COLUMNS)`, float32.

    The last panel is filled up with zero columns. With `gated`, panels of values and of gates alternate. Of bfloat16
    values two share a number of `panels`: neighbouring columns (HALVES), or the same column at two neighbouring steps
    of C_in, filled up with zeros (PAIRS).
    """

    panels: np.ndarray
    shape: tuple[int, ...]  # of the published weight
    gated: bool = False
    form: int = FLOAT32

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.panels.nbytes


def packed_form(precision: str) -> int:
    """The form of the weights of a linear layer."""
    if precision not in PRECISIONS:
        raise InputError(f"precision {precision!r} is unknown; known are {', '.join(PRECISIONS)}")
    if precision != "bf16":
        return FLOAT32
    return HALVES if unit() == WIDENED else PAIRS


@Kernel
def panel_kernel(
    counter: Numbers, units: int, scratch: Row, source: int, stored: int, panels: Panels, rows: int, halves: int,
    c_in: int, depth: int, form: int,
) -> None:  # fmt: skip
    """Units: panels. The source is `(halves, rows, c_in, taps)`, of the type `stored`; `depth` inputs at a time."""
    _, taps, steps, numbers = panels.shape
    pitch = (depth * taps + VECTOR) * FLOAT_BYTES  # of the widened rows; a way of the cache would be too even
    size, to_bytes = 2 if stored else FLOAT_BYTES, numbers * FLOAT_BYTES
    ones = address(scratch)
    wide = ones + VECTOR * FLOAT_BYTES
    turned = wide + TILE_COLUMNS * pitch
    zeros = turned + depth * taps * ROW_BYTES
    for i in range(VECTOR):
        scratch[i] = 1
    zero_row(zeros, TILE_COLUMNS)
    unit = next_unit(counter)
    while unit < units:
        first, half = unit // halves * TILE_COLUMNS, unit % halves
        count = min(TILE_COLUMNS, rows - first)
        start = source + (half * rows + first) * c_in * taps * size
        panel = address(panels) + unit * taps * steps * to_bytes
        zero_row(wide + count * pitch, (TILE_COLUMNS - count) * pitch // FLOAT_BYTES)
        for k0 in range(0, c_in, depth):
            k1 = min(c_in, k0 + depth)
            for column in range(count):
                row, to = start + (column * c_in + k0) * taps * size, wide + column * pitch
                if stored == 0:
                    copy_row(row, to, (k1 - k0) * taps)
                elif stored == 1:
                    widen_float16_row(row, to, (k1 - k0) * taps)
                else:
                    widen_row(row, to, (k1 - k0) * taps)
            transpose(wide, pitch, TILE_COLUMNS, turned, ROW_BYTES, (k1 - k0) * taps, ones, 0)
            for tap in range(taps):
                to = panel + tap * steps * to_bytes
                for k in range(k0, k1):
                    row = turned + ((k - k0) * taps + tap) * ROW_BYTES
                    if form == FLOAT32:
                        copy_row(row, to + k * to_bytes, TILE_COLUMNS)
                    elif form == HALVES:
                        narrow_row(row, to + k * to_bytes, TILE_COLUMNS)
                    elif k % 2 == 0:
                        pair_row(
                            row, row + taps * ROW_BYTES if k + 1 < k1 else zeros, to + k // 2 * to_bytes, TILE_COLUMNS
                        )
        if form == PAIRS:
            done = (c_in + 1) // 2
            for tap in range(taps):
                zero_row(panel + (tap * steps + done) * to_bytes, (steps - done) * TILE_COLUMNS)
        unit = next_unit(counter)


def pack_weight(weight: np.ndarray, gated: bool = False, form: int = FLOAT32) -> PackedWeight:
    """Pack a `(C_out, C_in)` or `(C_out, C_in, k_h, k_w)` weight of any float dtype, or `BFLOAT16`.

    With `gated`, the first half of C_out are values and the second half their gates.
    """
    halves = 2 if gated else 1
    panels = _empty_panels(weight.shape, halves, form)
    _fill(panels, weight, halves, form)
    return PackedWeight(panels, weight.shape, gated, form)


def pack_joined(weights: Sequence[np.ndarray], form: int = FLOAT32) -> PackedWeight:
    """Pack `(C_out, C_in)` weights, one above the other."""
    ends, inputs = np.cumsum([len(weight) for weight in weights]), {weight.shape[1:] for weight in weights}
    if np.any(ends[:-1] % TILE_COLUMNS) or len(inputs) > 1:
        same = len({weight.dtype for weight in weights}) == 1
        return pack_weight(np.concatenate(weights if same else list(map(widened, weights))), form=form)
    shape = (int(ends[-1]), weights[0].shape[1])
    panels = _empty_panels(shape, 1, form)
    for weight, end in zip(weights, ends, strict=True):
        first = (int(end) - len(weight)) // TILE_COLUMNS
        _fill(panels[first : -(-int(end) // TILE_COLUMNS)], weight, 1, form)
    return PackedWeight(panels, shape, False, form)


def pack_filters(shape: tuple[int, ...], filters: Callable[[slice], np.ndarray], form: int = FLOAT32) -> PackedWeight:
    """Pack a weight of a shape that `filters` gives some rows of C_out of, when they are asked for."""
    panels = _empty_panels(shape, 1, form)
    for p, panel in enumerate(panels):
        _fill(panel[None], filters(slice(p * TILE_COLUMNS, (p + 1) * TILE_COLUMNS)), 1, form)
    return PackedWeight(panels, shape, False, form)


def _empty_panels(shape: tuple[int, ...], halves: int, form: int) -> np.ndarray:
    """Memory for a packed weight."""
    c_out, c_in = shape[:2]
    if c_out % halves:
        raise InputError(f"a weight of shape {shape} has no two halves: values and gates")
    panels = -(-c_out // halves // TILE_COLUMNS) * halves
    taps = int(np.prod(shape[2:], dtype=np.int64))
    steps, width = {
        FLOAT32: (c_in, TILE_COLUMNS),
        HALVES: (c_in, TILE_COLUMNS // 2),
        PAIRS: (steps_of(c_in), TILE_COLUMNS),
    }[form]
    return aligned(panels * taps * steps * width).reshape(panels, taps, steps, width)


def _fill(panels: np.ndarray, weight: np.ndarray, halves: int, form: int) -> None:
    """Pack the weight into `panels`."""
    if weight.dtype not in STORED:
        weight = weight.astype(np.float32)
    weight = np.ascontiguousarray(weight)
    taps, c_in = panels.shape[1], weight.shape[1]
    depth = max(2, BLOCK // max(1, taps) // 2 * 2)  # an even number: two of them make a pair
    scratch = VECTOR + TILE_COLUMNS * (2 * depth * taps + VECTOR + 1)
    source, stored = weight.ctypes.data, STORED[weight.dtype]
    run(
        panel_kernel, len(panels), COST * panels.size, scratch, source, stored, panels, len(weight) // halves, halves,
        c_in, depth, form,
    )  # fmt: skip
