r"""Products of bfloat16 values, for `precision="bf16"`: what is rounded and packed before them, and who computes.

Weights and the inputs of every product are rounded to bfloat16 once, to the nearest, ties to even; sums, norms,
softmax, residuals, and the products of vectors of one a sample (the time embedding) stay float32. That is more exact
than to keep all activations in bfloat16, as others do.

Where the processor multiplies **pairs** of bfloat16 values (`simd.unit`), both sides of a product are packed as pairs:
two neighbouring steps of k lie together in 4 bytes. Elsewhere the values are **widened** to float32 again, and go
through the float32 tile: weights take half the memory, and no less time.

Error: of a product a b, (2 * 2^-9 + 2^-18) |a b|, at random over a sum: about 2.4e-3 of the result, RMS, whatever its
length; then that of the float32 sum. The units take denormal numbers for zero: at most 2^-126 (|a| + |b|) a product.

Intel, "BFLOAT16 hardware numerics definition", 2018.
"""

from __future__ import annotations

from llvmlite import ir

from tinyldm.kernels.compile import stage
from tinyldm.kernels.simd import (
    DOTS,
    FLOAT_BYTES,
    I16,
    POINTER,
    TILES,
    WIDENED,
    Lanes,
    constant,
    emitted,
    for_lanes,
    repeat,
    target,
    unit,
)
from tinyldm.kernels.tile import multiply_pairs, multiply_rows
from tinyldm.kernels.tiles import multiply_tiles

VALUES_A_STEP = 1 if unit() == WIDENED else 2  # of k, in a step of the product
STEP_MULTIPLE = 16 if unit() == TILES else 1  # a sum has so many steps, or a multiple of it, filled up with zeros
ROW_MULTIPLE = 16 if unit() == TILES else target().tile_rows  # of rows that the product writes

multiply_rounded = {TILES: multiply_tiles, DOTS: multiply_pairs, WIDENED: multiply_rows}[unit()]


def steps_of(count: int) -> int:
    """The steps of a product over so many values of k."""
    return (count + VALUES_A_STEP * STEP_MULTIPLE - 1) // (VALUES_A_STEP * STEP_MULTIPLE) * STEP_MULTIPLE


steps_within = stage(steps_of)  # the same, inside a kernel


@emitted(3)
def round_row(builder: ir.IRBuilder, source: ir.Value, destination: ir.Value, count: ir.Value) -> None:
    """destination = source rounded to bfloat16, as float32."""
    _round_row(builder, source, destination, count)


def _round_row(builder: ir.IRBuilder, source: ir.Value, destination: ir.Value, count: ir.Value) -> None:
    def body(lanes: Lanes, at: ir.Value) -> None:
        lanes.store(lanes.from_bits(lanes.nearest_bfloat16(lanes.load(source, at))), destination, at)

    for_lanes(builder, count, body)


@emitted(3)
def widen_row(builder: ir.IRBuilder, source: ir.Value, destination: ir.Value, count: ir.Value) -> None:
    """destination = the float32 values of `count` bfloat16 numbers."""

    def body(lanes: Lanes, at: ir.Value) -> None:
        lanes.store(lanes.load_bfloat16(source, builder.lshr(at, constant(1))), destination, at)

    for_lanes(builder, count, body)


@emitted(3)
def widen_float16_row(builder: ir.IRBuilder, source: ir.Value, destination: ir.Value, count: ir.Value) -> None:
    """destination = the float32 values of `count` float16 numbers."""

    def body(lanes: Lanes, at: ir.Value) -> None:
        lanes.store(lanes.load_float16(source, builder.lshr(at, constant(1))), destination, at)

    for_lanes(builder, count, body)


@emitted(3)
def narrow_row(builder: ir.IRBuilder, source: ir.Value, destination: ir.Value, count: ir.Value) -> None:
    """destination = source rounded to bfloat16, 2 bytes each."""
    _narrow_row(builder, source, destination, count)


def _narrow_row(builder: ir.IRBuilder, source: ir.Value, destination: ir.Value, count: ir.Value) -> None:
    def body(lanes: Lanes, at: ir.Value) -> None:
        half = lanes.narrow(lanes.load(source, at))
        place = builder.add(destination, builder.lshr(at, constant(1)))
        builder.store(half, builder.inttoptr(place, POINTER), align=2)

    for_lanes(builder, count, body)


@emitted(4)
def pair_row(builder: ir.IRBuilder, first: ir.Value, second: ir.Value, destination: ir.Value, count: ir.Value) -> None:
    """destination = pairs of two rows' values, both rounded to bfloat16."""

    def body(lanes: Lanes, at: ir.Value) -> None:
        lanes.store(lanes.pair(lanes.load(first, at), lanes.load(second, at)), destination, at)

    for_lanes(builder, count, body)


@emitted(4)
def pack_row(builder: ir.IRBuilder, source: ir.Value, destination: ir.Value, count: ir.Value, steps: ir.Value) -> None:
    """A row of A: `count` float32 values rounded, for `steps` steps of the product; what is left over is zero.

    Source and destination may be the same.
    """
    if unit() == WIDENED:
        _round_row(builder, source, destination, count)
        return

    _narrow_row(builder, source, destination, count)

    def zero(index: ir.Value) -> None:
        place = builder.add(destination, builder.shl(index, constant(1)))
        builder.store(ir.Constant(I16, 0), builder.inttoptr(place, POINTER), align=2)

    repeat(builder, count, builder.shl(steps, constant(1)), 1, zero)


@emitted(3)
def pack_panel(builder: ir.IRBuilder, panel: ir.Value, count: ir.Value, steps: ir.Value) -> None:
    """A panel of B, in place: `count` rows of float32 values rounded, for `steps` steps of the product.

    Pairs are of row 2i and row 2i + 1, column by column; rows from `count` on are zero.
    """
    lanes = Lanes(builder, target().width)
    row_bytes = target().tile_columns * FLOAT_BYTES
    places = range(0, row_bytes, lanes.width * FLOAT_BYTES)

    def row(index: ir.Value) -> ir.Value:
        return builder.add(panel, builder.mul(index, constant(row_bytes)))

    def zero(index: ir.Value) -> None:
        for place in places:
            lanes.store(lanes.constant(0.0), row(index), place)

    def step(index: ir.Value) -> None:
        for place in places:
            if VALUES_A_STEP == 1:
                rounded = lanes.from_bits(lanes.nearest_bfloat16(lanes.load(row(index), place)))
            else:
                first = builder.shl(index, constant(1))
                rounded = lanes.pair(*(lanes.load(row(builder.add(first, constant(i))), place) for i in (0, 1)))
            lanes.store(rounded, row(index), place)

    repeat(builder, count, builder.mul(steps, constant(VALUES_A_STEP)), 1, zero)
    repeat(builder, constant(0), steps, 1, step)
