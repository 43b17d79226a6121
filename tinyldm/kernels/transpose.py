"""A matrix written the other way round: rows of channels to columns of channels, and back.

    destination[j, i] = source[i, j] * factor[j]

Attention computes with queries side by side in the lanes of the vectors (`attention.py`), while a model's tokens have
their channels side by side. Reading or writing one value at a time in steps of a whole row would cost as much as a
tenth of the attention itself. Here a square of W x W values (W lanes) is read row by row, turned in registers and
written row by row: in each of log2(W) rounds, row i is interleaved with row i + W/2, lower halves first; after the
last round, the rows are the columns. Sizes that W does not divide take a last square that overlaps the one before.

Error: one rounding, of the product with the factor; none where it is 1.

Eklundh 1972, "A fast computer method for matrix transposing".
"""

from __future__ import annotations

from llvmlite import ir

from tinyldm.kernels.simd import FLOAT_BYTES, I32, Lanes, Value, constant, emitted, repeat, target


def _interleaved(a: Value, b: Value, half: int) -> Value:
    """The lower (`half` 0) or upper (1) halves of two vectors: a0 b0 a1 b1 …"""
    width = a.lanes.width
    first = half * (width // 2)
    order = [lane for i in range(first, first + width // 2) for lane in (i, width + i)]
    picked = a.lanes.builder.shuffle_vector(a.raw, b.raw, ir.Constant(ir.VectorType(I32, width), order))
    return Value(a.lanes, picked)


def turned(rows: list[Value]) -> list[Value]:
    """The columns of W vectors of W lanes."""
    half = len(rows) // 2
    for _ in range(half.bit_length()):
        rows = [_interleaved(rows[i], rows[i + half], which) for i in range(half) for which in (0, 1)]
    return rows


def _place(builder: ir.IRBuilder, start: ir.Value, pitch: ir.Value, row: ir.Value, column: ir.Value) -> ir.Value:
    """The address of a value of a matrix that lies at `start`."""
    at = builder.add(builder.mul(row, pitch), builder.mul(column, constant(FLOAT_BYTES)))
    return builder.add(start, at)


def _no_further(lanes: Lanes, index: ir.Value, count: ir.Value) -> ir.Value:
    """The index, or that of the last place from which there are W values to the end."""
    last = lanes.builder.sub(count, constant(lanes.width))
    return lanes.builder.select(lanes.builder.icmp_signed("<", index, last), index, last)


@emitted(8)
def transpose(
    builder: ir.IRBuilder,
    source: ir.Value,
    source_pitch: ir.Value,
    rows: ir.Value,
    destination: ir.Value,
    destination_pitch: ir.Value,
    columns: ir.Value,
    factors: ir.Value,
    factor_step: ir.Value,
) -> None:
    """Write `rows` x `columns` values the other way round; pitches are the bytes from row to row.

    Column j is multiplied by the value at `factors + j * factor_step`; with a step of 0, all columns by the W equal
    values at `factors`.
    """
    lanes = Lanes(builder, target().width)

    def factor(some: Lanes, column: ir.Value) -> Value:
        return some.load(factors, builder.mul(column, factor_step))

    def square(row: ir.Value, column: ir.Value) -> None:
        by = factor(lanes, column)
        read = _place(builder, source, source_pitch, row, column)
        values = []
        for _ in range(lanes.width):
            values.append(lanes.load(read) * by)
            read = builder.add(read, source_pitch)
        write = _place(builder, destination, destination_pitch, column, row)
        for value in turned(values):
            lanes.store(value, write)
            write = builder.add(write, destination_pitch)

    def band(row: ir.Value) -> None:
        def body(column: ir.Value) -> None:
            square(_no_further(lanes, row, rows), _no_further(lanes, column, columns))

        repeat(builder, constant(0), columns, lanes.width, body)

    def line(row: ir.Value) -> None:
        one = Lanes(builder, 1)

        def body(column: ir.Value) -> None:
            value = one.load(_place(builder, source, source_pitch, row, column)) * factor(one, column)
            one.store(value, _place(builder, destination, destination_pitch, column, row))

        repeat(builder, constant(0), columns, 1, body)

    width = constant(lanes.width)
    small = builder.or_(builder.icmp_signed("<", rows, width), builder.icmp_signed("<", columns, width))
    with builder.if_else(small) as (then, otherwise):
        with then:
            repeat(builder, constant(0), rows, 1, line)
        with otherwise:
            repeat(builder, constant(0), rows, lanes.width, band)
