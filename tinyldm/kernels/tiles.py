"""The matrix unit's product of bfloat16 pairs (Intel AMX): tiles of 16 rows of 64 bytes, in eight registers.

    C[0:16, 0:16] += A[0:16, 0:32] B[0:32, 0:16]

in one instruction, `tdpbf16ps`: A holds 32 values of k a row, B 16 rows of pairs of k by 16 columns. 32 rows by 32
columns of C stay in four registers while K runs, with two of A and two of B: four products for four loads. So the
packed panels are those of the vector instruction (`tile.multiply_pairs`), and the rows of A are read where they lie,
as long as they lie at one distance.

Error: the unit sums the products at even k of a tile and those at odd k apart, each in one chain of fused
multiply-adds from zero, in order; adds the two; and adds that to C. Each step rounds to nearest even; denormal numbers,
inputs and results, are zero. `tests/kernels/emulated_tiles.py` is that arithmetic, bit for bit, and on a processor
without the unit `tests/kernels/trapped_tiles.py` lets the instructions run.

Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18 (Intel AMX).
"""

from __future__ import annotations

import struct
from functools import partial

from llvmlite import ir

from tinyldm.kernels.simd import (
    BYTE,
    I64,
    POINTER,
    TILES,
    Lanes,
    Value,
    constant,
    declared,
    emitted,
    loop,
    target,
    unit,
)

HEIGHT = 16  # rows of a tile
STEPS = 16  # pairs of k in a tile
LINE = 64  # bytes of a row
C, A, B = (0, 1, 2, 3), (4, 5), (6, 7)  # the registers
# Palette 1; then of eight registers the bytes of a row, from byte 16 on, and the rows, from byte 48 on.
CONFIGURATION = struct.pack("<16B8H16x8B8x", 1, *[0] * 15, *[LINE] * 8, *[HEIGHT] * 8)


class Unit:
    """Emits the unit's instructions."""

    def __init__(self, builder: ir.IRBuilder) -> None:
        self.builder = builder

    def zero(self, tile: int) -> None:
        """All values of a register become 0."""
        self._emit("tilezero", ir.Constant(BYTE, tile))

    def load(self, tile: int, address: ir.Value, pitch: ir.Value) -> None:
        """Read a register's rows from memory, `pitch` bytes apart."""
        self._emit("tileloadd64", ir.Constant(BYTE, tile), self.builder.inttoptr(address, POINTER), pitch)

    def store(self, tile: int, address: ir.Value, pitch: ir.Value) -> None:
        """Write a register's rows to memory, `pitch` bytes apart."""
        self._emit("tilestored64", ir.Constant(BYTE, tile), self.builder.inttoptr(address, POINTER), pitch)

    def multiply(self, c: int, a: int, b: int) -> None:
        """Add the products of two registers to a third."""
        self._emit("tdpbf16ps", *[ir.Constant(BYTE, tile) for tile in (c, a, b)])

    def configure(self) -> None:
        """Give every register its full size; `release` ends it."""
        data = ir.Constant(ir.ArrayType(BYTE, len(CONFIGURATION)), bytearray(CONFIGURATION))
        memory = self.builder.alloca(data.type)
        memory.align = LINE
        self.builder.store(data, memory)
        self._emit("ldtilecfg", memory)

    def release(self) -> None:
        """The unit is as it was."""
        self._emit("tilerelease")

    def _emit(self, name: str, *arguments: ir.Value) -> None:
        kinds = [POINTER if isinstance(a.type, ir.PointerType) else a.type for a in arguments]
        self.builder.call(declared(self.builder.module, f"llvm.x86.{name}", ir.VoidType(), kinds), arguments)


@emitted(0)
def begin_products(builder: ir.IRBuilder) -> None:
    """Once a kernel and thread, before the first product of pairs."""
    if unit() == TILES:
        Unit(builder).configure()


@emitted(0)
def end_products(builder: ir.IRBuilder) -> None:
    """Once a kernel and thread, after the last one."""
    if unit() == TILES:
        Unit(builder).release()


def _begin(tiles: Unit, keep: ir.Value, places: list[tuple[int, ir.Value]], pitch: ir.Value) -> None:
    """Fill the registers of C with what is at their places, or with zeros."""
    with tiles.builder.if_else(keep) as (then, otherwise):
        with then:
            for tile, place in places:
                tiles.load(C[tile], place, pitch)
        with otherwise:
            for tile, _ in places:
                tiles.zero(C[tile])


def _offset(builder: ir.IRBuilder, address: ir.Value, row: ir.Value, distance: ir.Value, line: int = 0) -> ir.Value:
    """The address of a row, and of so many lines behind its first."""
    return builder.add(builder.add(address, builder.mul(row, distance)), constant(line * LINE))


@emitted(9)
def multiply_tiles(
    builder: ir.IRBuilder,
    rows: ir.Value,
    a_offset: ir.Value,
    b: ir.Value,
    c: ir.Value,
    c_stride: ir.Value,
    depth: ir.Value,
    accumulate: ir.Value,
    count: ir.Value,
    ahead: ir.Value,
) -> None:
    """`tile.multiply_pairs` by the matrix unit; whole tiles of rows are read and written.

    The rows of A lie at one distance, that of the table's first two; `depth` is a multiple of `STEPS`.
    """
    tiles, lanes = Unit(builder), Lanes(builder, target().width)
    panel = constant(2 * LINE)  # bytes of a row of B
    start, second = (builder.load(builder.inttoptr(builder.add(rows, constant(at)), POINTER), typ=I64) for at in (0, 8))
    pitch = builder.sub(second, start)
    keep = builder.icmp_signed("!=", accumulate, constant(0))

    offset = partial(_offset, builder)

    def block(first: ir.Value, heights: int) -> None:
        below = [builder.add(first, constant(i * HEIGHT)) for i in range(heights)]
        places = [(2 * i + j, offset(c, row, c_stride, j)) for i, row in enumerate(below) for j in range(2)]
        a = [offset(builder.add(start, a_offset), row, pitch) for row in below]
        _begin(tiles, keep, places, c_stride)
        quarter = builder.and_(builder.lshr(first, constant(5)), constant(3))
        asked = builder.add(ahead, builder.mul(quarter, builder.mul(depth, constant(2 * LINE // 4))))

        def step(k: ir.Value) -> list[Value]:
            for line in range(2 * STEPS // 4):
                lanes.prefetch(offset(asked, k, constant(2 * LINE // 4), line), 0, 2)
            for j in range(2):
                tiles.load(B[j], offset(b, k, panel, j), panel)
            for i in range(heights):
                tiles.load(A[i], offset(a[i], k, constant(4)), pitch)
                for j in range(2):
                    tiles.multiply(C[2 * i + j], A[i], B[j])
            return []

        loop(builder, constant(0), depth, STEPS, [], step)
        for tile, place in places:
            tiles.store(C[tile], place, c_stride)

    def rows_from(first: ir.Value) -> list[Value]:
        both = builder.icmp_signed(">", builder.sub(count, first), constant(HEIGHT))
        with builder.if_else(both) as (then, otherwise):
            with then:
                block(first, 2)
            with otherwise:
                block(first, 1)
        return []

    loop(builder, constant(0), count, 2 * HEIGHT, [], rows_from)
