"""Linear layers and direct convolutions: one blocked matrix product, with what comes after it built in.

    y[m, n] = ending( sum_{taps t} sum_k  x[pixel(m, t), k] * w[n, k, t]  + bias )

A linear layer has one tap and its rows are tokens; a k_h x k_w convolution has k_h * k_w taps, and under tap t the
row of output pixel m is the input pixel that lies there: a table of addresses, so that no patch matrix is ever
written ("implicit im2col").

Why it is fast: the filters are packed once into panels that one register tile reads in order (`tile.py`); a block of
`BLOCK_ROWS` rows stays in the level-2 cache while all columns of a block pass over it; the sums of a block stay in
cache until bias, activation, gate or residual have been applied, so the result is written to memory once. Where rows of
x lie a multiple of 4096 bytes apart, they would all fall into the same few places of the level-1 cache: there a block
copies its own.

Error: each output is a sum of partial sums over at most `BLOCK_DEPTH` products, each in two halves (`tile.py`), added
in a fixed order: at most (BLOCK_DEPTH / 2 + 1 + K / BLOCK_DEPTH) * 2^-24 * sum |x w|, less than one chain of length K,
and the same for every thread count.

Goto and van de Geijn 2008, "Anatomy of high-performance matrix multiplication"; Dukhan 2019, arXiv 1907.02129.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from tinyldm.errors import InputError
from tinyldm.kernels.arrays import distance, parameters
from tinyldm.kernels.buffers import empty
from tinyldm.kernels.compile import Kernel, Numbers, Panels, Row, Rows, SpacedImages, Stage, stage
from tinyldm.kernels.packing import FLOAT32, HALVES, PAIRS, ROW_BYTES, TILE_COLUMNS, PackedWeight
from tinyldm.kernels.pool import run, threads
from tinyldm.kernels.rounding import (
    ROW_MULTIPLE,
    VALUES_A_STEP,
    multiply_rounded,
    pack_row,
    round_row,
    widen_row,
)
from tinyldm.kernels.rows import (
    GEGLU,
    NONE,
    WITH_RESIDUAL,
    copy_row,
    finish_gate,
    finish_row,
    get_address,
    put_address,
    zero_row,
)
from tinyldm.kernels.simd import FLOAT_BYTES, address, next_unit, target
from tinyldm.kernels.tile import CACHE_LINE, multiply_rows
from tinyldm.kernels.tiles import begin_products, end_products

BLOCK_ROWS = 120  # rows of x that a thread works on at a time
BLOCK_COLUMNS = 320  # columns of y that it finishes with them
BLOCK_DEPTH = 384  # k steps of one register tile
GATHERED_DEPTH = 128  # convolutions of so few products (3 or 4 channels in) copy their patches: a tap is too short
CACHE_WAY = 4096  # bytes: addresses so far apart share a place of the level-1 cache

TILE_ROWS = target().tile_rows


def ceil_div(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def even_blocks(total: int, largest: int, multiple: int) -> int:
    """A block size of at most about `largest`, a multiple of `multiple`, that cuts `total` into equal blocks."""
    blocks = max(1, ceil_div(total, largest))
    return ceil_div(ceil_div(total, blocks), multiple) * multiple


def pad_bias(
    operator: str,
    bias: np.ndarray | None,
    c_out: int,
    *,
    gated: bool = False,
    shift: np.ndarray | None = None,
    samples: int = 1,
) -> np.ndarray:
    """Bias plus per-sample shift as `(1 or N, columns)`; zeros where there is none.

    Gated, the values' biases come first and the gates' after them, each filled up to whole panels. Raises `InputError`
    for a bias that is not `(c_out,)` and a shift that is not `(samples or 1, c_out)`.
    """
    bias = None if bias is None else parameters(bias)
    if bias is not None and bias.shape != (c_out,):
        raise InputError(f"{operator}: the bias has shape {bias.shape}, not {(c_out,)}")
    if shift is not None and shift.shape not in ((1, c_out), (samples, c_out)):
        raise InputError(f"{operator}: the shift has shape {shift.shape}, not {(samples, c_out)}")
    halves = 2 if gated else 1
    width = ceil_div(c_out // halves, TILE_COLUMNS) * TILE_COLUMNS
    if bias is not None and shift is None and halves * width == c_out:
        return bias.reshape(1, -1)
    padded = np.zeros((1 if shift is None else len(shift), halves, width), np.float32)
    if bias is not None:
        padded[:, :, : c_out // halves] = bias.reshape(halves, -1)
    if shift is not None:
        padded[:, 0, :c_out] += shift
    return padded.reshape(len(padded), halves * width)


class View(NamedTuple):
    """Where the rows of a product lie in x and in y: bytes from pixel to pixel, and which pixels a filter sees."""

    x_pitch: int
    y_pitch: int
    y_gap: int  # bytes by which each row of pixels of y is longer
    k_w: int
    stride: int
    top: int
    left: int


class Block(NamedTuple):
    """What a thread works on at a time, and how."""

    rows: int
    depth: int  # steps of k of a register tile
    gathered: int  # 1: the pixels under all taps are copied, one after the other, into one long row
    copied: int  # 1: the rows of x are copied, block of k by block of k; so are those that are rounded
    ending: int  # see `rows.py`


class Memory(NamedTuple):
    """A thread's own memory, by addresses; the last two are bytes from row to row."""

    sums: int
    rows: int  # of each tap, the addresses of a block's rows of x
    copied_rows: int  # the addresses of their copies
    zeros: int  # what a filter sees beyond the border
    copies: int
    widened: int  # a panel of weights in float32
    sums_pitch: int
    copies_pitch: int


@stage
def _memory(scratch: np.ndarray, block: Block, columns: int, taps: int, c_in: int) -> Memory:
    sums_pitch, copies_pitch = columns * 4, (block.depth * 4 // 64 | 1) * 64 + 64
    sums = address(scratch)
    rows = sums + block.rows * sums_pitch
    copied_rows = rows + taps * block.rows * 8
    zeros = copied_rows + (block.rows + TILE_ROWS) * 8
    copies = (zeros + c_in * 4 + 63) // 64 * 64
    widened = copies + (block.rows + ROW_MULTIPLE) * copies_pitch
    zero_row(zeros, c_in)
    for i in range(block.rows):
        put_address(copied_rows + i * 8, copies + i * copies_pitch)
    return Memory(sums, rows, copied_rows, zeros, copies, widened, sums_pitch, copies_pitch)


def gathering(form: int) -> Stage:
    """The stage that finds the rows of x, for weights of that form."""

    @stage
    def gather(
        x: np.ndarray,
        view: View,
        block: Block,
        memory: Memory,
        taps: int,
        first: int,
        count: int,
        out_h: int,
        out_w: int,
    ) -> None:
        """Find the rows of x under each tap for `count` pixels of y from the pixel `first` on."""
        _, height, width, c_in = x.shape
        sample, pixel = first // (out_h * out_w), first % (out_h * out_w)
        oy, ox = pixel // out_w, pixel % out_w
        for i in range(min(block.rows, (count + TILE_ROWS - 1) // TILE_ROWS * TILE_ROWS)):
            ky = kx = 0
            for tap in range(taps):
                iy, ix = oy * view.stride - view.top + ky, ox * view.stride - view.left + kx
                at = memory.zeros
                if 0 <= iy < height and 0 <= ix < width:
                    at = address(x) + ((sample * height + iy) * width + ix) * view.x_pitch
                if block.gathered and form != FLOAT32:
                    round_row(at, memory.copies + i * memory.copies_pitch + tap * c_in * 4, c_in)
                elif block.gathered:
                    copy_row(at, memory.copies + i * memory.copies_pitch + tap * c_in * 4, c_in)
                else:
                    put_address(memory.rows + (tap * block.rows + i) * 8, at)
                kx += 1
                if kx == view.k_w:
                    ky, kx = ky + 1, 0
            if i + 1 < count:  # what fills the last tile repeats the last row
                ox += 1
                if ox == out_w:
                    oy, ox = oy + 1, 0
                    if oy == out_h:
                        sample, oy = sample + 1, 0

    return gather


def copying(form: int) -> Stage:
    """The stage that copies the rows of x."""

    @stage
    def copy_rows(block: Block, memory: Memory, rows: int, k0: int, steps: int, c_in: int, count: int) -> None:
        """Copy `steps` steps from `k0` on of `count` rows of x, rounded where their products are to be."""
        for i in range(count):
            source, copy = get_address(rows + i * 8), memory.copies + i * memory.copies_pitch
            if form == FLOAT32:
                copy_row(source + k0 * 4, copy, steps)
            elif form == HALVES:
                round_row(source + k0 * 4, copy, steps)
            else:
                at = min(k0 * VALUES_A_STEP, c_in)
                pack_row(source + at * 4, copy, min(steps * VALUES_A_STEP, c_in - at), steps)

    return copy_rows


def multiplying(form: int) -> Stage:
    """The stage that multiplies."""
    copy_rows = copying(form)

    @stage
    def multiply(
        panels: np.ndarray, block: Block, memory: Memory, taps: int, all_steps: int, c_in: int, panel0: int,
        panel1: int, count: int,
    ) -> None:  # fmt: skip
        """Sum the products of `count` rows with the panels from `panel0` to `panel1`."""
        own = block.copied or block.gathered
        row_bytes = panels.shape[3] * 4
        for tap in range(taps):
            rows = memory.rows + tap * block.rows * 8
            for turn in range(max((all_steps + block.depth - 1) // block.depth, 1)):
                k0 = turn * block.depth
                k1 = min(k0 + block.depth, all_steps)  # where the next block of k begins, perhaps under the next tap
                if block.copied:
                    copy_rows(block, memory, rows, k0, k1 - k0, c_in, count)
                further = k1 < all_steps or tap + 1 < taps
                for p in range(panel0, panel1):
                    packed = address(panels) + ((p * taps + tap) * all_steps + k0) * row_bytes
                    ahead = packed + taps * all_steps * row_bytes
                    if p + 1 == panel1:
                        next_step = tap * all_steps + k1 if further else 0
                        ahead = address(panels) + (panel0 * taps * all_steps + next_step) * row_bytes
                    a, a_offset = (memory.copied_rows, 0) if own else (rows, k0 * 4)
                    c = memory.sums + (p - panel0) * ROW_BYTES
                    if form == PAIRS:
                        multiply_rounded(a, a_offset, packed, c, memory.sums_pitch, k1 - k0, tap + k0, count, ahead)
                        continue
                    if form == HALVES:
                        widen_row(packed, memory.widened, (k1 - k0) * TILE_COLUMNS)
                        packed = memory.widened
                    multiply_rows(a, a_offset, packed, c, memory.sums_pitch, k1 - k0, tap + k0, count, ahead)

    return multiply


@stage
def _finish(
    row: int, target_row: int, bias_row: int, residual_row: int, panel0: int, panel1: int, gates: int, c_out: int,
    ending: int,
) -> None:  # fmt: skip
    """Write a row's columns from `panel0` to `panel1`; `gates` is the bytes from values' biases to gates'."""
    if ending == GEGLU:
        for p in range(panel0 // 2, panel1 // 2):
            at = p * ROW_BYTES
            pair = row + (2 * p - panel0) * ROW_BYTES
            count = min(TILE_COLUMNS, c_out - p * TILE_COLUMNS)
            finish_gate(pair, pair + ROW_BYTES, target_row + at, bias_row + at, bias_row + gates + at, count)
    else:
        at = panel0 * ROW_BYTES
        count = min(panel1 * TILE_COLUMNS, c_out) - panel0 * TILE_COLUMNS
        finish_row(row, target_row + at, bias_row + at, residual_row + at, count, ending)


def matmul_kernel(form: int) -> Kernel:
    """The kernel for weights of that form: each is compiled when it is first used."""
    gather, multiply = gathering(form), multiplying(form)

    def kernel(
        counter: Numbers, units: int, scratch: Row, x: SpacedImages, panels: Panels, bias: Rows, residual: Row,
        y: SpacedImages, cuts: Numbers, view: View, block: Block,
    ) -> None:  # fmt: skip
        """Units: blocks of rows (fastest) by blocks of columns of y; the rows are the output pixels of all samples.

        `cuts` are the panels at which blocks of columns begin; the first block is the widest.
        """
        n, out_h, out_w, c_out = y.shape
        total = n * out_h * out_w
        n_panels, taps, steps, _ = panels.shape
        c_in = x.shape[3]
        pixels = (bias.shape[0] > 1 and out_h * out_w) or total  # that share a bias
        row_blocks = (total + block.rows - 1) // block.rows
        memory = _memory(scratch, block, cuts[1] * TILE_COLUMNS, taps, c_in)
        if form == PAIRS:
            begin_products()
        unit = next_unit(counter)
        while unit < units:
            first = unit % row_blocks * block.rows
            panel0, panel1 = cuts[unit // row_blocks], min(n_panels, cuts[unit // row_blocks + 1])
            count = min(block.rows, total - first)
            gather(x, view, block, memory, taps, first, count, out_h, out_w)
            if block.gathered:  # a row is one of all taps
                multiply(panels, block, memory, 1, taps * steps, c_in, panel0, panel1, count)
            else:
                multiply(panels, block, memory, taps, steps, c_in, panel0, panel1, count)
            for m in range(first, first + count):
                _finish(
                    memory.sums + (m - first) * memory.sums_pitch,
                    address(y) + m * view.y_pitch + m // out_w * view.y_gap,
                    address(bias) + m // pixels * bias.shape[1] * 4,
                    address(residual) + m * c_out * 4,
                    panel0,
                    panel1,
                    bias.shape[1] * 2,
                    c_out,
                    block.ending,
                )
            unit = next_unit(counter)
        if form == PAIRS:
            end_products()

    return Kernel(kernel, f"matmul_kernel_{form}")


KERNELS = [matmul_kernel(form) for form in (FLOAT32, HALVES, PAIRS)]


class Plan(NamedTuple):
    """How a product is cut into units, and what memory each thread needs for them."""

    block_rows: int
    depth: int
    cuts: np.ndarray  # the panels at which blocks of columns begin, and the end
    units: int
    scratch: int


@lru_cache(1024)
def plan_matmul(rows: int, panels: int, taps: int, steps: int, form: int, threads: int) -> Plan:
    """The blocks for a product of so many rows and panels of columns, and so many steps of k under each tap."""
    multiple = ROW_MULTIPLE if form == PAIRS else TILE_ROWS
    # Few rows: lower blocks, so that there are more of them to share.
    block_rows = even_blocks(rows, BLOCK_ROWS if rows > 2 * BLOCK_ROWS else BLOCK_ROWS // 2, multiple)
    row_blocks = ceil_div(rows, block_rows)
    # Of what is left, each thread's share in four: so that all end at about the same time. Two panels at least, which
    # belong together where values and gates alternate.
    cuts, left = [0], ceil_div(panels, 2)
    while left:
        pairs = min(ceil_div(left * row_blocks, 4 * threads), left, BLOCK_COLUMNS // (2 * TILE_COLUMNS))
        left -= pairs
        cuts.append(cuts[-1] + 2 * pairs)
    depth = taps * steps
    if not is_gathered(taps, steps, form):
        depth = even_blocks(steps, BLOCK_DEPTH, 16 if form == PAIRS else 8)
    widened = TILE_COLUMNS * depth if form == HALVES else 0
    copies = (block_rows + ROW_MULTIPLE) * (depth + 48) + (VALUES_A_STEP * steps + 64)
    return Plan(
        block_rows,
        max(depth, 1),
        np.array(cuts),
        units=row_blocks * (len(cuts) - 1),
        scratch=block_rows * (cuts[1] * TILE_COLUMNS + 2 * taps + 2) + copies + widened + 4 * TILE_ROWS,
    )


def is_gathered(taps: int, c_in: int, form: int = FLOAT32) -> bool:
    """Whether a convolution copies its patches."""
    return form != PAIRS and taps > 1 and taps * c_in <= GATHERED_DEPTH


NO_RESIDUAL = np.zeros(1, np.float32)


def matmul(
    x: np.ndarray,
    weight: PackedWeight,
    bias: np.ndarray,
    out_size: tuple[int, int],
    *,
    stride: int = 1,
    top: int = 0,
    left: int = 0,
    ending: int = NONE,
    residual: np.ndarray | None = None,
    spread: bool = False,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """The product above for `x` (N, H, W, C_in): `(N, *out_size, C_out)`, or half of C_out where the weight is gated.

    The pixels of `x` may lie farther apart than they are long, all at one distance. `bias` comes from `pad_bias`.
    `ending` is one of the codes in `rows`; `residual` is added before it. `spread` asks for a result that the next
    product need not copy. `out` takes the result: an image, or every so many rows and columns of one.
    """
    n = len(x)
    n_panels, taps, steps, _ = weight.panels.shape
    c_out = weight.shape[0] // (2 if weight.gated else 1)
    gap = CACHE_LINE // FLOAT_BYTES if spread and c_out * FLOAT_BYTES % CACHE_WAY == 0 else 0
    y = empty((n, *out_size, c_out + gap))[..., :c_out] if out is None else out
    total = n * out_size[0] * out_size[1]
    if total == 0:
        return y
    plan = plan_matmul(total, n_panels, taps, steps, weight.form, threads())
    gathered = is_gathered(taps, steps, weight.form)
    pitch, y_pitch = distance(x), distance(y)
    y_gap = 0 if out is None else y.strides[1] - out_size[1] * y_pitch
    view = View(pitch, y_pitch, y_gap, weight.shape[3] if len(weight.shape) == 4 else 1, stride, top, left)
    copied = int(not gathered and (pitch % CACHE_WAY == 0 or weight.form != FLOAT32))
    added = NO_RESIDUAL
    if residual is not None:
        added, ending = residual.reshape(-1), WITH_RESIDUAL[ending]
    block = Block(plan.block_rows, plan.depth, int(gathered), copied, ending)
    work = total * weight.panels.size
    run(KERNELS[weight.form], plan.units, work, plan.scratch, x, weight.panels, bias, added, y, plan.cuts, view, block)
    return y
