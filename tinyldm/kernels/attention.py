r"""Attention by blocks of queries and keys: the matrix of all scores never exists.

For a block of queries, the keys come in blocks. With the largest score so far $m$, the sum of exponentials so far $l$
and the output so far $O$ (not yet divided by $l$), a block with scores $S$ changes them to

$$m' = \max(m, \max S), \quad P = e^{S - m'}, \quad l' = l\, e^{m - m'} + \sum P, \quad O' = O\, e^{m - m'} + P V.$$

Why it is fast: scores live and die in the level-1 and level-2 caches, so memory grows with the tokens and not with
their square; both products run through the register tile of `tile.py`; the exponential is a polynomial on vectors. All
of it is computed **transposed**, with a panel of queries side by side in the lanes of the vectors:

$$S^{\mathsf T} = K\, Q^{\mathsf T}, \qquad O^{\mathsf T} = V^{\mathsf T} P^{\mathsf T}.$$

So the scores come out of the first product in just the order in which the second wants its packed side; maxima and
sums run down the lanes, with no reduction across them; keys are read where they lie; and the 40 channels of a head
in Stable Diffusion 1.5 are rows of a tile (14 + 14 + 8 + 4), not columns that would be filled up to 64.

Error: as of softmax in float32 (each weight within about 3e-7 of itself, plus the rounding of the scores themselves).

Milakov and Gimelshein 2018, arXiv 1805.02867 (the running softmax); Rabe and Staats 2021, arXiv 2112.05682; Dao et
al. 2022, arXiv 2205.14135.
"""

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir

from tinyldm.errors import InputError
from tinyldm.kernels.arrays import distance, token_rows
from tinyldm.kernels.buffers import empty
from tinyldm.kernels.compile import kernel
from tinyldm.kernels.formulas import exp_negative
from tinyldm.kernels.matmul import TILE_COLUMNS, TILE_ROWS, ceil_div, even_blocks
from tinyldm.kernels.pool import run
from tinyldm.kernels.rows import put_address
from tinyldm.kernels.simd import FLOAT_BYTES, Lanes, Value, address, constant, emitted, loop, next_unit, target
from tinyldm.kernels.tile import multiply_rows
from tinyldm.kernels.transpose import transpose

BLOCK_QUERIES = 128  # that share the keys and values a thread has in its level-2 cache
BLOCK_KEYS = 224 // TILE_ROWS * TILE_ROWS  # their scores with a panel of queries fit the level-1 cache
DEPTH = 192  # channels of one register tile
WIDTH = target().width
NO_ROWS = np.zeros(0, np.float32)

# What a thread knows of each panel of queries: three rows of TILE_COLUMNS values.
LARGEST, TOTAL, FACTOR = range(3)
ROW_BYTES = TILE_COLUMNS * FLOAT_BYTES


# A panel: TILE_COLUMNS queries side by side, one row after the other ------------------------------------------------


def _places(lanes: Lanes) -> range:
    """Byte offsets of the vectors of a panel's row."""
    return range(0, ROW_BYTES, lanes.width * FLOAT_BYTES)


@emitted(3)
def soften_panel(builder: ir.IRBuilder, scores: ir.Value, count: ir.Value, state: ir.Value) -> None:
    """scores = exp(scores - largest), in place, where `largest` of each query takes `count` more scores into account.

    Leaves in `state` the new largest score, the sum of all exponentials, and by what factor earlier outputs shrink. A
    query of which all scores are -inf so far has finite weights that the next finite score brings to nothing.
    """
    lanes = Lanes(builder, target().width)
    at = _places(lanes)

    def row(index: ir.Value) -> ir.Value:
        return builder.add(scores, builder.mul(index, constant(ROW_BYTES)))

    def known(what: int) -> list[Value]:
        return [lanes.load(state, what * ROW_BYTES + place) for place in at]

    def largest(index: ir.Value, *now: Value) -> list[Value]:
        return [lanes.maximum(lanes.load(row(index), place), m) for m, place in zip(now, at, strict=True)]

    before = known(LARGEST)
    now = loop(builder, constant(0), count, 1, before, largest)
    nothing = lanes.constant(float("-inf"))
    finite = [lanes.where(">", m, nothing, m, lanes.constant(0.0)) for m in now]

    def soften(index: ir.Value, *totals: Value) -> list[Value]:
        sums = []
        for total, m, place in zip(totals, finite, at, strict=True):
            weight = exp_negative(lanes, lanes.load(row(index), place) - m)
            lanes.store(weight, row(index), place)
            sums.append(total + weight)
        return sums

    fresh = loop(builder, constant(0), count, 1, [lanes.constant(0.0)] * len(at), soften)
    for i, total in enumerate(known(TOTAL)):
        factor = exp_negative(lanes, before[i] - finite[i])
        for what, value in ((LARGEST, now[i]), (TOTAL, lanes.fma(total, factor, fresh[i])), (FACTOR, factor)):
            lanes.store(value, state, what * ROW_BYTES + at[i])


@emitted(3)
def shrink_panel(builder: ir.IRBuilder, panel: ir.Value, count: ir.Value, factors: ir.Value) -> None:
    """Multiply each of `count` rows of a panel by the row at `factors`."""
    lanes = Lanes(builder, target().width)
    by = [lanes.load(factors, place) for place in _places(lanes)]

    def body(index: ir.Value) -> list[Value]:
        row = builder.add(panel, builder.mul(index, constant(ROW_BYTES)))
        for factor, place in zip(by, _places(lanes), strict=True):
            lanes.store(lanes.load(row, place) * factor, row, place)
        return []

    loop(builder, constant(0), count, 1, [], body)


@emitted(4)
def add_mask(builder: ir.IRBuilder, scores: ir.Value, count: ir.Value, mask: ir.Value, mask_stride: ir.Value) -> None:
    """Add `count` rows of the mask, `mask_stride` bytes apart, to the rows of a panel."""
    lanes = Lanes(builder, target().width)

    def body(index: ir.Value) -> list[Value]:
        row = builder.add(scores, builder.mul(index, constant(ROW_BYTES)))
        more = builder.add(mask, builder.mul(index, mask_stride))
        for place in _places(lanes):
            lanes.store(lanes.load(row, place) + lanes.load(more, place), row, place)
        return []

    loop(builder, constant(0), count, 1, [], body)


# The kernels ---------------------------------------------------------------------------------------------------------


@kernel("void(int64[::1], int64, float32[::1], float32[:,:,:], int64, int64, float32[:,:,::1])")
def transpose_kernel(counter, units, scratch, v, pitch, heads, v_rows):  # type: ignore[no-untyped-def]
    """Units: samples by heads. v (N, keys, heads*d_v) to v_rows (N*heads, d_v, row), keys along the last axis.

    `pitch` is the bytes from token to token of v.
    """
    keys, d_v = v.shape[1], v_rows.shape[1]
    for i in range(WIDTH):
        scratch[i] = 1
    while True:
        unit = next_unit(address(counter))
        if unit >= units:
            break
        sample, head = unit // heads, unit % heads
        source = address(v) + sample * keys * pitch + head * d_v * 4
        rows = address(v_rows) + unit * d_v * v_rows.shape[2] * 4
        transpose(source, pitch, keys, rows, v_rows.shape[2] * 4, d_v, address(scratch), 0)


@kernel(
    "void(int64[::1], int64, float32[::1], float32[:,:,:], int64, float32[:,:,:], int64, float32[:,:,:], int64,"
    " int64, float32[::1], float32[:,:,::1], int64, int64, int64, float32, int64, float32[:,:,::1])"
)
def attention_kernel(  # type: ignore[no-untyped-def]
    counter, units, scratch, q, q_pitch, k, k_pitch, v, v_pitch, row, v_rows, mask, mask_sample, mask_head, heads,
    scale, block, y,
):  # fmt: skip
    """Units: blocks of queries (fastest) of one head.

    Pitches are the bytes from token to token. v_rows are the values transposed, in rows of `row` numbers; if there are
    none, each unit makes its own. The mask (any, keys, queries) of head h of sample n is
    mask[n * mask_sample + h * mask_head]; one without keys is none, and the panels that it does not have are like its
    first.
    """
    queries, keys, d, d_v = q.shape[1], k.shape[1], q.shape[2] // heads, y.shape[2] // heads
    blocks = (queries + block - 1) // block
    d_v_rows = (d_v + TILE_ROWS - 1) // TILE_ROWS * TILE_ROWS

    # This thread's memory, as places in `scratch`: scores, then of each panel its queries, outputs and state.
    scaled = BLOCK_KEYS * TILE_COLUMNS
    out = scaled + block * d
    state = out + block * d_v_rows
    factor = state + 3 * block
    memory = address(scratch)
    ones = factor + WIDTH
    key_table = memory + (ones + WIDTH) * 4
    value_table = key_table + (BLOCK_KEYS + TILE_ROWS) * 8
    own_rows = value_table + (d_v_rows + TILE_ROWS) * 8
    for i in range(WIDTH):
        scratch[factor + i] = scale
        scratch[ones + i] = 1

    while True:
        unit = next_unit(address(counter))
        if unit >= units:
            break
        head, first = unit // blocks, unit % blocks * block
        n, h = head // heads, head % heads
        count = min(block, queries - first)
        panels = (count + TILE_COLUMNS - 1) // TILE_COLUMNS

        values = address(v_rows) + head * d_v * row * 4
        if len(v_rows) == 0:
            values = own_rows
            start = address(v) + n * keys * v_pitch + h * d_v * 4
            transpose(start, v_pitch, keys, values, row * 4, d_v, memory + ones * 4, 0)

        for p in range(panels):
            some = min(TILE_COLUMNS, count - p * TILE_COLUMNS)
            start = address(q) + (n * queries + first + p * TILE_COLUMNS) * q_pitch + h * d * 4
            panel = scaled + p * d * TILE_COLUMNS
            if some < TILE_COLUMNS:
                for i in range(d * TILE_COLUMNS):  # what fills the last panel
                    scratch[panel + i] = 0
            transpose(start, q_pitch, some, memory + panel * 4, ROW_BYTES, d, memory + factor * 4, 0)
            for lane in range(TILE_COLUMNS):
                scratch[state + (p * 3 + LARGEST) * TILE_COLUMNS + lane] = -np.inf
                scratch[state + (p * 3 + TOTAL) * TILE_COLUMNS + lane] = 0

        for first_key in range(0, keys, BLOCK_KEYS):
            some = min(BLOCK_KEYS, keys - first_key)
            for i in range(BLOCK_KEYS):
                put_address(
                    key_table + i * 8, address(k) + (n * keys + first_key + min(i, some - 1)) * k_pitch + h * d * 4
                )
            for c in range(d_v_rows):
                put_address(value_table + c * 8, values + (min(c, d_v - 1) * row + first_key) * 4)
            for p in range(panels):
                panel_state = memory + (state + p * 3 * TILE_COLUMNS) * 4
                panel_out = memory + (out + p * d_v_rows * TILE_COLUMNS) * 4
                for c in range(0, d, DEPTH):
                    packed = memory + (scaled + (p * d + c) * TILE_COLUMNS) * 4
                    depth = min(DEPTH, d - c)
                    multiply_rows(key_table, c * 4, packed, memory, ROW_BYTES, depth, c, some, packed)
                if mask.shape[1] > 0:
                    column = first + p * TILE_COLUMNS
                    if column >= mask.shape[2]:
                        column = 0
                    at = (((n * mask_sample + h * mask_head) * keys + first_key) * mask.shape[2] + column) * 4
                    add_mask(memory, some, address(mask) + at, mask.shape[2] * 4)
                soften_panel(memory, some, panel_state)
                if first_key > 0:
                    shrink_panel(panel_out, d_v, panel_state + FACTOR * ROW_BYTES)
                multiply_rows(value_table, 0, memory, panel_out, ROW_BYTES, some, first_key, d_v, memory)

        for p in range(panels):
            some = min(TILE_COLUMNS, count - p * TILE_COLUMNS)
            total = state + (p * 3 + TOTAL) * TILE_COLUMNS
            for lane in range(TILE_COLUMNS):
                scratch[total + lane] = np.float32(1) / scratch[total + lane]
            start = address(y) + (((n * queries + first + p * TILE_COLUMNS) * heads + h) * d_v) * 4
            panel_out = memory + (out + p * d_v_rows * TILE_COLUMNS) * 4
            transpose(panel_out, ROW_BYTES, d_v, start, heads * d_v * 4, some, memory + total * 4, 4)


def _mask_columns(mask: np.ndarray, shape: tuple[int, int, int, int]) -> tuple[np.ndarray, int, int]:
    """The mask as `(any, keys, whole panels of queries)`, and its steps from sample to sample and head to head.

    `shape` is what it must broadcast to: samples, heads, queries, keys.
    """
    whole = (1,) * (4 - mask.ndim) + mask.shape
    if len(whole) != 4 or any(size not in (1, wanted) for size, wanted in zip(whole, shape, strict=True)):
        raise InputError(f"attention: a mask of shape {mask.shape} does not broadcast to {shape}")
    samples, heads, rows, _ = whole
    _, _, queries, keys = shape
    filled = TILE_COLUMNS if rows == 1 else queries  # one row for all queries fills one panel
    columns = np.zeros((samples, heads, keys, ceil_div(filled, TILE_COLUMNS) * TILE_COLUMNS), np.float32)
    columns[..., :filled] = mask.reshape(whole).swapaxes(-1, -2)
    return columns.reshape(-1, keys, columns.shape[-1]), heads if samples > 1 else 0, int(heads > 1)


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    heads: int,
    mask: np.ndarray | None = None,
    scale: float | None = None,
) -> np.ndarray:
    """`softmax(scale * q k^T + mask) v` in each head: `(N, L_q, C), (N, L_k, C), (N, L_k, C_v) -> (N, L_q, C_v)`."""
    n, queries, channels = q.shape
    keys = k.shape[1]
    if heads < 1 or channels % heads or v.shape[2] % heads:
        raise InputError(f"attention: {heads} heads do not divide the channels of q {q.shape} and v {v.shape}")
    if k.shape != (n, keys, channels) or v.shape[:2] != (n, keys):
        raise InputError(f"attention: the shapes of q {q.shape}, k {k.shape} and v {v.shape} do not fit together")
    d, d_v = channels // heads, v.shape[2] // heads
    y = empty((n, queries, v.shape[2]))
    if y.size == 0:
        return y
    q, k, v = (token_rows(a, "attention") for a in (q, k, v))

    block = even_blocks(queries, BLOCK_QUERIES, TILE_COLUMNS)
    blocks = ceil_div(queries, block)
    row = (keys * FLOAT_BYTES // 64 | 1) * 16 + 16  # rows of values that begin in different sets of the cache
    v_rows, own = NO_ROWS, d_v * row
    if blocks > 1:
        v_rows, own = empty((n * heads, d_v, row)), 0
        run(transpose_kernel, n * heads, v.size, WIDTH, v, distance(v), heads, v_rows)
    columns, mask_sample, mask_head = np.zeros((1, 0, 0), np.float32), 0, 0
    if mask is not None:
        columns, mask_sample, mask_head = _mask_columns(mask, (n, heads, queries, keys))
    d_v_rows = ceil_div(d_v, TILE_ROWS) * TILE_ROWS
    tables = BLOCK_KEYS + d_v_rows + 2 * TILE_ROWS
    run(
        attention_kernel,
        n * heads * blocks,
        n * queries * keys * (channels + v.shape[2] + 16 * heads),
        BLOCK_KEYS * TILE_COLUMNS + block * (d + d_v_rows + 3) + 2 * WIDTH + 2 * tables + own,
        q,
        distance(q),
        k,
        distance(k),
        v,
        distance(v),
        row,
        v_rows.reshape(-1),
        columns,
        mask_sample,
        mask_head,
        heads,
        np.float32(1 / math.sqrt(d) if scale is None else scale),
        block,
        y,
    )
    return y
