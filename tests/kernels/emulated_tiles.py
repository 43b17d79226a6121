"""The matrix unit's arithmetic, bit for bit: in NumPy, and as instructions for a processor that has no such unit.

`product` is what `tdpbf16ps` was found to compute on a processor that has it. `EmulatedUnit` emits the same in the
place of the instructions of `tinyldm.kernels.tiles`, so that all code around them runs, and is held to `product`.
"""

from __future__ import annotations

import sys
import types

import numpy as np
from llvmlite import ir

DEPTH = 32  # values of k in a tile


def flushed(x):
    """Denormal numbers as zero, with their sign."""
    return np.where(np.abs(x) < np.float32(2.0**-126), np.copysign(np.float32(0), x), x).astype(np.float32)


def fused(a, b, c):
    """a * b + c, rounded once: the product of two bfloat16 is exact in float64, the sum in a longer type."""
    exact = np.longdouble(1) * (a.astype(np.float64) * b.astype(np.float64)) + c
    return flushed(exact.astype(np.float32))


def product(a, b, c=None):
    """`c + a @ b` as the unit adds, tile by tile of k: `(M, K), (K, N)` float32 that are bfloat16 values."""
    m, k = a.shape
    whole = -(-k // DEPTH) * DEPTH
    a = flushed(np.pad(a, ((0, 0), (0, whole - k))))
    b = flushed(np.pad(b, ((0, whole - k), (0, 0))))
    total = np.zeros((m, b.shape[1]), np.float32) if c is None else flushed(c)
    with np.errstate(all="ignore"):
        for first in range(0, whole, DEPTH):
            chains = []
            for parity in (0, 1):
                chain = np.zeros_like(total)
                for i in range(first + parity, first + DEPTH, 2):
                    chain = fused(a[:, i : i + 1], b[i : i + 1], chain)
                chains.append(chain)
            total = flushed(total + flushed(chains[0] + chains[1]))
    return total


class EmulatedUnit:
    """`tinyldm.kernels.tiles.Unit` in ordinary instructions; the registers are memory of the function."""

    def __init__(self, builder):
        from tinyldm.kernels.simd import Lanes

        self.builder, self.lanes = builder, Lanes(builder, 16)
        with builder.goto_entry_block():
            self.registers = builder.alloca(self.lanes.type, size=8 * 16)

    def _row(self, tile, row):
        from tinyldm.kernels.simd import I32, constant

        index = self.builder.add(row, constant(16 * tile)) if isinstance(row, ir.Value) else constant(16 * tile + row)
        assert I32 is not None
        return self.builder.ptrtoint(self.builder.gep(self.registers, [index]), ir.IntType(64))

    def zero(self, tile):
        for row in range(16):
            self.lanes.store(self.lanes.constant(0.0), self._row(tile, row))

    def _places(self, address, pitch):
        from tinyldm.kernels.simd import constant

        return [self.builder.add(address, self.builder.mul(pitch, constant(row))) for row in range(16)]

    def load(self, tile, address, pitch):
        for row, place in enumerate(self._places(address, pitch)):
            self.lanes.store(self.lanes.load(place), self._row(tile, row))

    def store(self, tile, address, pitch):
        for row, place in enumerate(self._places(address, pitch)):
            self.lanes.store(self.lanes.load(self._row(tile, row)), place)

    def _flushed(self, value):
        builder, lanes = self.builder, self.lanes
        bits = builder.bitcast(value.raw, lanes.integers)
        exponent = builder.and_(bits, ir.Constant(lanes.integers, [0x7F800000] * 16))
        sign = builder.and_(bits, ir.Constant(lanes.integers, [-0x80000000] * 16))
        none = builder.icmp_unsigned("==", exponent, ir.Constant(lanes.integers, [0] * 16))
        return lanes.from_bits(builder.select(none, sign, bits))

    def _halves(self, pairs):
        """The values at even and odd k of a vector of pairs."""
        builder, lanes = self.builder, self.lanes
        bits = builder.bitcast(pairs.raw, lanes.integers)
        even = builder.shl(bits, ir.Constant(lanes.integers, [16] * 16))
        odd = builder.and_(bits, ir.Constant(lanes.integers, [-0x10000] * 16))
        return [self._flushed(lanes.from_bits(half)) for half in (even, odd)]

    def multiply(self, c, a, b):
        from tinyldm.kernels.simd import constant, loop

        lanes = self.lanes

        def row(index):
            chains = [lanes.constant(0.0), lanes.constant(0.0)]
            for k in range(16):
                pair = self._halves(lanes.broadcast(self._row(a, index), 4 * k))
                column = self._halves(lanes.load(self._row(b, k)))
                chains = [self._flushed(lanes.fma(x, y, z)) for x, y, z in zip(pair, column, chains, strict=True)]
            both = self._flushed(chains[0] + chains[1])
            place = self._row(c, index)
            lanes.store(self._flushed(self._flushed(lanes.load(place)) + both), place)
            return []

        loop(self.builder, constant(0), constant(16), 1, [], row)

    def configure(self):
        pass

    def release(self):
        pass


def pretend():
    """Have the kernels take this processor for one with the unit; before anything of them is imported."""
    import llvmlite.binding as llvm

    real = llvm.get_host_cpu_features

    class Features(dict):
        flatten = lambda self: real().flatten()  # noqa: E731  (for LLVM: what the processor has)

    there = {"avx512f": True, "amx-tile": True, "amx-bf16": True}
    llvm.get_host_cpu_features = lambda: Features({**real(), **there})
    granted = types.ModuleType("tinyldm.kernels.permission")
    granted.permitted = lambda: True
    sys.modules[granted.__name__] = granted
    from tinyldm.kernels import simd

    assert simd.unit() == simd.TILES


def install():
    """Have the kernels take this for the unit; before anything of them is imported."""
    pretend()
    from tinyldm.kernels import tiles

    tiles.Unit = EmulatedUnit
