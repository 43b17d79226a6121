r"""Attention by blocks of queries and keys: the matrix of all scores never exists.

For a block of queries, the keys come in blocks. With the largest score so far $m$, the sum of exponentials so far $l$
and the output so far $O$ (not yet divided by $l$), a block with scores $S$ changes them to

$$m' = \max(m, \max S), \quad P = e^{S - m'}, \quad l' = l\, e^{m - m'} + \sum P, \quad O' = O\, e^{m - m'} + P V.$$

Why it is fast: scores live and die in the level-2 cache, so memory grows with the tokens and not with their square;
both products run through the register tile of `tile.py` on keys and values packed once a head; the exponential is a
polynomial on vectors.

Error: as of softmax in float32 (each weight within about 3e-7 of itself, plus the rounding of the scores themselves).

Milakov and Gimelshein 2018, arXiv 1805.02867 (the running softmax); Rabe and Staats 2021, arXiv 2112.05682; Dao et
al. 2022, arXiv 2205.14135.
"""

from __future__ import annotations

import math

import numpy as np

from tinyldm.errors import InputError
from tinyldm.kernels.arrays import activations
from tinyldm.kernels.compile import kernel
from tinyldm.kernels.matmul import BLOCK_DEPTH, TILE_COLUMNS, TILE_ROWS, ceil_div, even_blocks
from tinyldm.kernels.pool import aligned, run
from tinyldm.kernels.rows import copy_row, exp_row, put_address, row_maximum, scaled_row, zero_row
from tinyldm.kernels.simd import address, next_unit
from tinyldm.kernels.tile import multiply_tile

BLOCK_QUERIES = 96
BLOCK_KEYS = 256


@kernel(
    "void(int64[::1], int64, float32[::1], float32[:,:,::1], float32[:,:,::1], int64, float32, float32[:,:,:,::1],"
    " float32[:,:,:,::1])"
)
def pack_kernel(counter, units, scratch, k, v, heads, scale, k_panels, v_panels):  # type: ignore[no-untyped-def]
    """Units: a panel of keys of one head, then their values. Scaled keys transposed, values by panels of channels.

    k_panels (N*heads, panels of keys, d, TILE_COLUMNS), v_panels (N*heads, panels of channels, keys, TILE_COLUMNS).
    """
    _, keys, channels = k.shape
    d, d_v = channels // heads, v.shape[2] // heads
    key_panels, value_panels = k_panels.shape[1], v_panels.shape[1]
    while True:
        unit = next_unit(address(counter))
        if unit >= units:
            break
        head, panel = unit // key_panels, unit % key_panels
        n, h = head // heads, head % heads
        first = panel * TILE_COLUMNS
        count = min(TILE_COLUMNS, keys - first)
        packed = k_panels[head, panel]
        for j in range(TILE_COLUMNS):
            for c in range(d):
                packed[c, j] = k[n, first + j, h * d + c] * scale if j < count else np.float32(0)
        for p in range(value_panels):
            column = p * TILE_COLUMNS
            width = min(TILE_COLUMNS, d_v - column)
            for j in range(count):
                row = address(v_panels) + ((head * value_panels + p) * keys + first + j) * TILE_COLUMNS * 4
                copy_row(address(v) + ((n * keys + first + j) * heads * d_v + h * d_v + column) * 4, row, width)
                zero_row(row + width * 4, TILE_COLUMNS - width)


@kernel(
    "void(int64[::1], int64, float32[::1], float32[:,:,::1], float32[:,:,:,::1], float32[:,:,:,::1], float32[:,::1],"
    " int64, int64, int64, int64, int64, float32[:,:,::1])"
)
def attention_kernel(  # type: ignore[no-untyped-def]
    counter, units, scratch, q, k_panels, v_panels, mask, mask_sample, mask_head, heads, block, d_v, y
):  # fmt: skip
    """Units: blocks of queries (fastest) of one head.

    The mask's rows of head h of sample n start at n * mask_sample + h * mask_head; a mask without columns is none.
    """
    _, queries, channels = q.shape
    _, key_panels, d, _ = k_panels.shape
    _, value_panels, keys, _ = v_panels.shape
    blocks = (queries + block - 1) // block
    width = value_panels * TILE_COLUMNS

    # This thread's memory, in float32 values: scores, outputs, and per query the maximum, the sum and a factor.
    out = block * BLOCK_KEYS
    largest = out + block * width
    total = largest + block
    factor = total + block
    memory = address(scratch)
    table = memory + (factor + block) * 4 // 8 * 8 + 8  # addresses of q's rows, then of the scores' rows
    for i in range(block):
        put_address(table + (block + i) * 8, memory + i * BLOCK_KEYS * 4)

    while True:
        unit = next_unit(address(counter))
        if unit >= units:
            break
        head, first = unit // blocks, unit % blocks * block
        n, h = head // heads, head % heads
        count = min(block, queries - first)
        filled = (count + TILE_ROWS - 1) // TILE_ROWS * TILE_ROWS
        for i in range(filled):
            row = n * queries + first + min(i, count - 1)
            put_address(table + i * 8, address(q) + (row * channels + h * d) * 4)
            scratch[largest + i], scratch[total + i] = -np.inf, 0

        for first_key in range(0, keys, BLOCK_KEYS):
            some = min(BLOCK_KEYS, keys - first_key)
            for p in range((some + TILE_COLUMNS - 1) // TILE_COLUMNS):
                packed = address(k_panels) + (head * key_panels + first_key // TILE_COLUMNS + p) * d * TILE_COLUMNS * 4
                for c in range(0, d, BLOCK_DEPTH):
                    for i in range(0, filled, TILE_ROWS):
                        multiply_tile(
                            table + i * 8,
                            c * 4,
                            packed + c * TILE_COLUMNS * 4,
                            memory + (i * BLOCK_KEYS + p * TILE_COLUMNS) * 4,
                            BLOCK_KEYS * 4,
                            min(BLOCK_DEPTH, d - c),
                            c,
                        )
            for i in range(count):
                row = memory + i * BLOCK_KEYS * 4
                if mask.shape[1] > 0:
                    scratch[factor] = 1
                    place = n * mask_sample + h * mask_head + first + i
                    scaled_row(address(mask) + (place * keys + first_key) * 4, row, memory + factor * 4, some, 1)
                before = scratch[largest + i]
                now = max(before, row_maximum(row, some))
                scratch[largest + i] = now
                scratch[factor] = 0 if now == -np.inf else now  # everything masked so far: all weights are 0
                fresh = exp_row(row, row, memory + factor * 4, some)
                if now > before:  # what was gathered so far shrinks
                    scratch[factor + 1] = before
                    shrink = exp_row(memory + (factor + 1) * 4, memory + (factor + 1) * 4, memory + factor * 4, 1)
                    scratch[total + i] *= shrink
                    if first_key > 0:
                        scaled_row(
                            memory + (out + i * width) * 4,
                            memory + (out + i * width) * 4,
                            memory + (factor + 1) * 4,
                            width,
                            0,
                        )
                scratch[total + i] += fresh
            for p in range(value_panels):
                packed = address(v_panels) + ((head * value_panels + p) * keys + first_key) * TILE_COLUMNS * 4
                for i in range(0, filled, TILE_ROWS):
                    multiply_tile(
                        table + (block + i) * 8,
                        0,
                        packed,
                        memory + (out + i * width + p * TILE_COLUMNS) * 4,
                        width * 4,
                        some,
                        first_key,
                    )

        for i in range(count):
            scratch[factor] = np.float32(1) / scratch[total + i]
            row = n * queries + first + i
            scaled_row(
                memory + (out + i * width) * 4,
                address(y) + (row * heads + h) * d_v * 4,
                memory + factor * 4,
                d_v,
                0,
            )


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
    y = np.empty((n, queries, v.shape[2]), np.float32)
    if y.size == 0:
        return y
    q, k, v = (activations(a, "attention") for a in (q, k, v))

    key_panels, value_panels = ceil_div(keys, TILE_COLUMNS), ceil_div(d_v, TILE_COLUMNS)
    k_panels = aligned(n * heads * key_panels * d * TILE_COLUMNS).reshape(n * heads, key_panels, d, TILE_COLUMNS)
    v_panels = aligned(n * heads * value_panels * keys * TILE_COLUMNS).reshape(n * heads, value_panels, keys, -1)
    factor = np.float32(1 / math.sqrt(d) if scale is None else scale)
    run(pack_kernel, n * heads * key_panels, 16 * (k.size + v.size), 0, k, v, heads, factor, k_panels, v_panels)

    rows = np.zeros((1, 0), np.float32)
    mask_sample = mask_head = 0
    if mask is not None:
        while mask.ndim < 4:
            mask = mask[None]
        mask = np.broadcast_to(mask, (*mask.shape[:2], queries, keys))
        mask_head = queries if mask.shape[1] > 1 else 0
        mask_sample = mask.shape[1] * queries if mask.shape[0] > 1 else 0
        rows = np.ascontiguousarray(mask, np.float32).reshape(-1, keys)
    block = even_blocks(queries, BLOCK_QUERIES, TILE_ROWS)
    width = value_panels * TILE_COLUMNS
    scratch = block * (BLOCK_KEYS + width + 3 + 4) + 16 + 4 * TILE_ROWS
    units = n * heads * ceil_div(queries, block)
    run(
        attention_kernel,
        units,
        n * queries * keys * (channels + v.shape[2] + 16 * heads),
        scratch,
        q,
        k_panels,
        v_panels,
        rows,
        mask_sample,
        mask_head,
        heads,
        block,
        d_v,
        y,
    )
    return y
