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
from typing import NamedTuple

import numpy as np
from llvmlite import ir

from tinyldm.errors import InputError
from tinyldm.kernels.arrays import distance, token_rows
from tinyldm.kernels.buffers import empty
from tinyldm.kernels.compile import Images, Kernel, Numbers, Row, Rows, Spaced, Stage, stage
from tinyldm.kernels.formulas import exp2_negative
from tinyldm.kernels.matmul import TILE_ROWS, ceil_div, even_blocks
from tinyldm.kernels.packing import ROW_BYTES, TILE_COLUMNS
from tinyldm.kernels.pool import run
from tinyldm.kernels.rounding import (
    ROW_MULTIPLE,
    VALUES_A_STEP,
    multiply_rounded,
    pack_panel,
    pack_row,
    steps_of,
    steps_within,
)
from tinyldm.kernels.rows import put_address, zero_row
from tinyldm.kernels.simd import FLOAT_BYTES, Lanes, Value, address, constant, emitted, loop, next_unit, repeat, target
from tinyldm.kernels.tile import multiply_rows
from tinyldm.kernels.tiles import begin_products, end_products
from tinyldm.kernels.transpose import transpose
from tinyldm.ops.attention import head_sizes

BLOCK_QUERIES = 128  # that share the keys and values a thread has in its level-2 cache
BLOCK_KEYS = 224 // TILE_ROWS * TILE_ROWS  # their scores with a panel of queries fit the level-1 cache
DEPTH = 192  # channels of one register tile
WIDTH = target().width
CHUNK = 1 << 14  # values that a thread packs at a time, about
LOG2_E = math.log2(math.e)
NO_ROWS = np.zeros(0, np.float32)

# What a thread knows of each panel of queries: three rows of TILE_COLUMNS values.
LARGEST, TOTAL, FACTOR = range(3)


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
            weight = exp2_negative(lanes, (lanes.load(row(index), place) - m) * LOG2_E)
            lanes.store(weight, row(index), place)
            sums.append(total + weight)
        return sums

    fresh = loop(builder, constant(0), count, 1, [lanes.constant(0.0)] * len(at), soften)
    for i, total in enumerate(known(TOTAL)):
        factor = exp2_negative(lanes, (before[i] - finite[i]) * LOG2_E)
        for what, value in ((LARGEST, now[i]), (TOTAL, lanes.fma(total, factor, fresh[i])), (FACTOR, factor)):
            lanes.store(value, state, what * ROW_BYTES + at[i])


@emitted(3)
def shrink_panel(builder: ir.IRBuilder, panel: ir.Value, count: ir.Value, factors: ir.Value) -> None:
    """Multiply each of `count` rows of a panel by the row at `factors`."""
    lanes = Lanes(builder, target().width)
    by = [lanes.load(factors, place) for place in _places(lanes)]

    def body(index: ir.Value) -> None:
        row = builder.add(panel, builder.mul(index, constant(ROW_BYTES)))
        for factor, place in zip(by, _places(lanes), strict=True):
            lanes.store(lanes.load(row, place) * factor, row, place)

    repeat(builder, constant(0), count, 1, body)


@emitted(4)
def add_mask(builder: ir.IRBuilder, scores: ir.Value, count: ir.Value, mask: ir.Value, mask_stride: ir.Value) -> None:
    """Add `count` rows of the mask, `mask_stride` bytes apart, to the rows of a panel."""
    lanes = Lanes(builder, target().width)

    def body(index: ir.Value) -> None:
        row = builder.add(scores, builder.mul(index, constant(ROW_BYTES)))
        more = builder.add(mask, builder.mul(index, mask_stride))
        for place in _places(lanes):
            lanes.store(lanes.load(row, place) + lanes.load(more, place), row, place)

    repeat(builder, constant(0), count, 1, body)


# The kernels ---------------------------------------------------------------------------------------------------------


def turning(rounded: bool) -> Stage:
    """The stage that transposes values."""

    @stage
    def turn(source: int, pitch: int, keys: int, rows: int, row_bytes: int, d_v: int, ones: int) -> None:
        """The values of a head, transposed; rounded, as one side of a product."""
        transpose(source, pitch, keys, rows, row_bytes, d_v, ones, 0)
        if rounded:
            for row in range(d_v):
                pack_row(rows + row * row_bytes, rows + row * row_bytes, keys, steps_within(keys))

    return turn


def transpose_kernel(rounded: bool) -> Kernel:
    """The kernel that transposes all values."""
    turn = turning(rounded)

    def kernel(counter: Numbers, units: int, scratch: Row, v: Spaced, pitch: int, heads: int, v_rows: Images) -> None:
        """Units: samples by heads. v (N, keys, heads*d_v) to v_rows (N*heads + 1, d_v, row), keys along the last axis.

        `pitch` is the bytes from token to token of v.
        """
        keys, d_v = v.shape[1], v_rows.shape[1]
        for i in range(WIDTH):
            scratch[i] = 1
        unit = next_unit(counter)
        while unit < units:
            sample, head = unit // heads, unit % heads
            source = address(v) + sample * keys * pitch + head * d_v * 4
            rows = address(v_rows) + unit * d_v * v_rows.shape[2] * 4
            turn(source, pitch, keys, rows, v_rows.shape[2] * 4, d_v, address(scratch))
            unit = next_unit(counter)

    return Kernel(kernel, f"transpose_kernel_{int(rounded)}")


@Kernel
def pack_kernel(
    counter: Numbers, units: int, scratch: Row, k: Spaced, pitch: int, heads: int, chunk: int, packed: Rows
) -> None:
    """Units: chunks of tokens. Each head's channels rounded and packed, as one side of a product."""
    tokens, d = k.shape[0] * k.shape[1], k.shape[2] // heads
    steps = steps_within(d)
    unit = next_unit(counter)
    while unit < units:
        for token in range(unit * chunk, min(tokens, (unit + 1) * chunk)):
            for head in range(heads):
                to = address(packed) + (token * heads + head) * steps * 4
                pack_row(address(k) + token * pitch + head * d * 4, to, d, steps)
        unit = next_unit(counter)


class Tokens(NamedTuple):
    """Bytes from token to token of queries, keys and values, and of a row of transposed values."""

    q: int
    k: int
    v: int
    v_row: int


class Masked(NamedTuple):
    """Where the mask of head h of sample n is: `mask[n * sample + h * head]`."""

    sample: int
    head: int


class Sizes(NamedTuple):
    """What a thread works on at a time: one head, a block of queries."""

    heads: int
    d: int
    d_v: int
    d_v_rows: int  # d_v in whole register tiles
    block: int
    steps: int  # of the product of queries and keys
    q_rows: int  # of a panel of queries


class Memory(NamedTuple):
    """A thread's own memory, by addresses: the scores, then of each panel its queries, outputs and state.

    `scale` and `ones` are a vector of equal values each; the tables hold the addresses of keys and of rows of values.
    """

    scores: int
    queries: int
    out: int
    state: int
    scale: int
    ones: int
    key_table: int
    value_table: int
    v_rows: int


@stage
def _memory(scratch: np.ndarray, sizes: Sizes, scale: float) -> Memory:
    queries = BLOCK_KEYS * TILE_COLUMNS
    out = queries + sizes.block * sizes.q_rows
    state = out + sizes.block * sizes.d_v_rows
    factor = state + 3 * sizes.block
    scratch[factor : factor + WIDTH] = scale
    scratch[factor + WIDTH : factor + 2 * WIDTH] = 1
    start = address(scratch)
    key_table = start + (factor + 2 * WIDTH) * 4
    value_table = key_table + (BLOCK_KEYS + TILE_ROWS) * 8
    v_rows = (value_table + (sizes.d_v_rows + TILE_ROWS) * 8 + 63) // 64 * 64
    places = start + queries * 4, start + out * 4, start + state * 4, start + factor * 4
    return Memory(start, *places, start + (factor + WIDTH) * 4, key_table, value_table, v_rows)


def beginning(rounded: bool) -> Stage:
    """The stage that lays out queries."""

    @stage
    def begin(scratch: np.ndarray, sizes: Sizes, memory: Memory, q: int, pitch: int, count: int) -> None:
        """Lay the `count` queries at q side by side, panel by panel, and forget what was known of earlier ones."""
        for p in range((count + TILE_COLUMNS - 1) // TILE_COLUMNS):
            some = min(TILE_COLUMNS, count - p * TILE_COLUMNS)
            panel = memory.queries + p * sizes.q_rows * ROW_BYTES
            if some < TILE_COLUMNS:
                zero_row(panel, sizes.d * TILE_COLUMNS)  # what fills the last panel
            transpose(q + p * TILE_COLUMNS * pitch, pitch, some, panel, ROW_BYTES, sizes.d, memory.scale, 0)
            if rounded:
                pack_panel(panel, sizes.d, sizes.steps)
            first = (memory.state - memory.scores) // 4 + p * 3 * TILE_COLUMNS
            scratch[first + LARGEST * TILE_COLUMNS : first + (LARGEST + 1) * TILE_COLUMNS] = -np.inf
            scratch[first + TOTAL * TILE_COLUMNS : first + (TOTAL + 1) * TILE_COLUMNS] = 0

    return begin


def attending(rounded: bool) -> Stage:
    """The stage of the two products and the softmax between them."""

    @stage
    def attend(sizes: Sizes, memory: Memory, p: int, keys: int, first: int, mask: int, mask_pitch: int) -> None:
        """Take a block of keys into account for the queries of panel p: `first` is how many came before."""
        scores, state = memory.scores, memory.state + p * 3 * ROW_BYTES
        out = memory.out + p * sizes.d_v_rows * ROW_BYTES
        for c in range(0, sizes.steps, DEPTH):
            packed = memory.queries + (p * sizes.q_rows + c) * ROW_BYTES
            depth = min(DEPTH, sizes.steps - c)
            if rounded:
                multiply_rounded(memory.key_table, c * 4, packed, scores, ROW_BYTES, depth, c, keys, packed)
            else:
                multiply_rows(memory.key_table, c * 4, packed, scores, ROW_BYTES, depth, c, keys, packed)
        if mask_pitch > 0:
            add_mask(scores, keys, mask, mask_pitch)
        soften_panel(scores, keys, state)
        if first > 0:
            shrink_panel(out, sizes.d_v, state + FACTOR * ROW_BYTES)
        if rounded:
            steps = steps_within(keys)
            pack_panel(scores, keys, steps)
            multiply_rounded(memory.value_table, 0, scores, out, ROW_BYTES, steps, first, sizes.d_v, scores)
        else:
            multiply_rows(memory.value_table, 0, scores, out, ROW_BYTES, keys, first, sizes.d_v, scores)

    return attend


@stage
def _finish(scratch: np.ndarray, sizes: Sizes, memory: Memory, y: int, count: int) -> None:
    """Divide the outputs by the sums of weights and write them; a query that saw no key has none: 0."""
    pitch = sizes.heads * sizes.d_v * 4
    for p in range((count + TILE_COLUMNS - 1) // TILE_COLUMNS):
        state = (memory.state - memory.scores) // 4 + p * 3 * TILE_COLUMNS
        total, largest = state + TOTAL * TILE_COLUMNS, state + LARGEST * TILE_COLUMNS
        for lane in range(TILE_COLUMNS):
            blind = scratch[largest + lane] == -np.inf and scratch[total + lane] == scratch[total + lane]
            scratch[total + lane] = np.float32(0) if blind else np.float32(1) / scratch[total + lane]
        panel, some = memory.out + p * sizes.d_v_rows * ROW_BYTES, min(TILE_COLUMNS, count - p * TILE_COLUMNS)
        factors = memory.scores + total * 4
        transpose(panel, ROW_BYTES, sizes.d_v, y + p * TILE_COLUMNS * pitch, pitch, some, factors, 4)


def attention_kernel(rounded: bool) -> Kernel:
    """The kernel for products in float32 or of bfloat16 values: each is compiled when it is first used."""
    turn, begin, attend = turning(rounded), beginning(rounded), attending(rounded)

    def kernel(
        counter: Numbers, units: int, scratch: Row, q: Spaced, k: Spaced, v: Spaced, v_rows: Row, mask: Images,
        y: Images, tokens: Tokens, masked: Masked, sizes: Sizes, scale: float,
    ) -> None:  # fmt: skip
        """Units: blocks of queries (fastest) of one head.

        `v_rows` are the values transposed, in rows of `tokens.v_row` bytes; if there are none, each unit makes its own.
        A mask (any, keys, queries) without keys is none, and the panels that it does not have are like its first.
        """
        queries, keys = q.shape[1], k.shape[1]
        blocks = (queries + sizes.block - 1) // sizes.block
        memory = _memory(scratch, sizes, scale)
        mask_pitch = mask.shape[2] * 4 if mask.shape[1] > 0 else 0
        k_head = sizes.steps * 4 if rounded else sizes.d * 4
        values_a_word = VALUES_A_STEP if rounded else 1
        if rounded:
            begin_products()
        unit = next_unit(counter)
        while unit < units:
            head, first = unit // blocks, unit % blocks * sizes.block
            n, h = head // sizes.heads, head % sizes.heads
            count = min(sizes.block, queries - first)
            values = address(v_rows) + head * sizes.d_v * tokens.v_row
            if len(v_rows) == 0:
                values, start = memory.v_rows, address(v) + n * keys * tokens.v + h * sizes.d_v * 4
                turn(start, tokens.v, keys, values, tokens.v_row, sizes.d_v, memory.ones)
            begin(
                scratch, sizes, memory, address(q) + (n * queries + first) * tokens.q + h * sizes.d * 4, tokens.q, count
            )
            for first_key in range(0, keys, BLOCK_KEYS):
                some = min(BLOCK_KEYS, keys - first_key)
                start = address(k) + (n * keys + first_key) * tokens.k + h * k_head
                for i in range(BLOCK_KEYS):
                    put_address(memory.key_table + i * 8, start + min(i, some - 1) * tokens.k)
                first_value = values + first_key // values_a_word * 4
                for c in range(sizes.d_v_rows):
                    put_address(memory.value_table + c * 8, first_value + min(c, sizes.d_v - 1) * tokens.v_row)
                first_mask = address(mask) + ((n * masked.sample + h * masked.head) * keys + first_key) * mask_pitch
                for p in range((count + TILE_COLUMNS - 1) // TILE_COLUMNS):
                    column = first + p * TILE_COLUMNS
                    at = first_mask + (column if column < mask.shape[2] else 0) * 4
                    attend(sizes, memory, p, some, first_key, at, mask_pitch)
            target_row = address(y) + ((n * queries + first) * sizes.heads + h) * sizes.d_v * 4
            _finish(scratch, sizes, memory, target_row, count)
            unit = next_unit(counter)
        if rounded:
            end_products()

    return Kernel(kernel, f"attention_kernel_{int(rounded)}")


KERNELS = [(transpose_kernel(rounded), attention_kernel(rounded)) for rounded in (False, True)]


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
    return columns.reshape(samples * heads, keys, columns.shape[-1]), heads if samples > 1 else 0, int(heads > 1)


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    heads: int,
    mask: np.ndarray | None = None,
    scale: float | None = None,
    precision: str = "fast",
) -> np.ndarray:
    """`softmax(scale * q k^T + mask) v` in each head: `(N, L_q, C), (N, L_k, C), (N, L_k, C_v) -> (N, L_q, C_v)`.

    With the precision "bf16", the scaled queries, the keys, the weights and the values are rounded before the products.
    """
    d, d_v = head_sizes(q, k, v, heads)
    n, queries, keys = *q.shape[:2], k.shape[1]
    y = empty((n, queries, v.shape[2]))
    q, k, v = (token_rows(a, "attention") for a in (q, k, v))
    columns, mask_sample, mask_head = np.zeros((1, 0, 0), np.float32), 0, 0
    if mask is not None:
        columns, mask_sample, mask_head = _mask_columns(mask, (n, heads, queries, keys))
    if not y.size or not keys:
        y[:] = 0
        return y

    block = even_blocks(queries, BLOCK_QUERIES, TILE_COLUMNS)
    blocks = ceil_div(queries, block)
    row = (keys * FLOAT_BYTES // 64 | 1) * 16 + 16  # rows of values that begin in different sets of the cache
    rounded = precision == "bf16"
    multiple, (turn_values, attend_to) = ROW_MULTIPLE if rounded else TILE_ROWS, KERNELS[rounded]
    sizes = Sizes(heads, d, d_v, ceil_div(d_v, multiple) * multiple, block, d, d)
    v_rows, own = NO_ROWS, (d_v + multiple) * row
    if blocks > 1:
        v_rows, own = empty((n * heads + ceil_div(multiple, max(d_v, 1)), d_v, row)), 0
        run(turn_values, n * heads, v.size, WIDTH, v, distance(v), heads, v_rows)
    k_pitch = distance(k)
    if rounded:
        steps = steps_of(d)
        sizes = sizes._replace(steps=steps, q_rows=VALUES_A_STEP * steps)
        k, k_pitch = _packed(k, heads), heads * steps * FLOAT_BYTES
    tokens = Tokens(distance(q), k_pitch, distance(v), row * FLOAT_BYTES)
    tables = BLOCK_KEYS + sizes.d_v_rows + 2 * TILE_ROWS
    panels = BLOCK_KEYS * TILE_COLUMNS + block * (sizes.q_rows + sizes.d_v_rows + 3)
    work = n * queries * keys * (q.shape[2] + v.shape[2] + 16 * heads)
    factor = np.float32(1 / math.sqrt(max(d, 1)) if scale is None else scale)
    arrays = q, k, v, v_rows.reshape(-1), columns, y
    masked = Masked(mask_sample, mask_head)
    scratch = panels + 2 * WIDTH + 2 * tables + own + 16
    run(attend_to, n * heads * blocks, work, scratch, *arrays, tokens, masked, sizes, factor)
    return y


def _packed(k: np.ndarray, heads: int) -> np.ndarray:
    """Keys `(N, L, C)` rounded and packed, head by head, `(N, L, heads * steps)`; a product may read a tile beyond."""
    n, keys, channels = k.shape
    packed = empty((n * keys + ROW_MULTIPLE, heads * steps_of(channels // heads)))
    chunk = max(1, CHUNK // max(channels, 1))
    run(pack_kernel, ceil_div(n * keys, chunk), 8 * k.size, 0, k, distance(k), heads, chunk, packed)
    return packed[: n * keys].reshape(n, keys, packed.shape[1])
