"""The matrix product's innermost piece: a tile of C that stays in registers while K runs.

    C[0:R, 0:V*W]  (+)=  sum_k A[0:R, k] * B[k, 0:V*W]

A tile of R rows by V vectors of W values is held in R*V vector registers. For each k it takes V loads of B, R
broadcasts of A and R*V fused multiply-adds: with 6x2 vectors (AVX2) or 14x2 (AVX-512) the multiply-adds are the
bottleneck, and no value of C goes to memory before the sum is done. B comes packed: the V*W columns of one tile lie
together, k after k, so that they stream through the level-1 cache. A is read where it lies, through a table of row
addresses; so the same tile serves a linear layer (rows = tokens), a convolution (rows = pixels under one tap of the
filter, with a row of zeros where the filter hangs over the border), Winograd's element-wise products (rows = tiles)
and attention (rows = keys, then channels of the values).

While a tile is computed, the panel of B that comes next is asked for, a quarter with each of the first four tiles of a
block: weights that are read once a step lie in memory, not in a cache, and come in time without being waited for.

The last rows of a block take a lower tile, of the target's `tile_heights`: the small images deep in a UNet have four
or eight tiles in all, of which a tile of 14 rows would be mostly empty.

Each sum runs over k in order, in one chain of fused multiply-adds; from `HALVED` steps on in two, one for each half of
k, which are added at the end: an error of at most (K / 2 + 1) * 2^-24 * sum |a b|. It does not depend on where the tile
lies, on its height, or on which thread works on it.

Goto and van de Geijn 2008, "Anatomy of high-performance matrix multiplication"; the row table: Dukhan 2019, "The
indirect convolution algorithm", arXiv 1907.02129.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from llvmlite import ir

from tinyldm.kernels.simd import BYTE, FLOAT_BYTES, I64, POINTER, Lanes, Value, constant, emitted, loop, target

UNROLL = 4
PREFETCHED_LINES = 2
CACHE_LINE = 64
LEVEL_2 = 2  # the cache that the next panel is asked into; the first holds this one
HALVED = 48  # steps of k from which a sum is made of two
Product = Callable[[Lanes, Value, Value, Value], Value]  # of a, b and c: c + a b


def tile_rows_of(count: int) -> int:
    """How many rows `multiply_rows` computes for `count` of them."""
    heights = target().tile_heights
    rest = count % heights[0]
    return count - rest + (min(h for h in heights if h >= rest) if rest else 0)


def _merged(builder: ir.IRBuilder, *ways: tuple[ir.Block, Value]) -> Value:
    """The value that came along the way taken."""
    phi = builder.phi(ways[0][1].raw.type)
    for block, value in ways:
        phi.add_incoming(value.raw, block)
    return Value(ways[0][1].lanes, phi)


class Operands(NamedTuple):
    """What a product is given: addresses in bytes, and counts."""

    rows: ir.Value  # of a table of addresses, one a row of A, valid up to `tile_rows_of(count)`; one tile more is read
    a_offset: ir.Value  # bytes added to each of them
    b: ir.Value  # of the packed columns
    c: ir.Value  # of the panel, with room for `tile_rows_of(count)` rows
    c_stride: ir.Value  # the bytes from row to row of C
    depth: ir.Value  # steps of k
    accumulate: ir.Value  # 0 to overwrite C, else to add to it
    count: ir.Value  # rows
    ahead: ir.Value  # of the panel that comes next, of the same size


def _tile(builder: ir.IRBuilder, height: int, of: Operands, product: Product) -> None:
    """Emit the tile of the first `height` rows."""
    lanes = Lanes(builder, target().width)
    table = builder.inttoptr(of.rows, POINTER)

    def row_of_a(r: int) -> ir.Value:
        start = builder.load(builder.gep(table, [constant(r)], source_etype=I64), typ=I64, align=8)
        return builder.inttoptr(builder.add(start, of.a_offset), POINTER)

    a = [row_of_a(r) for r in range(height)]
    # Rows of the next tile and of C are too far apart for the processor to foresee them.
    for r in range(height):
        for line in range(PREFETCHED_LINES):
            lanes.prefetch(row_of_a(height + r), line * CACHE_LINE)
        for line in range(target().tile_columns * FLOAT_BYTES // CACHE_LINE):
            at = builder.add(builder.mul(of.c_stride, constant(r)), constant(line * CACHE_LINE))
            lanes.prefetch(of.c, at)
    packed = builder.inttoptr(of.b, POINTER)
    ahead = builder.inttoptr(of.ahead, POINTER)
    sums = _sums(lanes, height, of.depth, partial(_steps, lanes, a, packed, ahead, product))
    with builder.if_else(builder.icmp_signed("!=", of.accumulate, constant(0))) as (then, otherwise):
        with then:
            _write(lanes, sums, of.c, of.c_stride, add=True)
        with otherwise:
            _write(lanes, sums, of.c, of.c_stride, add=False)


def _steps(
    lanes: Lanes, a: list[ir.Value], packed: ir.Value, ahead: ir.Value, product: Product, count: int
) -> Callable[..., list[Value]]:
    """What emits `count` steps of k for the rows at `a`: `body(k, *sums) -> sums`."""
    builder, vectors, vector_bytes = lanes.builder, target().tile_vectors, lanes.width * FLOAT_BYTES
    step_bytes = vectors * vector_bytes

    def body(k: ir.Value, *before: Value) -> list[Value]:
        b_at = builder.gep(packed, [builder.mul(k, constant(step_bytes))], source_etype=BYTE)
        k_bytes = builder.mul(k, constant(FLOAT_BYTES))
        a_at = [builder.gep(row, [k_bytes], source_etype=BYTE) for row in a]
        sums = list(before)
        for line in range(0, step_bytes if count == UNROLL else 0, CACHE_LINE):
            reached = builder.add(builder.mul(k, constant(step_bytes // UNROLL)), constant(line))
            lanes.prefetch(ahead, reached, LEVEL_2)
        for u in range(count):
            columns = [lanes.load(b_at, u * step_bytes + v * vector_bytes) for v in range(vectors)]
            for r, row in enumerate(a_at):
                value = lanes.broadcast(row, u * FLOAT_BYTES)
                for v, column in enumerate(columns):
                    sums[r * vectors + v] = product(lanes, value, column, sums[r * vectors + v])
        return sums

    return body


def _sums(
    lanes: Lanes, height: int, depth: ir.Value, steps: Callable[[int], Callable[..., list[Value]]]
) -> list[Value]:
    """The sums over all of k, row after row; from `HALVED` steps on those of its two halves, added.

    Both halves go through the same instructions. Where the first one's sums are kept is computed, so that they are kept
    in memory: a compiler that sees through it keeps them in registers, of which there are none left.
    """
    builder, vector_bytes = lanes.builder, lanes.width * FLOAT_BYTES
    zeros = [lanes.constant(0.0)] * (height * target().tile_vectors)
    with builder.goto_entry_block():
        kept = builder.alloca(lanes.type, size=2 * len(zeros))
    half = builder.and_(builder.ashr(depth, constant(1)), constant(-UNROLL))
    first_end = builder.select(builder.icmp_signed(">=", depth, constant(HALVED)), half, depth)
    entry, head = builder.block, builder.append_basic_block("half")
    builder.branch(head)
    builder.position_at_end(head)
    turn, start, end = (builder.phi(I64) for _ in range(3))
    for phi, value in ((turn, constant(0)), (start, constant(0)), (end, first_end)):
        phi.add_incoming(value, entry)
    whole = builder.and_(end, constant(-UNROLL))
    sums = loop(builder, start, whole, UNROLL, zeros, steps(UNROLL))
    sums = loop(builder, whole, end, 1, sums, steps(1))
    keep, last = (builder.append_basic_block(name) for name in ("keep", "last"))
    builder.cbranch(builder.icmp_signed("<", end, depth), keep, last)

    builder.position_at_end(keep)
    place = builder.gep(kept, [builder.mul(turn, constant(len(zeros)))], source_etype=lanes.type)
    for i, value in enumerate(sums):
        lanes.store(value, place, i * vector_bytes)
    for phi, value in ((turn, builder.add(turn, constant(1))), (start, end), (end, depth)):
        phi.add_incoming(value, keep)
    builder.branch(head)

    builder.position_at_end(last)
    both, after = (builder.append_basic_block(name) for name in ("both", "sums"))
    builder.cbranch(builder.icmp_signed("==", turn, constant(0)), after, both)
    builder.position_at_end(both)
    added = [value + lanes.load(kept, i * vector_bytes) for i, value in enumerate(sums)]
    builder.branch(after)
    builder.position_at_end(after)
    return [_merged(builder, (last, one), (both, two)) for one, two in zip(sums, added, strict=True)]


def _write(lanes: Lanes, sums: list[Value], c: ir.Value, c_stride: ir.Value, add: bool) -> None:
    """Emit the end of a tile: its sums to C, in the place of what is there or added to it."""
    vectors, vector_bytes = target().tile_vectors, lanes.width * FLOAT_BYTES
    row = lanes.builder.inttoptr(c, POINTER)
    for r in range(0, len(sums), vectors):
        for v, value in enumerate(sums[r : r + vectors]):
            lanes.store(lanes.load(row, v * vector_bytes) + value if add else value, row, v * vector_bytes)
        row = lanes.builder.gep(row, [c_stride], source_etype=BYTE)


@emitted(9)
def multiply_rows(builder: ir.IRBuilder, *arguments: ir.Value) -> None:
    """C (+)= A @ packed B for `count` rows of A and one panel of B, `depth` steps of k.

    The arguments are those of `Operands`; what lies behind the valid part of the table may be anything.
    """
    _multiply(builder, lambda lanes, a, b, c: lanes.fma(a, b, c), Operands(*arguments))


@emitted(9)
def multiply_pairs(builder: ir.IRBuilder, *arguments: ir.Value) -> None:
    """The same of pairs of bfloat16 values: each step of k takes two, which lie together in 4 bytes of A and of B."""
    _multiply(builder, lambda lanes, a, b, c: lanes.dot_pairs(a, b, c), Operands(*arguments))


def _multiply(builder: ir.IRBuilder, product: Product, of: Operands) -> None:
    """Emit the tiles of all rows, one below the other."""
    heights = sorted(target().tile_heights)  # lowest first
    entry = builder.block
    head, after = builder.append_basic_block("rows"), builder.append_basic_block("rows_done")
    builder.branch(head)
    builder.position_at_end(head)
    first = builder.phi(I64)
    first.add_incoming(constant(0), entry)
    turn = builder.phi(I64)
    turn.add_incoming(constant(0), entry)
    left = builder.sub(of.count, first)
    builder.cbranch(builder.icmp_signed(">", left, constant(0)), inside := builder.append_basic_block("tile"), after)
    builder.position_at_end(inside)
    for height in heights:
        if height != heights[-1]:
            this, other = (builder.append_basic_block(f"tile{height}") for _ in range(2))
            builder.cbranch(builder.icmp_signed("<=", left, constant(height)), this, other)
            builder.position_at_end(this)
        rows = builder.add(of.rows, builder.mul(first, constant(8)))
        c = builder.add(of.c, builder.mul(first, of.c_stride))
        quarter = builder.mul(of.depth, constant(target().tile_columns * FLOAT_BYTES // 4))
        ahead = builder.add(of.ahead, builder.mul(builder.and_(turn, constant(3)), quarter))
        _tile(builder, height, of._replace(rows=rows, c=c, ahead=ahead), product)
        turn.add_incoming(builder.add(turn, constant(1)), builder.block)
        first.add_incoming(builder.add(first, constant(height)), builder.block)
        builder.branch(head)
        if height != heights[-1]:
            builder.position_at_end(other)
    builder.position_at_end(after)
